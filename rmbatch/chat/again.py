"""Which kept answers a retry asks for once more: those that its rows cannot use, for the reasons that it names.

with asking_again(AskAgain("4f1c09aa", "verdict_*")):
    complete_counted(spec, requests, user, find_errors)      # a kept answer with such an error is asked for again

The model is sent the same bytes as before. The new answer is kept beside the old one, with the name of its retry: so a
retry that was killed finds what it has paid for, and only another retry asks again.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class AskAgain:
    """A retry, and the kept answers that it does not take."""

    retry: str
    """The name of the retry."""
    code: str
    """A pattern of error codes."""
    users: frozenset[str] | None = None
    """The askers that are meant, by the names that they are counted under. None: all."""

    def rejects(self, user: str, errors: Iterable[str]) -> bool:
        """Whether a kept answer with these errors (``stable_code: message``) is asked for again."""
        if self.users is not None and user not in self.users:
            return False
        return any(fnmatchcase(error.partition(":")[0], self.code) for error in errors)


_current: AskAgain | None = None


@contextmanager
def asking_again(again: AskAgain | None) -> Iterator[None]:
    """Inside the ``with`` block, all threads of this process ask again as this retry says. None: nothing is."""
    global _current
    before, _current = _current, again
    try:
        yield
    finally:
        _current = before


def current_retry() -> AskAgain | None:
    """The retry that this process works for. None: it works for none."""
    return _current
