"""The words that differ between two texts, as pieces that a terminal can show.

for piece in find_changes("It is 42.", "It is 43."): ...    # same "It is ", removed "42", added "43", same "."
"""

import difflib
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

MAX_WORDS = 5_000
"""Longer texts are compared by lines: difflib's time grows with the square of the number of pieces."""
_WORD = re.compile(r"\s+|\w+|[^\w\s]")


class Piece(NamedTuple):
    """A stretch of text."""

    kind: Literal["same", "removed", "added"]
    text: str


def find_changes(before: str, after: str) -> list[Piece]:
    """The pieces of both texts in order: the same ones and the removed ones make ``before``, the same ones and the
    added ones make ``after``. Removed pieces stand before the added ones that replace them."""
    old, new = _WORD.findall(before), _WORD.findall(after)
    if max(len(old), len(new)) > MAX_WORDS:
        old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    return list(_compare(old, new))


def _compare(old: list[str], new: list[str]) -> Iterator[Piece]:
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            yield Piece("same", "".join(old[a:b]))
            continue
        if b > a:
            yield Piece("removed", "".join(old[a:b]))
        if d > c:
            yield Piece("added", "".join(new[c:d]))
