"""Rewards for the language of a response: ``language_match`` and ``language_consistency``, by py3langid.

It gives ISO 639-1 codes ("en", "zh") and needs no download. On short texts it errs often: name the ``candidates``.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from connectors.errors import UserError
from rmbatch.rewards.contract import Scores, reward
from rmbatch.rewards.rules.texts import RowScore, map_texts, to_scores
from rmbatch.settings.extras import require
from rmbatch.settings.names import nearest

Code = Annotated[str, Field(pattern="^[a-z]{2,3}$")]
FEWEST_LETTERS = 8
"""With fewer letters no language is given: for "ok" or "42" it would be a guess."""
MOST_CHARACTERS = 20_000
"""Characters at the beginning of a text that are read."""


@reward("language_match")
class LanguageMatch:
    """1.0 where the response is written in ``language``, else 0.0.

    response[n] text -> score[n] float64 in {0, 1}; the reason is the language found, of the first 20,000 characters.
    ``candidates`` are the languages to tell apart, all of the model's by default. An empty text is in none: 0.0.
    Null response: null. Null with a code: ``undetermined``, it has fewer than 8 letters. UserError where py3langid is
    not installed or does not know a language.
    Source: py3langid, https://github.com/adbar/py3langid, after Lui and Baldwin, https://aclanthology.org/P12-3005.
    """

    def __init__(self, *, language: Code = "en", candidates: tuple[Code, ...] = ()) -> None:
        self._language = language
        self._identify = load_identifier((*candidates, *([language] if candidates else [])))
        if language not in self._identify.labels:
            raise UserError(f"language_match: {language=}: {nearest(language, self._identify.labels)}")

    def __call__(self, response: pa.Array) -> Scores:
        return to_scores(map_texts(response, self._score))

    def _score(self, text: str) -> RowScore:
        if not text.strip():
            return 0.0, None, "empty"
        found = identify_language(text, self._identify)
        if found is None:
            return UNDETERMINED
        return float(found == self._language), None, found


@reward("language_consistency")
class LanguageConsistency:
    """1.0 where the response is written in the language of the last message of the prompt's user, else 0.0.

    prompt[n] messages, response[n] text -> score[n] float64 in {0, 1}; the reason is both languages. ``candidates`` are
    the languages to tell apart, all of the model's by default. An empty response is in none: 0.0.
    Null prompt or response: null. Null with a code: ``undetermined``, one of the two has fewer than 8 letters, or no
    user speaks. UserError where py3langid is not installed or does not know a language.
    Source: the language consistency reward of DeepSeek-R1, arXiv 2501.12948, by whole texts.
    """

    def __init__(self, *, candidates: tuple[Code, ...] = ()) -> None:
        self._identify = load_identifier(candidates)

    def __call__(self, prompt: pa.Array, response: pa.Array) -> Scores:
        asked = lru_cache(maxsize=1024)(self._language)  # the candidates of a prompt share it
        scores = [
            None if messages is None or text is None else self._score(asked(_last_user_text(messages)), text)
            for messages, text in zip(prompt.to_pylist(), response.to_pylist())
        ]
        return to_scores(scores)

    def _language(self, text: str) -> str | None:
        return identify_language(text, self._identify)

    def _score(self, asked: str | None, text: str) -> RowScore:
        if asked is None:
            return UNDETERMINED
        if not text.strip():
            return 0.0, None, f"asked in {asked}, empty"
        found = self._language(text)
        return (
            UNDETERMINED if found is None else (float(found == asked), None, f"asked in {asked}, answered in {found}")
        )


UNDETERMINED: RowScore = (None, f"undetermined: fewer than {FEWEST_LETTERS} letters", None)


def identify_language(text: str, identify: Any) -> str | None:
    """The code of the language of a text, None where it has too few letters."""
    text = text[:MOST_CHARACTERS]
    if sum(map(str.isalpha, text)) < FEWEST_LETTERS:
        return None
    code: str = identify.classify(text)[0]
    return code


@lru_cache(maxsize=8)
def load_identifier(candidates: Sequence[str] = ()) -> Any:
    """py3langid's identifier for these languages; for all of its languages where none are given."""
    require("rules", "telling languages", "py3langid")
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    made = LanguageIdentifier.from_model_file(MODEL_FILE)
    unknown = [code for code in candidates if code not in made.labels]
    if unknown:
        raise UserError(f"candidates: no language {unknown[0]!r}; {nearest(unknown[0], made.labels)}")
    if candidates:
        made.set_languages(list(dict.fromkeys(candidates)))
    return made


def _last_user_text(messages: list[dict[str, Any]]) -> str:
    said = (message["content"] for message in reversed(messages) if message["role"] == "user")
    return next(said, None) or ""
