"""The errors of a service that answers requests: an engine in this process, or servers."""

from dataclasses import dataclass


class ServiceError(Exception):
    """The service cannot be started, or has another model. The message is for the person who named the model."""


class ServiceLost(Exception):  # noqa: N818 - an event, not a fault of the caller
    """The service died or hangs. Requests under way have to be sent again, to another one."""


@dataclass(frozen=True)
class Failure:
    """Why there is no answer; as text ``stable_code: message``."""

    code: str
    """``endpoint_unreachable``, ``_timeout``, ``_overloaded``, ``_error``, ``_bad_answer`` or ``_refused``; of batches
    ``batch_expired`` and ``batch_deadline``."""
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
