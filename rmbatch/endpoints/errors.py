"""What becomes of a service that answers requests: an engine in this process, or servers."""


class ServiceError(Exception):
    """It cannot be started, or it is not what is wanted. The message is for the person who named the model."""


class ServiceLost(Exception):  # noqa: N818 - an event, not a fault of the caller
    """It died or hangs. What was in flight has to be asked again of another one."""
