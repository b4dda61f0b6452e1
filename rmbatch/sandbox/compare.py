"""Decides whether an answer counts as the expected one, on plain data, outside of the sandbox.

The comparison of printed text is lenient (blank space, numbers as numbers). That of returned values is exact, except
that tuples equal lists, because JSON has no tuples. ``docs/sandbox.md`` names each difference from PRIME, LiveCodeBench
and HumanEval.

    same_output("1 2 \\n3.0", "1  2\\n3")     # True
    same_output("3 2 1", "1 2 3")            # False: the order counts
    same_value((1, 2), [1, 2])               # True
"""

import re
from decimal import Decimal
from math import isfinite
from typing import Any

_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_RELATIVE, _ABSOLUTE = 1e-5, 1e-8
"""The tolerance of numpy.allclose, which PRIME uses."""


def same_output(printed: str, expected: str) -> bool:
    """Whether the printed text counts as the expected one: the same words in the same order, line by line.

    Empty lines and the width of blank space do not count. Two words are the same if they are equal, or numbers of equal
    value. Numbers that are not both whole are also the same if they differ by no more than 1e-8 + 1e-5 x the expected
    one, and by less than 0.5 where the expected one is whole.
    """
    ours, theirs = split_words(printed), split_words(expected)
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def same_value(returned: Any, expected: Any) -> bool:
    """Whether a returned value counts as the expected JSON value; where that is a list, its first item counts too."""
    returned = _tuples_to_lists(returned)
    wanted = with_whole_keys(expected)
    candidates = [expected, wanted]
    for value in (expected, wanted):
        if isinstance(value, list) and value:
            candidates += [value[0], with_whole_keys(value[0])]
    return any(returned == candidate for candidate in candidates)


def with_whole_keys(value: Any) -> Any:
    """The JSON object with its keys as numbers, if all are whole numbers; any other value unchanged."""
    if not isinstance(value, dict):
        return value
    try:
        return {int(key): item for key, item in value.items()}
    except (ValueError, TypeError):
        return value


def split_words(text: str) -> list[list[str]]:
    """The words of each line that has any."""
    return [words for line in text.split("\n") if (words := line.split())]


def _same_line(ours: list[str], theirs: list[str]) -> bool:
    return ours == theirs or (len(ours) == len(theirs) and all(map(_same_word, ours, theirs)))


def _same_word(ours: str, theirs: str) -> bool:
    if ours == theirs:
        return True
    if not (_NUMBER.fullmatch(ours) and _NUMBER.fullmatch(theirs)):
        return False
    is_whole = _WHOLE.fullmatch(theirs) is not None
    if is_whole and _WHOLE.fullmatch(ours):
        return Decimal(ours) == Decimal(theirs)  # exact at any length, where int() refuses 4,300 digits
    left, right = float(ours), float(theirs)
    if not (isfinite(left) and isfinite(right)):
        return False
    apart = abs(left - right)
    return apart <= _ABSOLUTE + _RELATIVE * abs(right) and (apart < 0.5 or not is_whole)


def _tuples_to_lists(value: Any) -> Any:
    """Tuples as lists, at any depth."""
    if isinstance(value, list | tuple):
        return [_tuples_to_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: _tuples_to_lists(item) for key, item in value.items()}
    return value
