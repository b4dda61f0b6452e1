"""What asking has cost, in a line: nothing is said that is not known."""

import pytest

from rmbatch.costs.chat import chat_cost
from rmbatch.costs.prices import Price

COUNTS = {"answers": 12_040, "tries": 12_050, "failures": 3, "saved_answers": 310, "prompt_tokens": 3_000_000}
COUNTS |= {"completion_tokens": 100_000, "cached_tokens": 1_500_000}


@pytest.mark.parametrize(
    ("price", "line"),
    [
        (Price(input=1.0, cached=0.5, output=10.0), ", $3.25"),
        (Price(input=0.0, output=0.0), ""),  # one's own GPUs
        (None, ""),
    ],
)
def test_in_one_line(price: Price | None, line: str) -> None:
    told = chat_cost(COUNTS, price).line()
    assert told == (
        "12,040 answers, 310 kept from before or equal to another, 3 without an answer, 12,050 tries, "
        f"3,100,000 tokens, 50% of prompts cached by the provider{line}"
    )


def test_what_is_not_known_is_not_said() -> None:
    assert chat_cost({}, None).line() == "0 answers, 0 tokens"
    unpriced = chat_cost(COUNTS, None)
    assert unpriced.usd is None
    assert "no price is set" in unpriced.unknown
    assert chat_cost({**COUNTS, "untold_answers": 2}, Price(input=1, output=1)).usd is None
