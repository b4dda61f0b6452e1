"""Style, refusal, truncation and language, as tables of (response, expected)."""

import sys
from typing import Any

import pytest

import rmbatch
from connectors.errors import UserError

ENGLISH = "The weather is rather nice today, is it not? We should all go for a walk in the park."
FRENCH = "Il fait très beau aujourd'hui, et nous devrions tous aller nous promener dans le parc."


def result(name: str, response: str | None, **knobs: Any) -> Any:
    return rmbatch.reward(name, **knobs).evaluate({"response": response})


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
    assert result(name, response).score == expected


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
    given = result("no_refusal", response)
    assert given.score == expected
    assert (given.reason is not None) == (expected == 0.0)


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("All done.", None),
        ("42", None),
        ("# A title", None),
        ("これは長い文章です。終わりました。", None),
        ("- a list item that is rather long but has no full stop at all", None),
        ("```\nx\n```", None),
        ("and then we multiply the first number by the second one and", "the last line ends without punctuation"),
        ("```python\nx", "a code block is not closed"),
        ("<think>so.", "<think> is not closed"),
        ("so $$x + 1", "$$ is not closed"),
        (" \n", "empty"),
        ("", "empty"),
    ],
)
def test_not_truncated(response: str, reason: str | None) -> None:
    given = result("not_truncated", response)
    assert (given.score, given.reason) == (float(reason is None), reason)
    assert result("not_truncated", None).score is None


@pytest.mark.parametrize(
    ("response", "knobs", "expected"),
    [
        (ENGLISH, {}, 1.0),
        (FRENCH, {}, 0.0),
        (FRENCH, {"language": "fr"}, 1.0),
        ("Hello there, friend", {"candidates": ("en", "fr")}, 1.0),  # short: among few languages
        ("", {}, 0.0),
        ("42", {}, None),
        (None, {}, None),
    ],
)
def test_language_match(response: str | None, knobs: dict[str, Any], expected: float | None) -> None:
    assert result("language_match", response, **knobs).score == expected


@pytest.mark.parametrize(
    ("prompt", "response", "expected", "code"),
    [
        (ENGLISH, ENGLISH, 1.0, None),
        (ENGLISH, FRENCH, 0.0, None),
        (
            [
                {"role": "user", "content": ENGLISH},
                {"role": "assistant", "content": ENGLISH},
                {"role": "user", "content": FRENCH},
            ],
            FRENCH,
            1.0,
            None,
        ),  # the last message of the user
        (ENGLISH, "", 0.0, None),
        (ENGLISH, "42", None, "undetermined"),
        ("2 + 2", ENGLISH, None, "undetermined"),
        ([{"role": "assistant", "content": ENGLISH}], ENGLISH, None, "undetermined"),
        (None, ENGLISH, None, "missing_prompt"),
    ],
)
def test_language_consistency(prompt: Any, response: str, expected: float | None, code: str | None) -> None:
    given = rmbatch.reward("language_consistency").evaluate({"prompt": prompt, "response": response})
    assert given.score == expected
    assert (None if given.error is None else given.error.split(":")[0]) == code


def test_a_language_that_is_not_known_or_a_missing_library_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="language='xx'"):
        rmbatch.reward("language_match", language="xx")
    with pytest.raises(UserError, match="no language 'xx'"):
        rmbatch.reward("language_consistency", candidates=("xx",))
    from rmbatch.rewards.rules.language import identifier

    identifier.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(UserError, match=r"pip install 'rmbatch\[rules\]'"):
        rmbatch.reward("language_match")
