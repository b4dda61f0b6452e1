"""When an answer counts as the expected one: the comparisons of PRIME's test harness, on plain data, outside.

Printed text is compared leniently (blank space, numbers as numbers, the order of the words of a line), returned values
exactly, but for tuples, which JSON has none of. Source: PRIME's ``testing_util.py`` as verl ships it
(https://github.com/volcengine/verl), whose steps these are; ``docs/sandbox.md`` lists where ours differ.

    same_output("1 2 \\n3.0", "1 2\\n3")      # True
    same_value((1, 2), [1, 2])               # True
"""

import re
from math import isinf
from typing import Any

_LONGEST_NUMBER = 400
_WHOLE = re.compile(r"\d+")


def same_output(printed: str, expected: str) -> bool:
    """Whether what was printed counts as what was expected.

    True if equal after stripping; or line by line, each stripped, empty lines left out; or as numbers, a line each,
    within numpy.allclose's tolerance unless all are whole; or if each line holds the same set of words.
    """
    if printed.strip() == expected.strip():
        return True
    ours, theirs = _lines(printed), _lines(expected)
    if ours == theirs:
        return True
    if len(ours) != len(theirs):
        return False
    if not all(map(_WHOLE.fullmatch, [*ours, *theirs])) and _close(ours, theirs):
        return True
    return [set(line.split()) for line in ours] == [set(line.split()) for line in theirs]


def same_value(returned: Any, expected: Any) -> bool:
    """Whether what a function returned counts as the expected JSON value, or as the only item of a list of it."""
    returned = _listed(returned)
    wanted = _with_whole_keys(expected)
    candidates = [expected, wanted]
    for value in (expected, wanted):
        if isinstance(value, list) and value:
            candidates += [value[0], _with_whole_keys(value[0])]
    return any(returned == candidate for candidate in candidates)


def call_arguments(arguments: list[Any]) -> list[Any]:
    """The arguments of a call; a first one that is an object with whole numbers as keys has them as numbers."""
    return [_with_whole_keys(argument) if place == 0 else argument for place, argument in enumerate(arguments)]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def _close(ours: list[str], theirs: list[str]) -> bool:
    try:
        if any(len(line) > _LONGEST_NUMBER for line in (*ours, *theirs)):
            return False
        pairs = [(float(left), float(right)) for left, right in zip(ours, theirs)]
    except (ValueError, OverflowError):
        return False
    return all(
        left == right if isinf(right) else abs(left - right) <= 1e-8 + 1e-5 * abs(right) for left, right in pairs
    )


def _listed(value: Any) -> Any:
    """Tuples as lists, at any depth."""
    if isinstance(value, list | tuple):
        return [_listed(item) for item in value]
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return value


def _with_whole_keys(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    try:
        return {int(key): item for key, item in value.items()}
    except (ValueError, TypeError):
        return value
