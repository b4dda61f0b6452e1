"""The two ways in which a job ends without its result, and what the command line makes of them.

``UserError`` is a mistake that the user can mend (a key, a path, a column): one line, exit code 2, before any work.
``JobError`` is a job that stopped on its way: one line that says what happened, exit code 1; the output stays resumable.
"""


class UserError(Exception):
    """The job cannot be done as it is written; the message names the thing, the value and the cure."""


class JobError(Exception):
    """The job stopped before its end; what is committed stays, and the same command goes on from there."""
