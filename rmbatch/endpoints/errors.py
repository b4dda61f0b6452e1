"""The errors of a service that answers requests: an engine in this process, or servers."""


class ServiceError(Exception):
    """The service cannot be started, or has another model. The message is for the person who named the model."""


class ServiceLost(Exception):  # noqa: N818 - an event, not a fault of the caller
    """The service died or hangs. Requests under way have to be sent again, to another one."""
