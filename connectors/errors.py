"""The two ways in which a job ends without its result, and what the command line makes of them.

``UserError`` is a mistake that the user can mend (a key, a path, a column): exit code 2, before any work.
``JobError`` is a job that stopped on its way: exit code 1; the output stays resumable.
Both say one line, which survives pickling and whatever Ray adds to an exception's arguments on its way to the driver.
"""


class _OneLineError(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = " ".join(message.split())

    def __str__(self) -> str:
        return self.message


class UserError(_OneLineError):
    """The job cannot be done as it is written; the message names the thing, the value and the cure."""


class JobError(_OneLineError):
    """The job stopped before its end; what is committed stays, and the same command goes on from there."""


class DeadEndError(JobError):
    """The job stopped, and the same command does not go on from there; the message says what to do."""
