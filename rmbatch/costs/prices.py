"""What judging has cost: tokens as counts that add across workers, and their price from a table that the user sets.

There are no built-in prices: they change, and a guess would be believed. Where a model has no price, or a server did
not say how many tokens it took, the cost is None and ``unknown`` says why. Tries that failed are not in it, for servers
do not say what those cost.

    spent = count(completions)                           # a Counter: spent += count(…) in any worker, in any order
    cost(spent, Price(input=2.0, cached=0.5, output=8.0)).usd
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import Field

from rmbatch.settings.base import Settings

_Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Price(Settings):
    """Of one model, in US dollars per million tokens."""

    input: _Usd
    """Of prompts."""
    output: _Usd
    """Of what is generated, reasoning included."""
    cached: _Usd | None = None
    """Of prompt tokens that the provider had cached. None: as ``input``."""


@dataclass(frozen=True)
class Usage:
    """Tokens of a request, as its server counts them."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    """Of ``prompt``, what the provider had cached."""
    reasoning: int = 0
    """Of ``completion``, what was thought."""


class Paid(Protocol):
    """What of a completion is counted."""

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
    """What was spent, as far as it is known."""

    known_usd: float
    """Of the requests whose tokens are known: at least this."""
    unknown: str = ""
    """What is missing; empty where all is known."""

    @property
    def usd(self) -> float | None:
        """All of it; None where anything is missing."""
        return None if self.unknown else self.known_usd


def count(completions: Iterable[Paid]) -> Counter[str]:
    """Tokens, tries and answers; what came from a cache counts as ``saved_…``."""
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
    """The price of what ``count`` has counted.

    Counts are whole numbers and multiplied once, so the order in which workers add does not change it.
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
    """What so many tokens cost."""
    cached_price = price.input if price.cached is None else price.cached
    fresh = usage.prompt - usage.cached
    return (fresh * price.input + usage.cached * cached_price + usage.completion * price.output) / 1e6
