"""The cost of a job's chat requests, for people and for summaries: requests, tokens, money, answers that were kept.

chat_cost(counts, price).line()       # "12,040 answers, 3,100,000 tokens, $4.20, 310 answers kept from before"
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from rmbatch.costs.prices import Price, cost


@dataclass(frozen=True)
class ChatCost:
    """The cost of one client's requests."""

    answers: int
    """Answers from servers in this run."""
    tries: int
    """Requests sent, repeated ones too."""
    failures: int
    """Requests that ended without an answer."""
    saved_answers: int
    """Answers that were kept from before or belong to an equal request."""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    """The prompt tokens that the provider had cached."""
    usd: float | None
    """The cost of the answers. None: it is not known, and ``unknown`` says why."""
    unknown: str = ""

    def line(self) -> str:
        """In one line, for people."""
        said = [f"{self.answers:,} answers"]
        if self.saved_answers:
            said.append(f"{self.saved_answers:,} kept from before or equal to another")
        if self.failures:
            said.append(f"{self.failures:,} without an answer")
        if self.tries > self.answers + self.failures:
            said.append(f"{self.tries:,} tries")
        said.append(f"{self.prompt_tokens + self.completion_tokens:,} tokens")
        if self.cached_tokens:
            said.append(f"{self.cached_tokens / max(self.prompt_tokens, 1):.0%} of prompts cached by the provider")
        if self.usd is not None and self.usd > 0:
            said.append(f"${self.usd:,.2f}")
        return ", ".join(said)

    def plain(self) -> dict[str, float | int | str | None]:
        """As plain values, for a summary."""
        return asdict(self)


def chat_cost(counts: Mapping[str, int], price: Price | None) -> ChatCost:
    """The cost of these counts (as from ``prices.count``)."""
    total = cost(counts, price)
    return ChatCost(
        answers=counts.get("answers", 0),
        tries=counts.get("tries", 0),
        failures=counts.get("failures", 0),
        saved_answers=counts.get("saved_answers", 0),
        prompt_tokens=counts.get("prompt_tokens", 0),
        completion_tokens=counts.get("completion_tokens", 0),
        cached_tokens=counts.get("cached_tokens", 0),
        usd=total.usd,
        unknown=total.unknown,
    )
