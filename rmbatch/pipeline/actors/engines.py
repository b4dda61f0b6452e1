"""Connects tasks to engines on the cluster. Each engine is an actor (``replica.py``).

Tasks send token ids and get outputs. Rows, scores and ledger stay in the task, so a reward model can stand behind a
gate or in a sum. A Ray Data actor pool would move the rows between operators, which gathers and cuts blocks, and would
repeat a row that kills its engine for ever. Here the requests of all tasks are in flight together.
When an engine is lost, its chunks are asked again in halves, down to the conversation that kills engines. That one gets
no score and an error.

    outputs = Pool(spec, replicas).ask(ids, prompt)
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import ActorDiedError, RayActorError

from connectors.errors import JobError
from rmbatch.endpoints.errors import ServiceError, ServiceLost
from rmbatch.reward_models.engines.base import Outputs
from rmbatch.reward_models.engines.order import chunks
from rmbatch.reward_models.spec import RewardModelSpec
from rmbatch.stores.scores import VALUES

CHUNK_TOKENS = 16_384
"""The tokens of a chunk, about: the responses of one prompt stay together."""
DEPTH = 4
"""The most chunks of one task under way at one replica, so that it need not wait for the next."""
DEATHS_TO_GIVE_UP = 2
"""The deaths of engines over a single conversation, after which it gets no score."""
MAX_DEATHS = 24
"""The most engines lost without an answer between them. Then the job stops: they do not die of a row."""
ASK_AGAIN_S = 1.0


@dataclass(frozen=True)
class Chunk:
    """Some conversations of a call."""

    rows: np.ndarray
    alone: bool = False
    """Whether it is a single conversation that is asked while nothing else is in flight."""
    deaths: int = 0
    """The engines that died over it alone."""

    def split_after_death(self) -> list["Chunk"]:
        """Return the chunks to ask again. Empty: this conversation kills engines."""
        if len(self.rows) > 1:
            middle = len(self.rows) // 2
            return [Chunk(self.rows[:middle]), Chunk(self.rows[middle:])]
        if not self.alone:  # the engine may have died of another chunk
            return [Chunk(self.rows, alone=True)]
        return [replace(self, deaths=self.deaths + 1)] if self.deaths + 1 < DEATHS_TO_GIVE_UP else []


@dataclass(frozen=True)
class InFlight:
    """A chunk under way."""

    replica: int
    chunk: Chunk
    waits: bool
    """Whether it still waits for exclusive access, and has not reached the engine."""


def _take(ids: pa.Array, chunk: Chunk) -> pa.Array:
    return ids.take(pa.array(chunk.rows))


class Pool:
    """A ``Connection`` to the replicas of one model. It travels to tasks."""

    def __init__(self, spec: RewardModelSpec, replicas: Sequence[Any]) -> None:
        self._spec, self._replicas = spec, list(replicas)
        self._loads: dict[int, Any] = {}
        self._up: set[int] = set()
        self._checked_at = 0.0
        self._gone: set[int] = set()
        self._num_deaths = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return Pool, (self._spec, self._replicas)

    def ask(self, ids: pa.Array, prompt: np.ndarray) -> Outputs:
        """As in ``Connection``. A prompt's conversations go to one replica, longest first. Lost ones go again."""
        lengths = np.asarray(ids.value_lengths())
        answers = _Answers(len(ids))
        queues = self._fill_queues(lengths, prompt)
        under_way: dict[Any, InFlight] = {}
        while under_way or any(queues.values()):
            self._find_replicas(wait=not under_way)
            for replica in self._up:
                while sum(each.replica == replica for each in under_way.values()) < DEPTH:
                    chunk = _take_next(queues, replica)
                    if chunk is None:
                        break
                    actor = self._replicas[replica]
                    reference = actor.reserve.remote() if chunk.alone else actor.score.remote(_take(ids, chunk))
                    under_way[reference] = InFlight(replica, chunk, waits=chunk.alone)
            done, _ = ray.wait(list(under_way), num_returns=1, timeout=ASK_AGAIN_S) if under_way else ([], [])
            for reference in done:
                done_one = under_way.pop(reference)
                ticket = self._settle(reference, done_one, answers, queues)
                if ticket is not None:
                    reference = self._replicas[done_one.replica].score_alone.remote(_take(ids, done_one.chunk), ticket)
                    under_way[reference] = replace(done_one, waits=False)
        return answers.outputs()

    def _settle(self, reference: Any, done: InFlight, answers: "_Answers", queues: dict[int, deque[Chunk]]) -> Any:
        """Add a chunk's answers, or queue it again if its engine is lost. A ticket: it has got exclusive access."""
        try:
            answer = ray.get(reference)
            if done.waits:
                return answer
            if answer is None:
                queues.setdefault(done.replica, deque()).appendleft(done.chunk)
                return None
            answers.add(done.chunk.rows, answer)
            self._num_deaths = 0
        except (RayActorError, ServiceLost) as lost:
            self._record_death(done.replica, lost)
            again = [done.chunk] if done.waits else done.chunk.split_after_death()
            if not again:
                answers.give_up(done.chunk.rows, "killed_engine: engines died each time they read this conversation")
            queues.setdefault(done.replica, deque()).extendleft(reversed(again))
        except ServiceError as error:
            raise JobError(f"model {self._spec.model!r}: {_summarise_error(error)}") from error
        return None

    def _fill_queues(self, lengths: np.ndarray, prompt: np.ndarray) -> dict[int, deque[Chunk]]:
        """Cut the conversations into chunks, in the queue of the replica that their prompt belongs to."""
        owner = choose_replicas(prompt, len(self._replicas))
        queues: dict[int, deque[Chunk]] = {}
        for replica in range(len(self._replicas)):
            mine = np.flatnonzero(owner == replica)
            pieces = chunks(lengths[mine], prompt[mine], CHUNK_TOKENS)
            queues[replica] = deque(Chunk(mine[piece]) for piece in pieces)
        return queues

    def _find_replicas(self, wait: bool) -> None:
        """Find the replicas that answer. ``wait``: until one does. Raises JobError where none is left."""
        began = time.monotonic()
        while True:
            if time.monotonic() - self._checked_at > ASK_AGAIN_S or (wait and not self._up):
                self._checked_at = time.monotonic()
                self._check_replicas()
            if self._up or not wait:
                return
            if time.monotonic() - began > self._spec.startup_timeout_s:
                raise JobError(f"model {self._spec.model!r}: no engine for {self._spec.startup_timeout_s:.0f} s")

    def _check_replicas(self) -> None:
        for index, replica in enumerate(self._replicas):
            if index not in self._up | self._gone and index not in self._loads:
                self._loads[index] = replica.load.remote()
        if not self._loads:
            return
        waiting = 0.0 if self._up else ASK_AGAIN_S
        ready, _ = ray.wait(list(self._loads.values()), num_returns=len(self._loads), timeout=waiting)
        for index, load in list(self._loads.items()):
            if load not in ready:
                continue
            del self._loads[index]
            try:
                why = ray.get(load)
            except ActorDiedError as died:  # for good: the job has ended it
                self._gone.add(index)
                if len(self._gone) == len(self._replicas):
                    raise JobError(f"model {self._spec.model!r}: no engine is left") from died
                continue
            except RayActorError:  # it died, and Ray restarts it
                time.sleep(ASK_AGAIN_S / 4)
                continue
            if why:
                raise JobError(f"model {self._spec.model!r} cannot be served: {why}")
            self._up.add(index)

    def _record_death(self, replica: int, lost: Exception) -> None:
        if replica in self._up:
            self._up.discard(replica)
            self._num_deaths += 1
        if self._num_deaths > MAX_DEATHS:
            raise JobError(
                f"model {self._spec.model!r}: {self._num_deaths} engines died in a row: {_summarise_error(lost)}"
            ) from lost


def _summarise_error(error: Exception) -> str:
    """Summarise an actor's error in one line. Ray's own text is a traceback."""
    lines = str(getattr(error, "cause", None) or error).strip().splitlines() or [type(error).__name__]
    return lines[0]


class _Answers:
    """Collects the answers to one call."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._rows: list[np.ndarray] = []
        self._parts: list[Outputs] = []

    def add(self, rows: np.ndarray, outputs: Outputs) -> None:
        self._rows.append(rows)
        self._parts.append(outputs)

    def give_up(self, rows: np.ndarray, why: str) -> None:
        self.add(rows, Outputs(pa.nulls(len(rows), VALUES), pa.array([why] * len(rows), pa.string())))

    def outputs(self) -> Outputs:
        rows = np.concatenate(self._rows) if self._rows else np.zeros(0, np.int64)
        if not np.array_equal(np.sort(rows), np.arange(self._num_rows)):
            raise JobError("engines gave answers that fit no question; this is a bug in rmbatch")
        back = pa.array(np.argsort(rows))
        values = pa.concat_arrays([pa.array([], VALUES), *(part.values for part in self._parts)]).take(back)
        error = pa.concat_arrays([pa.array([], pa.string()), *(part.error for part in self._parts)]).take(back)
        usage: dict[str, int] = {}
        for part in self._parts:
            for name, count in part.usage.items():
                usage[name] = usage.get(name, 0) + count
        return Outputs(values, error, usage)


def choose_replicas(prompt: np.ndarray, num_replicas: int) -> np.ndarray:
    """Choose the replica of each prompt (int64 hashes) by rendezvous hashing, so that all tasks choose the same."""
    seeds = np.arange(1, num_replicas + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = prompt.astype(np.uint64)[:, None] ^ seeds[None, :]
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray((mixed ^ (mixed >> np.uint64(31))).argmax(axis=1), dtype=np.int64)


def _take_next(queues: dict[int, deque[Chunk]], replica: int) -> Chunk | None:
    """Take the next chunk for a replica: its own, or one of the longest queue."""
    queue = queues.get(replica) or max(queues.values(), key=len, default=None)
    return queue.popleft() if queue else None
