"""How much emoji, Markdown and lists a response has, as a table of (reward, response, expected)."""

import pytest

import rmbatch


@pytest.mark.parametrize(
    ("name", "response", "expected"),
    [
        ("emoji_density", "a 👍 b", 200.0),
        ("emoji_density", "👩‍👩‍👧🇫🇷", 2000 / 7),  # a family and a flag, in seven code points
        ("emoji_density", "👍🏽", 500.0),  # a skin tone is no emoji of its own
        ("emoji_density", "☀️", 500.0),
        ("emoji_density", "© 1 # *", 0.0),
        ("emoji_density", "", 0.0),
        ("emoji_density", None, None),
        ("markdown_density", "# H\n**b** c\n- x\n1. y", 200.0),
        ("markdown_density", "#hash 2*3*4 -5", 0.0),
        ("markdown_density", "", 0.0),
        ("markdown_density", None, None),
        ("list_density", "Two:\n\n- a\n  * b\n3) c\nend", 0.6),
        ("list_density", "-5 and 3.5\n**bold**", 0.0),
        ("list_density", "", 0.0),
        ("list_density", None, None),
    ],
)
def test_density(name: str, response: str | None, expected: float | None) -> None:
    assert rmbatch.reward(name).evaluate({"response": response}).score == expected
