"""Edits that are thrown away before they cost a score: each with its code.

    guards = Guards(GuardSpec())
    guards.find_fault("it is 4", best="it is 4", ...)          # "copy: it is the best text so far"

They compare an edit with the best text so far. ``tried`` holds texts as ``normalize`` gives them.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

import orjson

from rmbatch.correction.spec import GuardSpec

CODES = (
    *("empty", "cut_off", "copy", "near_copy", "duplicate", "refusal", "language_changed", "format_lost"),
    *("too_short", "too_long"),
)
"""The codes of guards, which are part of the output and stay as they are."""
EMPTY = "empty: nothing was written"
SHORT_TEXT = 200
"""Characters below which the length of a text says nothing."""
MOST_CHARACTERS = 4_000
"""Characters at the beginning of a text whose letters are looked at."""
FEWEST_LETTERS = 20
CLEAR_SHARE = 0.7
"""The share of letters of one script from which a text is said to be written in it."""
KANA_SHARE = 0.1
_NOT_LANGUAGE = re.compile(r"```.*?```|\$\$.*?\$\$|\$[^$\n]*\$|\\[A-Za-z]+|`[^`\n]*`|</?\w+>", re.DOTALL)
_TAGS = "think|thinking|reasoning|answer|final_answer|solution|result|output|response|tool_call"
_TAG = re.compile(rf"<({_TAGS})>.*?</\1>", re.DOTALL)


class Guards:
    """The guards of a job."""

    def __init__(self, spec: GuardSpec) -> None:
        """Raises UserError where telling languages by words needs a package that is missing."""
        self._spec = spec
        if spec.language == "words":
            from rmbatch.rewards.rules.language import load_identifier

            load_identifier()

    def find_refusals(self, texts: Collection[str]) -> dict[str, str]:
        """The texts that refuse, with the phrase by which they do; empty where that is not looked at."""
        return find_refusals(list(dict.fromkeys(texts))) if self._spec.refusal else {}

    def find_fault(
        self,
        text: str | None,
        *,
        is_cut_off: bool,
        best: str | None,
        prompt: str,
        tried: Collection[str],
        refusals: Mapping[str, str],
    ) -> str | None:
        """Why an edit is thrown away, as ``stable_code: message``; None if it is not.

        ``refusals``: of the edit and the best text, as ``find_refusals`` gives them.
        """
        if text is None or not text.strip():
            return EMPTY
        if is_cut_off:
            return "cut_off: it ended at max_tokens"
        if best is not None and (copy := self._find_copy(text, best)) is not None:
            return copy
        if normalize(text) in tried:
            return "duplicate: it was tried before"
        if text in refusals and best not in refusals:
            return f"refusal: {refusals[text]}"
        return self._find_difference(text, best or "", prompt)

    def _find_copy(self, text: str, best: str) -> str | None:
        if normalize(text) == normalize(best):
            return "copy: it is the best text so far"
        if self._spec.near_copy is not None:
            from rapidfuzz.distance import Levenshtein

            likeness = Levenshtein.normalized_similarity(text, best, score_cutoff=self._spec.near_copy)
            if likeness >= self._spec.near_copy:
                return f"near_copy: it is to {likeness:.1%} the best text so far"
        return None

    def _find_difference(self, text: str, best: str, prompt: str) -> str | None:
        spec = self._spec
        if spec.length is not None and best.strip():
            low, high = spec.length
            ratio = len(text) / max(len(best), SHORT_TEXT)
            if ratio > high:
                return f"too_long: {len(text):,} characters in place of {len(best):,}"
            if ratio < low and len(best) >= SHORT_TEXT:
                return f"too_short: {len(text):,} characters in place of {len(best):,}"
        if spec.format and (lost := find_forms(best) - find_forms(text)):
            return f"format_lost: {', '.join(sorted(lost))}"
        return None if spec.language is None else self._find_other_language(text, best, prompt)

    def _find_other_language(self, text: str, best: str, prompt: str) -> str | None:
        """A language that is neither the best text's nor the prompt's, which may ask for another one."""
        by_script = self._spec.language == "script"
        tell = find_script if by_script else find_language
        old, new = tell(best), tell(text)
        if old is None or new is None or new == old:
            return None
        if new in (find_all_scripts(prompt) if by_script else {find_language(prompt)}):
            return None
        return f"language_changed: {new} in place of {old}"


def normalize(text: str) -> str:
    """The text without white space at the ends of its lines, and without empty lines."""
    lines = (line.rstrip() for line in text.strip().splitlines())
    return "\n".join(line for line in lines if line)


def find_forms(text: str) -> set[str]:
    """The forms that a text is written in, which an edit must keep."""
    found = {f"<{tag}>" for tag in _TAG.findall(text)}
    if "```" in text:
        found.add("a code block")
    if "\\boxed{" in text:
        found.add("\\boxed{}")
    if text.lstrip()[:1] in ("{", "[") and _is_json(text):
        found.add("JSON")
    return found


@lru_cache(maxsize=4096)
def find_script(text: str) -> str | None:
    """The script of most letters of a text, such as LATIN or CJK, without code and formulas; None if it is unclear."""
    counts = _count_scripts(text)
    num_letters = counts.total()
    if num_letters < FEWEST_LETTERS:
        return None
    if counts["KANA"] >= KANA_SHARE * num_letters:
        return "JAPANESE"
    script, most = counts.most_common(1)[0]
    return script if most >= CLEAR_SHARE * num_letters else None


def find_all_scripts(text: str) -> set[str]:
    """The scripts of which a text has letters."""
    found = {script for script, count in _count_scripts(text).items() if count > 1}
    return found | ({"JAPANESE"} if "KANA" in found else set())


def find_language(text: str) -> str | None:
    """The ISO 639-1 code of a text's language by its words; None if it has too few letters."""
    from rmbatch.rewards.rules.language import identify_language, load_identifier

    plain = _NOT_LANGUAGE.sub(" ", text)
    if sum(map(str.isalpha, plain[:MOST_CHARACTERS])) < FEWEST_LETTERS:
        return None
    return identify_language(plain, load_identifier())


def find_refusals(texts: Sequence[str]) -> dict[str, str]:
    """The texts that refuse, with the phrase by which they do."""
    import pyarrow as pa

    from rmbatch.rewards.rules.refusal import no_refusal

    found = no_refusal(pa.array(texts, pa.large_string())).reason
    phrases = [None] * len(texts) if found is None else found.to_pylist()
    return {text: phrase for text, phrase in zip(texts, phrases) if phrase is not None}


def _count_scripts(text: str) -> Counter[str]:
    letters = (each for each in _NOT_LANGUAGE.sub(" ", text[:MOST_CHARACTERS]) if each.isalpha())
    return Counter(map(_script_of, letters))


@lru_cache(maxsize=65_536)
def _script_of(letter: str) -> str:
    name = unicodedata.name(letter, "UNKNOWN").partition(" ")[0]
    return "KANA" if name in ("HIRAGANA", "KATAKANA") else name


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
