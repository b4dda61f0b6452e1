r"""What a judge has said, read strictly: a verdict that is missing, doubled or out of range is none, and says why.

Nothing here guesses. A label counts only where it is marked (``[[A]]``), stated (``Verdict: A``) or stands alone; if
two places say different things, that is ``verdict_ambiguous``, whichever came last.

    reading = choice(text, {"A": "first", "B": "second", "C": "tie"})
    reading.value, reading.reason                  # "first", None; or None, "verdict_ambiguous: A and B"
    number("Score: 7/10", 1, 10).value             # 7.0; "7/5" and "7-8" are none
    ranking("[[2, 1, 3]]", ["1", "2", "3"]).value  # ("2", "1", "3")
    json_object(text, schema).value                # the one object that fulfils the schema
    tagged(text, "score").value                    # the text between <score> and </score>

Reasons: ``verdict_missing``, ``verdict_malformed``, ``verdict_ambiguous`` or ``verdict_out_of_range``, with a message.
Values out of JSON may be given as they are: ``number(7, …)``, ``choice("A", …)``, ``ranking([2, 1, 3], …)``.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_NAMES = r"(?:final\s+|overall\s+|my\s+)*"
_VERDICT = r"(?:verdict|winner|decision|judge?ment|preference|(?:better|best|preferred)\s+(?:response|answer))"
"""Not "answer": "the correct answer is B" speaks of the question."""
_SCORE = r"(?:score|rating|grade|mark)"
_RANKING = r"(?:ranking|order|rank)"
_SAYS = r"[*_`\"'\s]*(?:\([^()\n]*\)[*_`\"'\s]*)?(?::|=|\bis\b:?|\bare\b:?)[*_`\"'\s]*"
"""Between what is stated and its value: ``**Score** (1-10): ``."""
_BEFORE = r"(?:(?:response|assistant|answer|option|candidate|model)\s+)?"
_DECORATION = "*_`\"'“”.!()[]{} \t"
_MARK = re.compile(r"\[\[([^\[\]\n]*)\]\]")
_FENCE = re.compile(r"^[ \t]*```[^\n]*$", re.MULTILINE)
_OBJECT = re.compile(r"\{\s*[\"'}]")
"""Where an object begins, or what is meant as one; other braces are prose, as in \\boxed{4}."""

_NUMBER = r"[-+−–]?\s*(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_OF = r"\s*(?:/|\bout\s+of\b)\s*([0-9]+(?:\.[0-9]+)?)"
_QUANTITY = re.compile(rf"({_NUMBER})(?:{_OF})?")
_LIKE_NUMBER = re.compile(rf"{_NUMBER}|[-+]?(?:nan|inf)", re.IGNORECASE)
_ALONE = re.compile(r"[-+−–]?[0-9.][-+−–0-9.,/%\s]*(?:out\s+of\s+[0-9.]+)?", re.IGNORECASE)
_GOES_ON = re.compile(r"\s*(?:%|percent\b|/|[-–−]\s*[0-9]|(?:to|or|and|out\s+of)\s+[0-9]|[.,:][0-9]|[eE][-+]?[0-9])|\w")
"""After a number: it is a share, a range, a decimal comma, a power, or part of a word."""


@dataclass(frozen=True)
class Reading(Generic[T]):
    """A verdict, or why there is none."""

    value: T | None = None
    reason: str | None = None


def json_object(text: str, schema: Mapping[str, Any] | None = None) -> Reading[dict[str, Any]]:
    """The JSON object in a text, alone or among prose; of several, the one that fulfils the schema.

    Newlines in strings are taken as they are meant. A name that is there twice with different values, NaN, and an
    object that is begun but not ended are no verdict, even where a smaller object inside is whole.
    """
    objects: list[dict[str, Any]] = []
    begun = _OBJECT.search(text)
    while begun:
        try:
            value, end = _DECODER.raw_decode(text, begun.start())
        except _DoubledError as doubled:
            return _none("ambiguous", f"{doubled} has two values")
        except (ValueError, RecursionError) as error:
            return _none("malformed", f"no JSON: {error}")
        objects.append(value)
        begun = _OBJECT.search(text, end)
    if not objects:
        return _none("missing", "no JSON object")
    fit, why = objects, ""
    if schema is not None:
        import jsonschema_rs

        validator = jsonschema_rs.validator_for(dict(schema))
        try:
            fit = [each for each in objects if validator.is_valid(each)]
            why = "; ".join(error.message for error in validator.iter_errors(objects[-1]))
        except ValueError as error:  # nested too deeply for it
            return _none("malformed", str(error))
    if not fit:
        return _none("malformed", f"not of the schema: {why}")
    return _one(fit, lambda each: json.dumps(each, sort_keys=True))


def tagged(text: str, tag: str) -> Reading[str]:
    """The text between ``<tag>`` and ``</tag>``, stripped; the same text twice is one."""
    name = re.escape(tag)
    parts = re.split(rf"(<{name}>|</{name}>)", text, flags=re.IGNORECASE)
    marks = [mark.lower() for mark in parts[1::2]]
    if not marks:
        return _none("missing", f"no <{tag}>")
    if marks != [f"<{tag.lower()}>", f"</{tag.lower()}>"] * (len(marks) // 2):
        return _none("malformed", f"<{tag}> is not closed, or nested")
    found = [part.strip() for part in parts[2::4]]
    if not all(found):
        return _none("missing", f"<{tag}> is empty")
    return _one(found)


def choice(said: object, labels: Mapping[str, T]) -> Reading[T]:
    """What the label means that was chosen; labels that mean the same (``C``, ``tie``) do not contradict each other.

    A single letter in a sentence must be a capital, for "a" is a word, and end what is stated: "Verdict: A response
    that …" chooses nothing.
    """
    if not isinstance(said, str):
        return _none("malformed", f"{said!r} is no label")
    known = {label.casefold(): value for label, value in labels.items()}
    marked = [mark.strip() for mark in _MARK.findall(said)]
    for mark in marked:
        if _bare(mark) not in known:
            return _none("out_of_range", f"[[{mark}]] is none of {', '.join(labels)}")
    by_length = sorted(labels, key=len, reverse=True)
    any_label = "|".join(f"(?i:{re.escape(each)})" if len(each) > 1 else re.escape(each) for each in by_length)
    any_label = rf"(?<!\w)(?:{any_label})(?![\w>=<])"
    another = rf",(?!\s*(?:and\s+|or\s+)?{any_label})"
    goes_on = r"(?:because|since|wins)\b|is\s+(?:the\s+)?(?:better|best|winner)\s*(?:[.!\n]|$)"
    after = rf"(?=[*_`\"'\s)\]]*(?:$|[.!;\n]|{another}|\((?!\s*or)|{goes_on}))"
    stated = re.findall(
        rf"\b(?i:{_NAMES}{_VERDICT}{_SAYS}{_BEFORE})\[{{0,2}}({any_label})\]{{0,2}}{after}", said, re.MULTILINE
    )
    found = [*marked, *stated]
    lines = [line for line in _FENCE.sub("", said).splitlines() if line.strip()]
    if lines and _bare(lines[-1]) in known:  # "B:" is no such line, but the heading of what was cut off
        found += [line for line in lines if _bare(line) in known]
    elif len(lines) == 1 and (only := re.fullmatch(rf"(?i:{_BEFORE})({any_label})", _stripped(lines[0]))):
        found.append(only[1])
    if not found:
        return _none("missing", f"none of {', '.join(labels)} is chosen")
    chosen = [known[_bare(each)] for each in found]
    if any(value != chosen[0] for value in chosen):
        return _none("ambiguous", " and ".join(dict.fromkeys(_stripped(each) for each in found)))
    return Reading(chosen[0])


def number(said: object, low: float, high: float, *, whole: bool = False) -> Reading[float]:
    """The number on a scale from ``low`` to ``high``; ``7/10`` only where the scale ends at 10."""
    if isinstance(said, int | float) and not isinstance(said, bool):
        is_huge = isinstance(said, int) and abs(said) > 2**1000  # float() would raise
        return _on_scale(math.inf if is_huge else float(said), None, low, high, whole)
    if not isinstance(said, str):
        return _none("malformed", f"{said!r} is no number")
    places = [(mark[1], True) for mark in _MARK.finditer(said)]
    states = re.compile(rf"\b{_NAMES}{_SCORE}{_SAYS}(?!\[\[)", re.IGNORECASE)
    places += [(said[match.end() : match.end() + 200], False) for match in states.finditer(said)]
    lines = [line.strip(_DECORATION) for line in _FENCE.sub("", said).splitlines() if line.strip()]
    if lines and (_ALONE.fullmatch(lines[-1]) or (not places and len(lines) == 1 and _LIKE_NUMBER.match(lines[0]))):
        places.append((lines[-1], True))  # not "3. It is clear", the end of a list
    readings: list[Reading[float]] = []
    for text, is_all in places:
        reading = _number_at(text.strip(), is_all, low, high, whole)
        if reading is not None:
            readings.append(reading)
    for reading in readings:
        if reading.reason is not None:
            return reading
    return _one([each.value for each in readings]) if readings else _none("missing", "no number is stated")


def ranking(said: object, labels: Sequence[str]) -> Reading[tuple[str, ...]]:
    """Labels from best to worst: ``[2, 1, 3]``, ``2 > 1 > 3`` or ``2, 1, 3``; each exactly once."""
    if isinstance(said, list | tuple):
        return _permutation([str(each) for each in said if not isinstance(each, bool)], labels)
    if not isinstance(said, str):
        return _none("malformed", f"{said!r} is no ranking")
    brackets = re.findall(r"\[([^\[\]\n]*[,>][^\[\]\n]*)\]", said)
    states = re.compile(rf"\b{_NAMES}{_RANKING}{_SAYS}([^\n.;]+)", re.IGNORECASE)
    lines = [line.strip() for line in _FENCE.sub("", said).splitlines() if line.strip()]
    told = [*brackets, *(text for text in states.findall(said) if not re.search(r"\[.*\]", text))]
    if lines and "[" not in lines[-1] and re.search("[,>]", lines[-1]):
        parts = _order(lines[-1])
        known = {label.casefold() for label in labels}
        is_prose = any(" " in part and not re.search("[<=~]", part) for part in parts)
        if all(part.casefold() in known for part in parts) or not (told or is_prose):
            told.append(lines[-1])
    if any("<" in text or "=" in text or "~" in text for text in told):
        return _none("ambiguous", "only > and , order from best to worst")
    orders = [_order(text) for text in told]
    if not orders:
        return _none("missing", "no ranking")
    if len({tuple(order) for order in orders}) > 1:
        return _none("ambiguous", "two different rankings")
    return _permutation(orders[0], labels)


class _DoubledError(Exception):
    """A name that is twice in one JSON object."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found and found[name] != value:
            raise _DoubledError(repr(name))
        found[name] = value
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_unique, parse_constant=_no_constant)


def _number_at(text: str, is_all: bool, low: float, high: float, whole: bool) -> Reading[float] | None:
    """The number that a text begins with, or is; None where it begins with none."""
    match = _QUANTITY.match(text)
    if match is None:
        return _none("malformed", f"{text[:20]!r} is no number") if is_all else None
    rest = text[match.end() :]
    is_percent = re.match(r"\s*%", rest) and (low, high) == (0, 100)
    if is_percent:
        rest = rest.lstrip()[1:]
    if _GOES_ON.match(rest) or (is_all and rest.strip(_DECORATION)):
        return _none("ambiguous", f"{text[:30]!r}")
    value = float(re.sub(r"\s", "", match[1]).replace("−", "-").replace("–", "-"))
    return _on_scale(value, float(match[2]) if match[2] else None, low, high, whole)


def _on_scale(value: float, of: float | None, low: float, high: float, whole: bool) -> Reading[float]:
    if of is not None and of != high:
        return _none("out_of_range", f"{value:g} of {of:g}, on a scale to {high:g}")
    if not math.isfinite(value) or not low <= value <= high:
        return _none("out_of_range", f"{value:g} is not from {low:g} to {high:g}")
    if whole and value != int(value):
        return _none("out_of_range", f"{value:g} is no whole number")
    return Reading(value)


def _permutation(order: Sequence[str], labels: Sequence[str]) -> Reading[tuple[str, ...]]:
    known = {label.casefold(): label for label in labels}
    named = [known.get(each.casefold()) for each in order]
    for each, label in zip(order, named):
        if label is None:
            return _none("out_of_range", f"{each!r} is none of {', '.join(labels)}")
    if len(set(named)) < len(named):
        return _none("ambiguous", "a candidate is ranked twice")
    if len(named) < len(labels):
        return _none("missing", f"{len(named)} of {len(labels)} candidates are ranked")
    return Reading(tuple(label for label in named if label is not None))


def _order(text: str) -> list[str]:
    parts = (_stripped(part) for part in re.split(r"[,>]+", text))
    return [re.sub(rf"^{_BEFORE}", "", part, flags=re.IGNORECASE).strip(_DECORATION) for part in parts]


def _stripped(text: str) -> str:
    return text.strip().strip(_DECORATION)


def _bare(text: str) -> str:
    return _stripped(text).casefold()


def _one(found: Iterable[Any], alike: Callable[[Any], Any] = lambda each: each) -> Reading[Any]:
    """What was found, if all of it is the same."""
    by_likeness = {alike(each): each for each in found}
    if len(by_likeness) > 1:
        return _none("ambiguous", f"{len(by_likeness)} different ones")
    return Reading(next(iter(by_likeness.values())))


def _none(code: str, message: str) -> Reading[Any]:
    line = " ".join(message.split())
    return Reading(None, f"verdict_{code}: {line if len(line) <= 200 else line[:200] + '…'}")
