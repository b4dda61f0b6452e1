r"""What a judge has said, read strictly: a verdict that is missing, doubled or out of range is none, and says why.

Nothing here guesses and nothing searches: an answer is one object or one tag and nothing else, and what stands in it
is the value alone. A verdict amid other text may be one that the judge only quotes.

    read_json_object('{"score": 7}').value                        # {"score": 7}
    read_tag("<score>7</score>", "score").value                   # "7"
    read_choice("A", {"A": "first", "B": "second"}).value         # "first"
    read_number("7/10", 1, 10).value                              # 7.0; "7/5", "7-8" and "Score: 7" are none
    read_ranking("2 > 1 > 3", ["1", "2", "3"]).value              # ("2", "1", "3")

Reasons: ``verdict_missing``, ``verdict_malformed``, ``verdict_ambiguous`` or ``verdict_out_of_range``, with a message.
Values out of JSON may be given as they are: ``read_number(7, …)``, ``read_ranking([2, 1, 3], …)``.
"""

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_DECORATION = "*_`\"'“”.!()[]{} \t\n"
_BEFORE = re.compile(r"(?:response|assistant|answer|option|candidate|model)\s+", re.IGNORECASE)
_FENCED = re.compile(r"```[^\n`]*\n(.*)\n[ \t]*```", re.DOTALL)
_NUMBER = re.compile(
    r"([-+−–]?[ ]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+))(?:\s*(?:/|out of)\s*([0-9]+(?:\.[0-9]+)?)|\s*(%))?"
)


@dataclass(frozen=True)
class Reading(Generic[T]):
    """A verdict, or why there is none."""

    value: T | None = None
    reason: str | None = None


def strip_fence(text: str) -> str:
    """The text without white space around it, and without a code fence around all of it."""
    text = text.strip()
    fenced = _FENCED.fullmatch(text)
    return fenced[1].strip() if fenced else text


def read_json_object(text: str, schema: Mapping[str, Any] | None = None) -> Reading[dict[str, Any]]:
    """The JSON object that a text is, alone or in a code fence, and that fulfils the schema.

    Newlines in strings are taken as they are meant. A name that is there twice with different values, NaN, and an
    object that is begun but not ended are no verdict, nor is an object with anything beside it.
    """
    text = strip_fence(text)
    if not text.startswith("{"):
        code = "ambiguous" if re.search(r"\{\s*[\"'}]", text) else "missing"
        return _none(code, "text before the JSON object" if code == "ambiguous" else "no JSON object")
    try:
        value, end = _DECODER.raw_decode(text)
    except _DoubledError as doubled:
        return _none("ambiguous", f"{doubled} has two values")
    except (ValueError, RecursionError) as error:
        return _none("malformed", f"no JSON: {error}")
    if end != len(text):
        return _none("ambiguous", f"after the JSON object stands {text[end:].strip()[:80]!r}")
    if schema is not None:
        import jsonschema_rs

        try:
            why = "; ".join(error.message for error in jsonschema_rs.validator_for(dict(schema)).iter_errors(value))
        except ValueError as error:  # nested too deeply for it
            why = str(error)
        if why:
            return _none("malformed", f"not of the schema: {why}")
    return Reading(value)


def read_tag(text: str, tag: str) -> Reading[str]:
    """The text between ``<tag>`` and ``</tag>``, stripped, where these are all of a text."""
    begin, inner, rest = partition_tag(text, tag)
    if begin is None:
        return _none("missing", f"no <{tag}>")
    if inner is None:
        return _none("malformed", f"<{tag}> is not closed, or nested")
    if begin.strip() or rest.strip():
        return _none("ambiguous", f"beside <{tag}> stands {(begin + rest).strip()[:80]!r}")
    return Reading(inner.strip())


def partition_tag(text: str, tag: str) -> tuple[str | None, str | None, str]:
    """What stands before the first ``<tag>``, in it, and after its end; None where it is not there, or not closed."""
    parts = re.split(rf"<(/?){re.escape(tag)}>", text, maxsplit=2, flags=re.IGNORECASE)
    if len(parts) == 1:
        return None, None, ""
    if len(parts) < 5 or (parts[1], parts[3]) != ("", "/"):
        return parts[0], None, ""
    return parts[0], parts[2], parts[4]


def read_choice(said: object, labels: Mapping[str, T]) -> Reading[T]:
    """What the label means that was chosen, which stands alone: ``A``, ``[[A]]``, ``Response A``."""
    if not isinstance(said, str):
        return _none("malformed", f"{said!r} is no label")
    known = {label.casefold(): value for label, value in labels.items()}
    bare = _ascii_digits(_BEFORE.sub("", strip_fence(said).strip(_DECORATION), count=1).strip(_DECORATION)).casefold()
    if bare in known:
        return Reading(known[bare])
    return _none("malformed" if bare else "missing", f"{said.strip()[:80]!r} is none of {', '.join(labels)}")


def read_number(said: object, low: float, high: float, *, whole: bool = False) -> Reading[float]:
    """The number on a scale from ``low`` to ``high``, alone; ``7/10`` only where the scale ends at 10."""
    if isinstance(said, int | float) and not isinstance(said, bool):
        is_huge = isinstance(said, int) and abs(said) > 2**1000  # float() would raise
        return _on_scale(math.inf if is_huge else float(said), None, low, high, whole)
    if not isinstance(said, str):
        return _none("malformed", f"{said!r} is no number")
    text = strip_fence(said)
    if not text:
        return _none("missing", "no number is stated")
    match = _NUMBER.fullmatch(_ascii_digits(text.rstrip(".").strip(_DECORATION.replace(".", ""))))
    if match is None or (match[3] and (low, high) != (0, 100)):
        return _none("malformed", f"{text[:80]!r} is no number")
    value = float(match[1].replace(" ", "").replace("−", "-").replace("–", "-"))
    return _on_scale(value, float(match[2]) if match[2] else None, low, high, whole)


def read_ranking(said: object, labels: Sequence[str]) -> Reading[tuple[str, ...]]:
    """Labels from best to worst: ``[2, 1, 3]``, ``2 > 1 > 3`` or ``2, 1, 3``; each exactly once."""
    if isinstance(said, list | tuple):
        return _permutation([_bare(str(each)) for each in said if not isinstance(each, bool)], labels)
    if not isinstance(said, str):
        return _none("malformed", f"{said!r} is no ranking")
    if re.search("[<=~]", said):
        return _none("ambiguous", "only > and , order from best to worst")
    order = [_bare(part) for part in re.split("[,>]", strip_fence(said))]
    return _permutation(order, labels) if any(order) else _none("missing", "no ranking")


def split_numbers(said: str) -> list[str]:
    """The entries of a list of numbers in text, ``[1, 2; 3]``, with or without brackets; empty for an empty one."""
    inner = strip_fence(said).strip(".")
    inner = inner[1:-1] if inner.startswith("[") and inner.endswith("]") else inner
    return [part.strip() for part in re.split("[,;]", inner)] if inner.strip() else []


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
            return _none("out_of_range", f"{each[:80]!r} is none of {', '.join(labels)}")
    if len(set(named)) < len(named):
        return _none("ambiguous", "a candidate is ranked twice")
    if len(named) < len(labels):
        return _none("missing", f"{len(named)} of {len(labels)} candidates are ranked")
    return Reading(tuple(label for label in named if label is not None))


def _bare(text: str) -> str:
    return _ascii_digits(_BEFORE.sub("", text.strip(_DECORATION), count=1).strip(_DECORATION))


def _ascii_digits(text: str) -> str:
    """The digits of any script as 0 to 9, and Arabic's decimal point as a point."""
    if text.isascii():
        return text
    return "".join(str(unicodedata.decimal(each, each)) for each in text).replace("٫", ".")


def _none(code: str, message: str) -> Reading[Any]:
    line = " ".join(message.split())
    return Reading(None, f"verdict_{code}: {line if len(line) <= 200 else line[:200] + '…'}")
