"""Tokens add in any order, and money is only said where it is known."""

from collections import Counter

import pytest

from rmbatch.chat.completion import Completion
from rmbatch.costs.prices import Price, Usage, cost, count
from rmbatch.endpoints.balancer import Failure

GPT = Price(input=2.0, cached=0.5, output=8.0)


def answered(usage: Usage | None, **others: object) -> Completion:
    return Completion(texts=("A",), usage=usage, endpoint="http://host", **{"num_tries": 1, **others})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("completions", "usd"),
    [
        ([], 0.0),
        ([answered(Usage(1_000_000, 0))], 2.0),
        (
            [answered(Usage(1_000_000, 500_000, cached=400_000, reasoning=100_000))],
            1.2 + 0.2 + 4.0,
        ),  # thought is output
        ([answered(Usage(1000, 10), from_cache=True, num_tries=0)], 0.0),  # kept: paid before
        ([answered(None)], None),  # the server did not say
        ([Completion(failure=Failure("endpoint_error", "x"), num_tries=8)], 0.0),  # no answer, no bill
        ([answered(Usage(1_000_000, 0)), answered(None)], None),
    ],
)
def test_the_cost_of_what_was_asked(completions: list[Completion], usd: float | None) -> None:
    spent = cost(count(completions), GPT)
    assert spent.usd == (usd if usd is None else pytest.approx(usd))
    assert bool(spent.unknown) == (usd is None)


def test_there_are_no_built_in_prices() -> None:
    spent = cost(count([answered(Usage(100, 10))]), None)
    assert (spent.usd, spent.known_usd) == (None, 0.0)
    assert spent.unknown == "no price is set (110 tokens); set price: {input: …, output: …}"


def test_cached_tokens_cost_full_price_without_a_cached_price() -> None:
    assert cost(count([answered(Usage(1_000_000, 0, cached=1_000_000))]), Price(input=3, output=1)).usd == 3.0


def test_workers_add_up_to_one() -> None:
    completions = [answered(Usage(n, 7 * n, n // 2, n // 3), num_tries=n % 3 + 1) for n in range(1, 50)]
    parts = [count(completions[n : n + 7]) for n in range(0, 49, 7)]
    backwards: Counter[str] = sum(reversed(parts), Counter())
    assert sum(parts, Counter()) == backwards == count(completions)
    price = Price(input=0.0375, output=0.3)
    assert cost(backwards, price) == cost(count(completions), price)


def test_kept_answers_count_as_saved() -> None:
    counts = count([answered(Usage(10, 1)), answered(Usage(10, 1), from_cache=True, num_tries=0)])
    assert counts["answers"] == counts["saved_answers"] == 1
    assert counts["prompt_tokens"] == counts["saved_prompt_tokens"] == 10
    assert counts["tries"] == 1
