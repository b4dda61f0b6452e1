"""The language of a response, as tables of (response, expected)."""

import sys
from typing import Any

import pytest

import rmbatch
from connectors.errors import UserError

ENGLISH = "The weather is rather nice today, is it not? We should all go for a walk in the park."
FRENCH = "Il fait très beau aujourd'hui, et nous devrions tous aller nous promener dans le parc."


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
    assert rmbatch.reward("language_match", **knobs).evaluate({"response": response}).score == expected


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


def test_unknown_language_or_missing_library_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="language='xx'"):
        rmbatch.reward("language_match", language="xx")
    with pytest.raises(UserError, match="no language 'xx'"):
        rmbatch.reward("language_consistency", candidates=("xx",))
    from rmbatch.rewards.rules.language import load_identifier

    load_identifier.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(UserError, match=r"pip install 'rmbatch\[rules\]'"):
        rmbatch.reward("language_match")
