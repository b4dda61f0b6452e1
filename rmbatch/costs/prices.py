"""The cost of chat requests: token counts that add across workers, and their price, which the user sets.

There are no built-in prices: they change, and people would believe a guess. Where a model has no price, or a server did
not report its tokens, the cost is None and ``unknown`` says why. Failed tries are not included, because servers do not
report their cost.

    usage = count(completions)                           # a Counter: usage += count(…) in any worker, in any order
    cost(usage, Price(input=2.0, cached=0.5, output=8.0)).usd
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import Field

from rmbatch.settings.base import Settings

_Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Price(Settings):
    """The price of one model, in US dollars per million tokens."""

    input: _Usd
    """Price of prompt tokens."""
    output: _Usd
    """Price of generated tokens, reasoning included."""
    cached: _Usd | None = None
    """Price of prompt tokens that the provider had cached. None: as ``input``."""


@dataclass(frozen=True)
class Usage:
    """Tokens of a request, as its server counts them."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    """The part of ``prompt`` that the provider had cached."""
    reasoning: int = 0
    """The part of ``completion`` that was reasoning."""


class CountedCompletion(Protocol):
    """The parts of a completion that are counted."""

    @property
    def usage(self) -> Usage | None: ...
    @property
    def from_cache(self) -> bool: ...
    @property
    def num_tries(self) -> int: ...
    @property
    def endpoint(self) -> str: ...


@dataclass(frozen=True)
class Cost:
    """A cost, as far as it is known."""

    known_usd: float
    """The cost of the requests whose tokens are known: a lower bound."""
    unknown: str = ""
    """What is missing; empty where all is known."""

    @property
    def usd(self) -> float | None:
        """The whole cost; None where anything is missing."""
        return None if self.unknown else self.known_usd


def count(completions: Iterable[CountedCompletion]) -> Counter[str]:
    """Count tokens, tries and answers; those from a cache count as ``saved_…``."""
    counts: Counter[str] = Counter()
    for completion in completions:
        kind, usage = "saved_" if completion.from_cache else "", completion.usage
        counts[f"{kind}answers" if completion.endpoint else "failures"] += 1
        counts["tries"] += completion.num_tries
        if usage is not None:
            counts[f"{kind}prompt_tokens"] += usage.prompt
            counts[f"{kind}completion_tokens"] += usage.completion
            counts[f"{kind}cached_tokens"] += usage.cached
            counts[f"{kind}reasoning_tokens"] += usage.reasoning
        elif completion.endpoint and not completion.from_cache:
            counts["untold_answers"] += 1
    return Counter({what: number for what, number in counts.items() if number})


def cost(counts: Mapping[str, int], price: Price | None) -> Cost:
    """The cost of these counts (as from ``count``).

    Counts are whole numbers and are multiplied once, so the order in which workers add does not change the cost.
    """
    prompt, completion = counts.get("prompt_tokens", 0), counts.get("completion_tokens", 0)
    untold = counts.get("untold_answers", 0)
    if not prompt and not completion and not untold:
        return Cost(0.0)
    if price is None:
        return Cost(0.0, f"no price is set ({prompt + completion:,} tokens); set price: {{input: …, output: …}}")
    known = usd_of(Usage(prompt, completion, counts.get("cached_tokens", 0)), price)
    return Cost(known, f"the tokens of {untold} answers were not told" if untold else "")


def usd_of(usage: Usage, price: Price) -> float:
    """The cost of these tokens in US dollars."""
    cached_price = price.input if price.cached is None else price.cached
    fresh = usage.prompt - usage.cached
    return (fresh * price.input + usage.cached * cached_price + usage.completion * price.output) / 1e6
