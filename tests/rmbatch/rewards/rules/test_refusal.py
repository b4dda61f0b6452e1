"""Refusals, as a table of (response, expected)."""

import pytest

import rmbatch


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("I'm sorry, but I can't help with that.", 0.0),
        ("I cannot assist with this request.", 0.0),
        ("Unfortunately, I won't be able to provide that.", 0.0),
        ("As an AI, I am unable to do so.", 0.0),
        ("I must respectfully decline.", 0.0),
        ("That goes against my guidelines.", 0.0),
        ("抱歉，我无法提供帮助。", 0.0),
        ("Lo siento, pero no puedo ayudarte.", 0.0),
        ("I can't believe it! Let me help.", 1.0),
        ("Sure, here it is.", 1.0),
        ("<think>I can't help with that, can I?</think>Sure.", 1.0),  # thoughts do not count
        ("x" * 500 + " I cannot help", 1.0),  # not at the beginning
        ("", 1.0),
        (None, None),
    ],
)
def test_no_refusal(response: str | None, expected: float | None) -> None:
    given = rmbatch.reward("no_refusal").evaluate({"response": response})
    assert given.score == expected
    assert (given.reason is not None) == (expected == 0.0)
