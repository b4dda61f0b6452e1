"""The target ``ray``: a job of a Ray cluster, by its dashboard's address (``http://head:8265``; None: RAY_ADDRESS).

The job's folder is sent along, and the job works on the cluster that it runs on.
"""

from typing import Any

import yaml

from cluster.target import State, Submission
from connectors.errors import UserError

_STATES: dict[str, State] = {
    "PENDING": "pending",
    "RUNNING": "running",
    "SUCCEEDED": "finished",
    "FAILED": "failed",
    "STOPPED": "cancelled",
}


class RayJobs:
    """A ``Target``; its address is that of the cluster's dashboard."""

    def __init__(self, address: str | None = None) -> None:
        self._address = address
        self._connected: Any = None

    def render(self, submission: Submission) -> str:
        what = {"entrypoint": submission.command_line(), "runtime_env": _runtime_env(submission)}
        return yaml.safe_dump(what, sort_keys=False).rstrip()

    def submit(self, submission: Submission) -> str:
        name: str = self._ask("submit_job", entrypoint=submission.command_line(), runtime_env=_runtime_env(submission))
        return name

    def status(self, name: str) -> State:
        return _STATES[self._ask("get_job_status", name).value]

    def logs(self, name: str) -> str:
        said: str = self._ask("get_job_logs", name)
        return said

    def cancel(self, name: str) -> None:
        self._ask("stop_job", name)

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        from ray.job_submission import JobSubmissionClient

        try:
            if self._connected is None:
                self._connected = JobSubmissionClient(self._address)
            return getattr(self._connected, method)(*arguments, **named)
        except (RuntimeError, ConnectionError, ValueError) as error:
            said = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            raise UserError(f"the Ray cluster at {self._address or 'RAY_ADDRESS'}: {said}") from None


def _runtime_env(submission: Submission) -> dict[str, Any]:
    return {"working_dir": submission.folder, "env_vars": dict(submission.environment)}
