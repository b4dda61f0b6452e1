"""Turns the errors of tasks into the job's errors, without the layers between them."""

from collections.abc import Callable, Sequence

from connectors.errors import JobError, UserError
from connectors.faults import explain, is_storage_error


def to_job_error(causes: Sequence[BaseException], is_machinery: Callable[[BaseException], bool]) -> Exception:
    """Choose the UserError or JobError among the causes, outermost first. Else explain the first cause of ours."""
    for cause in causes:
        if isinstance(cause, UserError | JobError) and not is_machinery(cause):
            return type(cause)(str(cause))
    root = next((cause for cause in causes if not is_machinery(cause)), causes[-1])
    if is_storage_error(root) and (explanation := explain(root)):
        return JobError(explanation)
    lines = str(root).strip().splitlines() or ["without a message"]
    return JobError(f"a task of the job failed: {type(root).__name__}: {lines[0]}")


def list_causes(error: BaseException | None) -> Sequence[BaseException]:
    """List the error and its causes, outermost first. Ray keeps a worker's error as ``cause``."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        error = getattr(error, "cause", None) or error.__cause__
    return seen
