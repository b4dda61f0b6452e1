"""The errors that end a job without a result, and the exit codes of the command line for them.

``UserError``: a mistake that the user can correct (a key, a path, a column). Exit code 2, before any work.
``JobError``: the job stopped before its end. Exit code 1; the output can be resumed.
Each has a message of one line. The message survives pickling, and what Ray adds to an exception's arguments.
"""


class _OneLineError(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = " ".join(message.split())

    def __str__(self) -> str:
        return self.message


class UserError(_OneLineError):
    """The job cannot run as it is written. The message names the thing, the value and the cure."""


class JobError(_OneLineError):
    """The job stopped before its end. Committed rows stay, and the same command continues from there."""


class DeadEndError(JobError):
    """The job stopped, and the same command cannot continue. The message says what to do."""
