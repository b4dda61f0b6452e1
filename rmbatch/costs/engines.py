"""The cost of reward models while a job runs: tokens, the share that a cache had, the load of engines and devices.

found = engine_cost(counts, meter, flops_per_token=1.4e10, peak=989e12)
found.line()         # "204,800 tokens, 9,012 tokens/s, 71% from the prefix cache, computing 96% of the time"
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class EngineCost:
    """The cost of one model; shares are between 0 and 1, and None means unknown."""

    requests: int
    """Conversations that engines have answered."""
    repeated: int
    """Conversations that were equal to another one and cost nothing."""
    stored: int
    """Conversations whose scores were in the score store."""
    tokens: int
    """Tokens of the conversations that engines have answered."""
    tokens_per_s: float | None
    """Tokens per second of busy time, over all replicas."""
    cached_share: float | None
    """The share of the tokens that a prefix cache had."""
    padding_share: float | None
    """The share of the computed tokens that were padding."""
    busy_share: float | None
    """The share of the engines' time in which they had work; the rest of it they waited for rows."""
    mfu: float | None
    """Model FLOPs utilisation: the FLOPs of the computed tokens over those possible in the devices' busy time."""

    def line(self) -> str:
        """In one line, for people."""
        said = [f"{self.tokens:,} tokens"]
        if self.tokens_per_s is not None:
            said.append(f"{self.tokens_per_s:,.0f} tokens/s")
        if self.cached_share:
            said.append(f"{self.cached_share:.0%} from the prefix cache")
        if self.padding_share:
            said.append(f"{self.padding_share:.0%} padding")
        if self.repeated:
            said.append(f"{self.repeated:,} conversations asked once with an equal one")
        if self.stored:
            said.append(f"{self.stored:,} scores from the store")
        if self.busy_share is not None:
            said.append(f"computing {self.busy_share:.0%} of the time")
        if self.mfu is not None:
            said.append(f"MFU {self.mfu:.0%}")
        return ", ".join(said)

    def plain(self) -> dict[str, float | int | None]:
        """As plain values, for a summary."""
        return asdict(self)


def engine_cost(
    counts: Mapping[str, int],
    meter: Mapping[str, float],
    *,
    flops_per_token: float | None = None,
    peak: float | None = None,
) -> EngineCost:
    """The cost of these counts (as ``Outputs.usage``) and this time (``busy_s``, ``idle_s``, and ``replicas``).

    ``flops_per_token``: the model's, at the conversations' length; ``peak``: FLOP/s of one replica's devices.
    """
    tokens, cached = counts.get("tokens", 0), counts.get("cached_tokens", 0)
    computed, padded = tokens - cached, counts.get("padded_tokens", 0)
    busy, idle, replicas = meter.get("busy_s", 0.0), meter.get("idle_s", 0.0), meter.get("replicas", 1.0)
    known = flops_per_token is not None and peak is not None and busy > 0
    return EngineCost(
        requests=counts.get("requests", 0),
        repeated=counts.get("repeated", 0),
        stored=counts.get("stored", 0),
        tokens=tokens,
        tokens_per_s=tokens / busy * replicas if busy > 0 else None,
        cached_share=cached / tokens if tokens else None,
        padding_share=padded / (computed + padded) if computed + padded else None,
        busy_share=busy / (busy + idle) if busy + idle > 0 else None,
        mfu=computed * flops_per_token / (busy * peak) if known and flops_per_token and peak else None,
    )
