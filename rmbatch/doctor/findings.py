"""What a look at a model or judge has found, one thing at a time.

refuse([Finding("failure", "server", "no endpoint answers")], "judge kind")      # raises UserError
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from connectors.errors import UserError


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    level: Literal["ok", "warning", "failure"]
    check: str
    """Its short name, which stays the same."""
    message: str
    """What was found, and of what is not ok, what to write instead."""


def refuse(findings: Iterable[Finding], name: str = "") -> None:
    """Raises UserError with all failures in one line; ``name``: what is looked at is called in the job."""
    failures = [f"{each.check}: {each.message}" for each in findings if each.level == "failure"]
    if failures:
        raise UserError(f"{name}{': ' if name else ''}{'; '.join(failures)}")
