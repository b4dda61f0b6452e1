"""The contract of what decides when requests may be sent: limits per minute and budgets (``rmbatch/chat/limits``)."""

from typing import Protocol


class Permit(Protocol):
    """The permission to send one request; it ends with one of these calls."""

    def settle(self, value: object | None, *, may_have_cost: bool = False) -> None:
        """The request was sent; ``value`` is what ``Post.read`` made of the answer, None where there was none.

        ``may_have_cost``: there was none, but a server may have worked on it.
        """

    def give_back(self) -> None:
        """The request was not sent, and will not be."""


class Admission(Protocol):
    """Who decides when requests may be sent."""

    async def admit(self, num_bytes: int, *, again: bool, max_tokens: int | None = None) -> Permit:
        """Wait until one more request of this many bytes may be sent.

        ``again``: it was tried before. ``max_tokens``: of its answer; None: without a bound. An error that it raises
        ends all requests.
        """

    def count_answer(self, value: object) -> None:
        """Count an answer that was sent by another run or process."""
