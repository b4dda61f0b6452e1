"""Packs the conversations of many calls into padded batches: one queue, windows sorted by length, a token budget.

It knows lengths and failures, but no model: the caller gives the function that computes a batch. A batch that fails is
halved.

    packer = Packer(compute, batch_tokens=16_384)
    answers = await packer.ask(rows)          # any number of calls at once
    packer.close("the engine was closed")
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rmbatch.endpoints.errors import ServiceLost

_log = logging.getLogger("rmbatch.reward_models")

Ids = np.ndarray[Any, np.dtype[np.int32]]
"""Tokens of one conversation."""
Values = np.ndarray[Any, np.dtype[np.float32]]
"""Outputs of one conversation."""
Lengths = np.ndarray[Any, np.dtype[np.int64]]
"""Numbers of tokens."""

WINDOW_BATCHES = 16
"""A window is so many batches' tokens, sorted together: enough that neighbours have nearly equal length, and no more,
because a call waits for its window."""
BATCH_COST = 1 / 32
"""The fixed cost of a batch, as a share of the budget: launches, and a device that is not filled."""
CLOSE_S = 10.0
"""How long ``close`` waits for the batch that is being computed."""


def longest_first(lengths: Lengths) -> Lengths:
    """The order that sorts lengths downwards, so that too little memory shows at once; equal ones stay as they came."""
    return np.argsort(-lengths, kind="stable")


def batch_end(lengths: Lengths, begin: int, budget: int, *, equal: bool = False) -> int:
    """The end of the batch that begins at ``begin``: within ``budget`` tokens, all padded to its first row's length.

    lengths[n] tokens, sorted downwards, begin < n -> end in (begin, n]: one that exceeds the budget is a batch of its
    own. Of the ends within the budget it is the one where a token costs least: each further row makes the batch's own
    cost worth more, and its padding costs. ``equal``: only rows as long as the first, so that nothing is padded.
    """
    longest = max(int(lengths[begin]), 1)
    rows = lengths[begin : begin + max(budget // longest, 1)]
    if equal:
        return begin + int((rows == lengths[begin]).sum())
    computed = budget * BATCH_COST + longest * np.arange(1, len(rows) + 1)
    return begin + 1 + int((computed / np.maximum(rows.cumsum(), 1)).argmin())


@dataclass(frozen=True)
class Failure:
    """Why a batch has no outputs. It is text, because an exception would hold the batch's memory."""

    code: str
    message: str
    out_of_memory: bool = False


Compute = Callable[[Sequence[Ids]], list[Values] | Failure]
"""The outputs of a batch, in its order, or why there are none. Raises ServiceLost when no batch can be computed."""


@dataclass(eq=False)
class Answers:
    """The outputs or errors of one call's rows, in their order."""

    values: list[Values | None]
    errors: list[str | None]
    padded_tokens: int = 0


class Packer:
    """A thread that computes the rows of all calls in shared batches.

    A batch that fails is halved, down to the rows that fail alone. After one that did not fit in memory, all batches
    stay below half its tokens, because the next one of that size would not fit either.
    """

    def __init__(self, compute: Compute, batch_tokens: int, *, equal_lengths: bool = False) -> None:
        self._equal = equal_lengths
        self.budget, self._window_tokens = batch_tokens, WINDOW_BATCHES * batch_tokens
        self._waiting: deque[_Row] = deque()
        self._calls: set[_Call] = set()
        self._changed = threading.Condition()
        self._why_lost = ""
        self._thread = threading.Thread(target=self._work, args=(compute,), name="batches", daemon=True)
        self._thread.start()

    async def ask(self, rows: Sequence[Ids]) -> Answers:
        """The answers to these rows. Raises ServiceLost when there will be none."""
        call = _Call(len(rows))
        with self._changed:
            if self._why_lost:
                raise ServiceLost(self._why_lost)
            if not rows:
                return call.answers
            self._calls.add(call)
            self._waiting.extend(_Row(call, place, ids) for place, ids in enumerate(rows))
            self._changed.notify()
        try:
            await asyncio.wrap_future(call.done)
        finally:
            with self._changed:
                self._calls.discard(call)
        return call.answers

    def close(self, why: str) -> None:
        """Compute nothing more and drop the function. Calls that wait, and later calls, raise ServiceLost."""
        self._lose(why)
        self._thread.join(CLOSE_S)

    def _lose(self, why: str) -> None:
        with self._changed:
            self._why_lost = self._why_lost or why
            self._waiting.clear()
            calls, self._calls = self._calls, set()
            self._changed.notify_all()
        for call in calls:
            call.end(ServiceLost(self._why_lost))

    def _work(self, compute: Compute) -> None:
        """Compute one window after the other, until the packer is closed or lost."""
        try:
            while window := self._next_window():
                self._run(compute, window)
        except Exception as error:  # a thread that ended unseen would leave everybody waiting
            self._lose(str(error) if isinstance(error, ServiceLost) else f"batching failed: {error!r}")

    def _next_window(self) -> "list[_Row]":
        """The rows that have waited longest, up to the window's tokens; empty once the packer is lost."""
        window: list[_Row] = []
        tokens = 0
        with self._changed:
            while not window and not self._why_lost:
                self._changed.wait_for(lambda: self._waiting or self._why_lost)
                while self._waiting and (not window or tokens + len(self._waiting[0].ids) <= self._window_tokens):
                    row = self._waiting.popleft()
                    if row.call in self._calls:  # else nobody waits for it any more
                        window.append(row)
                        tokens += len(row.ids)
        return window

    def _run(self, compute: Compute, window: "Sequence[_Row]") -> None:
        """Answer each row of a window. Each batch is cut just before it runs, with the budget of that moment."""
        lengths = np.array([len(row.ids) for row in window], np.int64)
        order = longest_first(lengths)
        rows, lengths = [window[place] for place in order], lengths[order]
        begin = 0
        while begin < len(rows) and not self._why_lost:
            end = batch_end(lengths, begin, self.budget, equal=self._equal)
            self._run_batch(compute, rows[begin:end])
            begin = end

    def _run_batch(self, compute: Compute, rows: "Sequence[_Row]") -> None:
        longest = len(rows[0].ids)
        found = compute([row.ids for row in rows])
        if not isinstance(found, Failure):
            for row, values in zip(rows, found, strict=True):
                row.call.answer(row.place, values, None, longest - len(row.ids))
        elif len(rows) == 1:
            tokens = f"{longest} tokens do not fit alone: " if found.out_of_memory else ""
            rows[0].call.answer(rows[0].place, None, f"{found.code}: {tokens}{found.message}")
        else:
            if found.out_of_memory:
                self._lower_budget(len(rows) * longest)
            half = len(rows) // 2
            self._run_batch(compute, rows[:half])
            self._run_batch(compute, rows[half:])

    def _lower_budget(self, too_many: int) -> None:
        if too_many // 2 < self.budget:
            self.budget = too_many // 2
            _log.warning(
                "out of memory at %d tokens in a batch: at most %d from now on; a lower batch_tokens avoids this",
                *(too_many, self.budget),
            )


@dataclass(eq=False)
class _Call:
    """One ``ask`` under way."""

    num_open: int
    answers: Answers = field(init=False)
    done: "Future[None]" = field(default_factory=Future)

    def __post_init__(self) -> None:
        self.answers = Answers([None] * self.num_open, [None] * self.num_open)

    def answer(self, place: int, values: Values | None, error: str | None, padded_tokens: int = 0) -> None:
        """Set the outputs or the error of one row; the last one ends the call."""
        self.answers.values[place], self.answers.errors[place] = values, error
        self.answers.padded_tokens += padded_tokens
        self.num_open -= 1
        if not self.num_open:
            self.end()

    def end(self, error: ServiceLost | None = None) -> None:
        """Wake the caller, if it still waits."""
        with suppress(InvalidStateError):
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)


@dataclass(frozen=True, eq=False)
class _Row:
    """One conversation of a call."""

    call: _Call
    place: int
    ids: Ids
