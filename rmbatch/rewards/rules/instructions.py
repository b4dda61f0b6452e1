"""Checks of IFEval's instructions: a function for each, which says whether a text follows it.

``constraints.py`` makes rewards of them. The arguments have the names of IFEval's data. Each check takes linear time;
IFEval's own regular expressions may not.

    CHECKS["length_constraints:number_words"]("two words", num_words=2, relation="at least")    # True
"""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import Any

import orjson

Check = Callable[..., bool]
Relation = str
"""``less than`` or ``at least``."""

_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|$)|[。！？]+")
_ABBREVIATIONS = {
    *("mr.", "mrs.", "ms.", "dr.", "prof.", "st.", "jr.", "sr.", "vs.", "etc.", "e.g.", "i.e.", "cf.", "fig.", "no."),
    *("vol.", "approx.", "inc.", "ltd.", "co.", "u.s.", "u.k.", "a.m.", "p.m."),
}
_HIGHLIGHT = re.compile(r"\*([^\n*]+)\*")
_BOLD = re.compile(r"\*\*([^\n*]+)\*\*")
_CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_JSON_FENCES = ("```json", "```Json", "```JSON", "```")
_PUNCTUATION = frozenset(".,?!'\"")


def count_words(text: str) -> int:
    """Runs of letters, digits and underscores, as IFEval counts words."""
    return len(_WORD.findall(text))


def count_sentences(text: str) -> int:
    """Sentences, counted by their end marks; a rest without a mark counts too, and common abbreviations end none."""
    number, start = 0, 0
    for end in _SENTENCE_END.finditer(text):
        words = text[max(start, end.end() - 8) : end.end()].split()
        if words and words[-1].lower() in _ABBREVIATIONS:
            continue
        number, start = number + 1, end.end()
    return number + bool(text[start:].strip())


def count_paragraphs(text: str) -> int:
    """Paragraphs, separated by blank lines."""
    return sum(1 for part in re.split(r"\n[ \t]*\n", text) if part.strip())


def count_bullets(text: str) -> int:
    """Lines that begin with ``-``, or with one ``*``."""
    lines = (line.lstrip() for line in text.split("\n"))
    return sum(line.startswith("-") or (line.startswith("*") and not line.startswith("**")) for line in lines)


def has_word(text: str, word: str) -> bool:
    """Whether the word stands in the text as a word, in any case."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def contains(text: str, keyword: str) -> bool:
    """Whether the keyword stands anywhere in the text, in any case."""
    return keyword.casefold() in text.casefold()


def is_json(text: str) -> bool:
    """Whether the text is JSON, or one fenced block of it."""
    text = text.strip()
    for fence in _JSON_FENCES:
        text = text.removeprefix(fence)
    try:
        orjson.loads(text.removesuffix("```").strip())
    except orjson.JSONDecodeError:
        return False
    return True


def _holds(number: int, relation: Relation, bound: int) -> bool:
    if relation not in ("less than", "at least"):
        raise ValueError(f"relation={relation!r}: 'less than' or 'at least'")
    return number < bound if relation == "less than" else number >= bound


def _number_words(text: str, *, num_words: int, relation: Relation) -> bool:
    return _holds(count_words(text), relation, num_words)


def _number_sentences(text: str, *, num_sentences: int, relation: Relation) -> bool:
    return _holds(count_sentences(text), relation, num_sentences)


def _number_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """Whether there are so many paragraphs, separated by ``***``."""
    parts = [part.strip() for part in text.split("***")]
    if any(not part for part in parts[1:-1]):
        return False
    return len(parts) - (not parts[0]) - (len(parts) > 1 and not parts[-1]) == num_paragraphs


def _nth_paragraph_first_word(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """As in IFEval, the number of paragraphs leaves out empty ones, and the index counts them."""
    parts = text.split("\n\n")
    number = sum(1 for part in parts if part.strip())
    if not 1 <= nth_paragraph <= number:
        return False
    words = parts[nth_paragraph - 1].split(maxsplit=1)
    word = words[0].lstrip("'").lstrip('"') if words else ""
    word = "".join(takewhile(lambda letter: letter not in _PUNCTUATION, word)).lower()
    return number == num_paragraphs and bool(word) and word == first_word.lower()


def _existence(text: str, *, keywords: Sequence[str]) -> bool:
    folded = text.casefold()
    return all(keyword.casefold() in folded for keyword in keywords)


def _frequency(text: str, *, keyword: str, frequency: int, relation: Relation) -> bool:
    return _holds(text.casefold().count(keyword.casefold()), relation, frequency)


def _forbidden_words(text: str, *, forbidden_words: Iterable[str]) -> bool:
    return not any(has_word(text, word) for word in forbidden_words)


def _letter_frequency(text: str, *, letter: str, let_frequency: int, let_relation: Relation) -> bool:
    return _holds(text.lower().count(letter.lower()), let_relation, let_frequency)


def _response_language(text: str, *, language: str) -> bool:
    from rmbatch.rewards.rules.language import identify_language, load_identifier

    found = identify_language(text, load_identifier())
    return found is None or found == language  # too short to tell counts as followed, as in IFEval


def _number_placeholders(text: str, *, num_placeholders: int) -> bool:
    return sum(_num_bracketed(line) for line in text.split("\n")) >= num_placeholders


def _num_bracketed(line: str) -> int:
    number, end = 0, 0
    while (start := line.find("[", end)) >= 0 and (close := line.find("]", start)) >= 0:
        number, end = number + 1, close + 1
    return number


def _postscript(text: str, *, postscript_marker: str) -> bool:
    dots = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}.get(postscript_marker)
    return re.search(dots or re.escape(postscript_marker.lower()), text.lower()) is not None


def _number_bullet_lists(text: str, *, num_bullets: int) -> bool:
    return count_bullets(text) == num_bullets


def _constrained_response(text: str) -> bool:
    return any(option in text for option in _CONSTRAINED)


def _number_highlighted_sections(text: str, *, num_highlights: int) -> bool:
    found = [inside for form in (_HIGHLIGHT, _BOLD) for inside in form.findall(text)]
    return sum(bool(inside.strip()) for inside in found) >= num_highlights


def _multiple_sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter)}\s?\d+", text)) >= num_sections


def _title(text: str) -> bool:
    return any(_has_title(line) for line in text.split("\n"))


def _has_title(line: str) -> bool:
    start, end = line.find("<<"), line.rfind(">>")
    return start >= 0 and bool(line[start + 2 : end].strip("<> ") if end > start else "")


def _two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    given = [part for part in parts if part]
    return all(parts[1:-1]) and len(given) == 2 and given[0] != given[1]


def _repeat_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end_checker(text: str, *, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quotation(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def _capital_word_frequency(text: str, *, capital_frequency: int, capital_relation: Relation) -> bool:
    return _holds(sum(word.isupper() for word in _WORD.findall(text)), capital_relation, capital_frequency)


CHECKS: dict[str, Check] = {
    "change_case:capital_word_frequency": _capital_word_frequency,
    "change_case:english_capital": str.isupper,
    "change_case:english_lowercase": str.islower,
    "combination:repeat_prompt": _repeat_prompt,
    "combination:two_responses": _two_responses,
    "detectable_content:number_placeholders": _number_placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:constrained_response": _constrained_response,
    "detectable_format:json_format": is_json,
    "detectable_format:multiple_sections": _multiple_sections,
    "detectable_format:number_bullet_lists": _number_bullet_lists,
    "detectable_format:number_highlighted_sections": _number_highlighted_sections,
    "detectable_format:title": _title,
    "keywords:existence": _existence,
    "keywords:forbidden_words": _forbidden_words,
    "keywords:frequency": _frequency,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _response_language,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph_first_word,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_words": _number_words,
    "punctuation:no_comma": lambda text: "," not in text,
    "startend:end_checker": _end_checker,
    "startend:quotation": _quotation,
}


def is_followed(text: str, instruction: str, arguments: dict[str, Any]) -> bool:
    """Whether the text follows the instruction. Raises LookupError, TypeError or ValueError for one it cannot check."""
    if instruction not in CHECKS:
        raise LookupError(f"no instruction {instruction!r}")
    given = {key: value for key, value in arguments.items() if value is not None}  # Arrow fills the keys of others
    try:
        return bool(text.strip()) and CHECKS[instruction](text, **given)
    except TypeError as fault:
        raise TypeError(f"{instruction}: {str(fault).split('() ')[-1]}") from None
