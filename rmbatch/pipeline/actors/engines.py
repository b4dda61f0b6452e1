"""The way from the tasks that hold the rows to engines on the cluster, each an actor (``replica.py``).

Tasks send token ids and get outputs; rows, scores and ledger stay with them, so a reward model behind a gate or in a
sum is asked like any other part. A Ray Data actor pool would move the rows themselves between operators, which gathers
and cuts blocks (through groups too), and would repeat a row that kills its engine for ever. Here the requests of all
tasks are in flight together, and what a lost engine was working on is asked again, in halves, down to the conversation
that kills engines: that one has no score and says why.

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
"""What a task sends at a time; a prompt's responses are not parted for it."""
DEPTH = 4
"""Chunks of one task that are under way at one replica, so that it need not wait for the next."""
DEATHS_TO_BURY = 2
"""Deaths of an engine over one conversation alone."""
MAX_DEATHS = 24
"""Engines lost without one answer in between, before the job stops: they die of something else than a row."""
ASK_AGAIN_S = 1.0


@dataclass(frozen=True)
class Chunk:
    """Some of a call's conversations."""

    rows: np.ndarray
    alone: bool = False
    """A single conversation that is asked while nothing else is."""
    deaths: int = 0
    """Engines that died over it alone."""

    def after_a_death(self) -> list["Chunk"]:
        """In what form to ask again; nothing: it is the one that kills."""
        if len(self.rows) > 1:
            middle = len(self.rows) // 2
            return [Chunk(self.rows[:middle]), Chunk(self.rows[middle:])]
        if not self.alone:  # it may have died of a neighbour
            return [Chunk(self.rows, alone=True)]
        return [replace(self, deaths=self.deaths + 1)] if self.deaths + 1 < DEATHS_TO_BURY else []


@dataclass(frozen=True)
class Asked:
    """A chunk that is under way."""

    replica: int
    chunk: Chunk
    waits: bool
    """For its turn to be alone; not yet with the engine."""


def _of(ids: pa.Array, chunk: Chunk) -> pa.Array:
    return ids.take(pa.array(chunk.rows))


class Pool:
    """The replicas of one model, as a task reaches them: a ``Connection``. Travels to tasks."""

    def __init__(self, spec: RewardModelSpec, replicas: Sequence[Any]) -> None:
        self._spec, self._replicas = spec, list(replicas)
        self._greetings: dict[int, Any] = {}
        self._up: set[int] = set()
        self._asked_at = 0.0
        self._gone: set[int] = set()
        self._num_deaths = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return Pool, (self._spec, self._replicas)

    def ask(self, ids: pa.Array, prompt: np.ndarray) -> Outputs:
        """As in ``Connection``: conversations of one prompt at one replica, longest first, lost ones again."""
        lengths = np.asarray(ids.value_lengths())
        answers = _Answers(len(ids))
        queues = self._queues(lengths, prompt)
        under_way: dict[Any, Asked] = {}
        while under_way or any(queues.values()):
            self._greet(wait=not under_way)
            for replica in self._up:
                while sum(asked.replica == replica for asked in under_way.values()) < DEPTH:
                    chunk = _next(queues, replica)
                    if chunk is None:
                        break
                    actor = self._replicas[replica]
                    reference = actor.reserve.remote() if chunk.alone else actor.score.remote(_of(ids, chunk))
                    under_way[reference] = Asked(replica, chunk, waits=chunk.alone)
            done, _ = ray.wait(list(under_way), num_returns=1, timeout=ASK_AGAIN_S) if under_way else ([], [])
            for reference in done:
                asked = under_way.pop(reference)
                ticket = self._settle(reference, asked, answers, queues)
                if ticket is not None:
                    reference = self._replicas[asked.replica].score_alone.remote(_of(ids, asked.chunk), ticket)
                    under_way[reference] = replace(asked, waits=False)
        return answers.outputs()

    def _settle(self, reference: Any, asked: Asked, answers: "_Answers", queues: dict[int, deque[Chunk]]) -> Any:
        """Keep a chunk's answers, or ask again what was lost with its engine; a ticket where its turn has come."""
        try:
            answer = ray.get(reference)
            if asked.waits:
                return answer
            if answer is None:
                queues.setdefault(asked.replica, deque()).appendleft(asked.chunk)
                return None
            answers.keep(asked.chunk.rows, answer)
            self._num_deaths = 0
        except (RayActorError, ServiceLost) as lost:
            self._lose(asked.replica, lost)
            again = [asked.chunk] if asked.waits else asked.chunk.after_a_death()
            if not again:
                answers.give_up(asked.chunk.rows, "killed_engine: engines died each time they read this conversation")
            queues.setdefault(asked.replica, deque()).extendleft(reversed(again))
        except ServiceError as error:
            raise JobError(f"model {self._spec.model!r}: {_said(error)}") from error
        return None

    def _queues(self, lengths: np.ndarray, prompt: np.ndarray) -> dict[int, deque[Chunk]]:
        """The conversations as chunks, each prompt's at the replica that this prompt always prefers."""
        owner = preferred(prompt, len(self._replicas))
        queues: dict[int, deque[Chunk]] = {}
        for replica in range(len(self._replicas)):
            mine = np.flatnonzero(owner == replica)
            pieces = chunks(lengths[mine], prompt[mine], CHUNK_TOKENS)
            queues[replica] = deque(Chunk(mine[piece]) for piece in pieces)
        return queues

    def _greet(self, wait: bool) -> None:
        """Learn which replicas answer; ``wait``: until one does. Raises JobError where none can any more."""
        began = time.monotonic()
        while True:
            if time.monotonic() - self._asked_at > ASK_AGAIN_S or (wait and not self._up):
                self._asked_at = time.monotonic()
                self._look()
            if self._up or not wait:
                return
            if time.monotonic() - began > self._spec.startup_timeout_s:
                raise JobError(f"model {self._spec.model!r}: no engine for {self._spec.startup_timeout_s:.0f} s")

    def _look(self) -> None:
        for index, replica in enumerate(self._replicas):
            if index not in self._up | self._gone and index not in self._greetings:
                self._greetings[index] = replica.load.remote()
        if not self._greetings:
            return
        waiting = 0.0 if self._up else ASK_AGAIN_S
        ready, _ = ray.wait(list(self._greetings.values()), num_returns=len(self._greetings), timeout=waiting)
        for index, greeting in list(self._greetings.items()):
            if greeting not in ready:
                continue
            del self._greetings[index]
            try:
                why = ray.get(greeting)
            except ActorDiedError as died:  # for good: the job has ended it
                self._gone.add(index)
                if len(self._gone) == len(self._replicas):
                    raise JobError(f"model {self._spec.model!r}: no engine is left") from died
                continue
            except RayActorError:  # it died, and begins anew
                time.sleep(ASK_AGAIN_S / 4)
                continue
            if why:
                raise JobError(f"model {self._spec.model!r} cannot be served: {why}")
            self._up.add(index)

    def _lose(self, replica: int, lost: Exception) -> None:
        if replica in self._up:
            self._up.discard(replica)
            self._num_deaths += 1
        if self._num_deaths > MAX_DEATHS:
            raise JobError(
                f"model {self._spec.model!r}: {self._num_deaths} engines died in a row: {_said(lost)}"
            ) from lost


def _said(error: Exception) -> str:
    """What an error from an actor says, in one line; Ray's own text is a traceback."""
    said = str(getattr(error, "cause", None) or error).strip().splitlines() or [type(error).__name__]
    return said[0]


class _Answers:
    """The answers to one call, as they come."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._rows: list[np.ndarray] = []
        self._parts: list[Outputs] = []

    def keep(self, rows: np.ndarray, outputs: Outputs) -> None:
        self._rows.append(rows)
        self._parts.append(outputs)

    def give_up(self, rows: np.ndarray, why: str) -> None:
        self.keep(rows, Outputs(pa.nulls(len(rows), VALUES), pa.array([why] * len(rows), pa.string())))

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


def preferred(prompt: np.ndarray, num_replicas: int) -> np.ndarray:
    """The replica of each prompt (int64 hashes): rendezvous hashing, so that all tasks agree without talking."""
    seeds = np.arange(1, num_replicas + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = prompt.astype(np.uint64)[:, None] ^ seeds[None, :]
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray((mixed ^ (mixed >> np.uint64(31))).argmax(axis=1), dtype=np.int64)


def _next(queues: dict[int, deque[Chunk]], replica: int) -> Chunk | None:
    """The next chunk for a replica: of its own, or of the one that has the most left."""
    queue = queues.get(replica) or max(queues.values(), key=len, default=None)
    return queue.popleft() if queue else None
