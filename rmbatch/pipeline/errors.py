"""Errors of tasks as the job tells them, without the traces of the machinery between."""

from collections.abc import Callable, Sequence

from connectors.errors import JobError, UserError
from connectors.faults import explain, is_storage_error


def as_job_error(causes: Sequence[BaseException], is_machinery: Callable[[BaseException], bool]) -> Exception:
    """The UserError or JobError among the causes (outermost first), or one that tells the first that says anything."""
    for cause in causes:
        if isinstance(cause, UserError | JobError) and not is_machinery(cause):
            return type(cause)(str(cause))
    telling = next((cause for cause in causes if not is_machinery(cause)), causes[-1])
    if is_storage_error(telling) and (told := explain(telling)):
        return JobError(told)
    said = str(telling).strip().splitlines() or ["without a word"]
    return JobError(f"a task of the job failed: {type(telling).__name__}: {said[0]}")


def causes_of(error: BaseException | None) -> Sequence[BaseException]:
    """The error and what it came from, outermost first; Ray keeps a worker's error as ``cause``."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        error = getattr(error, "cause", None) or error.__cause__
    return seen
