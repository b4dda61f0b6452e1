"""Suggests known names near to an unknown one, for error messages."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """``did you mean 'a' or 'b'?`` by similarity, else all known names; a part of a sentence, for an error message."""
    names = sorted(set(known))
    if not names:
        return "there are none."
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"known: {', '.join(names)}."
