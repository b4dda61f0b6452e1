"""The findings of checks of a model or judge.

raise_failures([Finding("failure", "server", "no endpoint answers")], "judge kind")      # raises UserError
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from connectors.errors import UserError


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    level: Literal["ok", "warning", "failure"]
    check: str
    """The short name of the check, which stays the same."""
    message: str
    """What was found, and for a warning or failure what to write instead."""


def raise_failures(findings: Iterable[Finding], name: str = "") -> None:
    """Raise UserError with all failures in one line; ``name``: that of the model or judge in the job."""
    failures = [f"{each.check}: {each.message}" for each in findings if each.level == "failure"]
    if failures:
        raise UserError(f"{name}{': ' if name else ''}{'; '.join(failures)}")
