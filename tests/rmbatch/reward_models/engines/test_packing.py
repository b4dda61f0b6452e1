"""Batches under a budget of tokens: every row once, little padding, and what does not fit in memory alone fails."""

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from rmbatch.reward_models.engines.packing import WINDOW_BATCHES, Failure, Ids, Packer, Values, batch_end, longest_first


def planned(lengths: Sequence[int], budget: int, equal: bool = False) -> list[list[int]]:
    """The lengths of each batch."""
    given = np.array(lengths, np.int64)
    ordered, found, begin = given[longest_first(given)], [], 0
    while begin < len(ordered):
        end = batch_end(ordered, begin, budget, equal=equal)
        found.append(ordered[begin:end].tolist())
        begin = end
    return found


@pytest.mark.parametrize(
    ("lengths", "budget", "equal", "expected"),
    [
        ([], 10, False, []),
        ([3], 10, False, [[3]]),
        ([4, 5, 4, 5], 10, False, [[5, 5], [4, 4]]),  # the longest first
        ([40, 40, 39], 119, False, [[40, 40], [39]]),  # padding counts: 3 rows of 40 are 120
        ([40, 40, 39], 120, False, [[40, 40, 39]]),  # exactly the budget
        ([50, 2], 10, False, [[50], [2]]),  # longer than the budget: a batch of its own
        ([7, 7], 6, False, [[7], [7]]),
        ([90, 10, 10, 10], 1000, False, [[90], [10, 10, 10]]),  # they fit, but the padding is dear
        ([90, 10, 10, 10], 100_000, False, [[90, 10, 10, 10]]),  # here a batch of its own would be dearer
        ([3, 2, 3, 2, 2], 100, True, [[3, 3], [2, 2, 2]]),  # nothing padded
        ([2, 2, 2], 4, True, [[2, 2], [2]]),
        ([0, 0], 4, False, [[0], [0]]),  # refused later
    ],
)
def test_plan(lengths: list[int], budget: int, equal: bool, expected: list[list[int]]) -> None:
    assert planned(lengths, budget, equal) == expected


@pytest.mark.parametrize(("num_rows", "padded_share"), [(64, 0.15), (2000, 0.05)])
def test_plan_keeps_every_row_and_pads_little(num_rows: int, padded_share: float) -> None:
    lengths = np.random.default_rng(0).lognormal(6, 0.8, num_rows).astype(int) + 1
    batches = planned(lengths.tolist(), 16_384)
    assert sorted(length for batch in batches for length in batch) == sorted(lengths.tolist())
    assert all(len(batch) * batch[0] <= 16_384 for batch in batches if len(batch) > 1)
    computed = sum(len(batch) * batch[0] for batch in batches)
    assert 1 - lengths.sum() / computed < padded_share


class Memory:
    """Computes a row as its first id, and has memory for so many tokens, padding included; keeps what it was asked."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.asked: list[tuple[int, int]] = []

    def __call__(self, rows: Sequence[Ids]) -> list[Values] | Failure:
        self.asked.append((len(rows), max(map(len, rows))))
        if len(rows) * max(map(len, rows)) > self.tokens:
            return Failure("out_of_memory", "full", out_of_memory=True)
        return [row[:1].astype(np.float32) for row in rows]


def test_out_of_memory_lowers_the_budget_and_nulls_only_misfits() -> None:
    memory = Memory(100)
    packer = Packer(memory, batch_tokens=400)
    rows = [np.full(length, place, np.int32) for place, length in enumerate([10] * 30 + [101, 99])]
    answers = asyncio.run(packer.ask(rows))
    assert packer.budget == 101  # 202 tokens were too many; that 101 alone are tells nothing of batches
    assert answers.values[30] is None
    assert answers.errors[30] == "out_of_memory: 101 tokens do not fit alone: full"
    assert [place for place, value in enumerate(answers.values) if value is None] == [30]
    assert [value[0] for value in answers.values if value is not None] == [*range(30), 31]
    memory.asked.clear()
    asyncio.run(packer.ask(rows[:30]))
    assert all(num_rows * longest <= packer.budget for num_rows, longest in memory.asked)
    packer.close("done")


def test_abandoned_call_is_not_computed_beyond_its_window() -> None:
    memory, begun, cancelled = Memory(1000), threading.Event(), threading.Event()

    def compute(rows: Sequence[Ids]) -> list[Values] | Failure:
        begun.set()
        cancelled.wait(30)
        return memory(rows)

    packer = Packer(compute, batch_tokens=10)

    async def two_calls() -> None:
        row = np.ones(10, np.int32)
        first = asyncio.ensure_future(packer.ask([row] * 1000))
        await asyncio.to_thread(begun.wait, 30)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        cancelled.set()
        assert (await packer.ask([row])).errors == [None]

    asyncio.run(two_calls())
    assert len(memory.asked) == WINDOW_BATCHES + 1
    packer.close("done")
