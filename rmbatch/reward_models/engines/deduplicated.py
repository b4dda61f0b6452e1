"""An engine that computes equal conversations once: those in flight, and those that it has lately answered.

Keys are hashes of the token ids, so two texts that the model would read alike are one. What lives longer than the
engine is the score store's (``store.py``).

    engine = Once(open_engine(spec))
"""

import asyncio
from collections import Counter, OrderedDict

import pyarrow as pa

from rmbatch.reward_models.engines.base import Engine, Outputs
from rmbatch.stores.scores import VALUES, keys_of

REMEMBERED = 200_000
"""Answers that are kept; about 100 MB."""

Answer = tuple[list[float] | None, str | None]


class Once:
    """An ``Engine`` in front of another one."""

    def __init__(self, engine: Engine, remembered: int = REMEMBERED) -> None:
        self._engine, self._remembered = engine, remembered
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()
        self._in_flight: dict[bytes, asyncio.Future[Answer]] = {}
        self.width = engine.width

    async def score(self, ids: pa.Array) -> Outputs:
        """As in ``Engine``; ``usage`` counts as ``repeated`` what was not asked again."""
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
            usage.update(await self._ask(ids, new, found))
        for key, future in others.items():
            found[key] = await future
        return Outputs(
            pa.array([found[key][0] for key in keys], VALUES),
            pa.array([found[key][1] for key in keys], pa.string()),
            usage,
        )

    async def _ask(self, ids: pa.Array, new: dict[bytes, int], found: dict[bytes, Answer]) -> dict[str, int]:
        """Answers for the new keys, into ``found``; whoever waits for them gets them, or the same exception."""
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
        while len(self._answers) > self._remembered:
            self._answers.popitem(last=False)
        return dict(outputs.usage)

    def close(self) -> None:
        """Let go of the model."""
        self._engine.close()
