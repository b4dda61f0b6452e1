"""The scores that a reward gives a batch of responses, and the error of a reward that gives something else."""

from dataclasses import dataclass

import pyarrow as pa


class RewardError(Exception):
    """A reward broke its contract (wrong length, wrong type): a bug in the reward, never a property of a row."""

    def __init__(self, message: str, response: int | None = None) -> None:
        super().__init__(message, response)
        self.response = response
        """The index in the batch of the response that shows the bug, if there is one."""
        self.where = "" if response is None else f"response {response}"

    def __str__(self) -> str:
        message = str(self.args[0])
        return f"{message} ({self.where})" if self.where else message


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of n responses: ``score`` float64, null for "no score"; ``error`` and ``reason`` text or None, length n.

    An error reads ``stable_code: message`` and stands exactly where the score is null.
    """

    score: pa.Array
    error: pa.Array | None = None
    reason: pa.Array | None = None
    steps: pa.Array | None = None
    """STEPS [n]: the score of each step; only process reward models give them."""
