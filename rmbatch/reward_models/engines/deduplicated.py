"""An engine that computes equal conversations once: those in flight, and those that it has answered lately.

Keys are hashes of the token ids, so two texts with the same tokens are equal. It forgets its answers with the process;
scores that stay are kept by ``rmbatch/stores/scores.py``.

    engine = DeduplicatedEngine(open_engine(spec))
"""

import asyncio
from collections import Counter, OrderedDict

import pyarrow as pa

from rmbatch.reward_models.engines.base import Engine, Outputs
from rmbatch.stores.scores import VALUES, keys_of

MAX_ANSWERS = 200_000
"""Answers that one engine remembers; about 100 MB."""

Answer = tuple[list[float] | None, str | None]


class DeduplicatedEngine:
    """An ``Engine`` that passes each conversation to another engine at most once."""

    def __init__(self, engine: Engine, max_answers: int = MAX_ANSWERS) -> None:
        self._engine, self._max_answers = engine, max_answers
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()
        self._in_flight: dict[bytes, asyncio.Future[Answer]] = {}
        self.width = engine.width

    async def score(self, ids: pa.Array) -> Outputs:
        """As in ``Engine``; ``repeated`` in ``usage`` counts conversations that were not computed again."""
        keys = [key.tobytes() for key in keys_of(ids)]
        new: dict[bytes, int] = {}
        others: dict[bytes, asyncio.Future[Answer]] = {}
        found: dict[bytes, Answer] = {}
        for place, key in enumerate(keys):
            if key in self._answers:
                self._answers.move_to_end(key)
                found[key] = self._answers[key]
            elif key in self._in_flight and key not in new:
                others[key] = self._in_flight[key]
            elif key not in new:
                new[key] = place
                self._in_flight[key] = asyncio.get_running_loop().create_future()
        usage = Counter({"repeated": len(keys) - len(new)})
        if new:
            usage.update(await self._score_new(ids, new, found))
        for key, future in others.items():
            found[key] = await future
        return Outputs(
            pa.array([found[key][0] for key in keys], VALUES),
            pa.array([found[key][1] for key in keys], pa.string()),
            usage,
        )

    async def _score_new(self, ids: pa.Array, new: dict[bytes, int], found: dict[bytes, Answer]) -> dict[str, int]:
        """Score the new conversations, and put the answers into ``found``. Other calls that wait get them, too, or the
        same exception."""
        futures = [self._in_flight[key] for key in new]
        try:
            outputs = await self._engine.score(ids.take(pa.array(list(new.values()))))
        except BaseException as error:
            for future in futures:
                if not future.cancelled():
                    future.set_exception(error)
                    future.exception()  # nobody may be waiting, and asyncio would complain
            raise
        finally:
            for key in new:
                del self._in_flight[key]
        answers = zip(outputs.values.to_pylist(), outputs.error.to_pylist(), strict=True)
        for key, future, answer in zip(new, futures, answers, strict=True):
            future.set_result(answer)
            found[key] = answer
            if answer[1] is None:  # what failed may go well another time
                self._answers[key] = answer
        while len(self._answers) > self._max_answers:
            self._answers.popitem(last=False)
        return dict(outputs.usage)

    def close(self) -> None:
        """Free the model."""
        self._engine.close()
