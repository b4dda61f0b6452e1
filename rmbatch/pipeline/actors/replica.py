"""The actor that holds one engine. It loads the engine at its first call, and has all calls in flight together.

Its process is the unit of failure. When the engine dies or hangs, the process ends, and Ray starts a new one that loads
the model again. A task that had asked it sees a lost actor, and asks again (``engines.py``).
"""

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pyarrow as pa

from rmbatch.endpoints.errors import ServiceError, ServiceLost
from rmbatch.reward_models.engines.base import Engine, Outputs, open_engine
from rmbatch.reward_models.engines.deduplicated import DeduplicatedEngine
from rmbatch.reward_models.spec import RewardModelSpec

WATCH_S = 10.0
RESERVED_S = 60.0
"""The time after which an unused reservation ends, because its owner may have died."""
LOG_CHARACTERS = 65_536
_ERROR = re.compile(r"\b[A-Z]\w*(?:Error|Exception): .+")


class Replica:
    """One engine of a pool; an asynchronous Ray actor."""

    def __init__(self, spec: RewardModelSpec) -> None:
        self._spec = spec
        self._engine: Engine | None = None
        self._loading = asyncio.Lock()
        self._lock = SharedLock()
        self._reservation: asyncio.TimerHandle | None = None
        self._num_reservations = 0
        self._meter = Meter()

    async def alive(self) -> None:
        """Answers when the actor has its place on the cluster."""

    async def load(self) -> str:
        """Load the engine if it is not loaded. Return why that is impossible, or an empty text."""
        async with self._loading:
            if self._engine is None:
                try:
                    self._engine = DeduplicatedEngine(await asyncio.to_thread(open_engine, self._spec))
                except ServiceError as error:
                    return f"{error}{find_logged_error() if 'stack trace' in str(error) else ''}"
                except ModuleNotFoundError as missing:
                    return f"engine: {self._spec.engine} needs the package {missing.name!r}, not installed there"
                self._meter.begin()
                self._watcher = asyncio.get_running_loop().create_task(self._watch())
        return ""

    async def score(self, ids: pa.Array) -> Outputs:
        """The engine's outputs."""
        await self._ensure_loaded()
        async with self._lock.share():
            return await self._score(ids)

    async def reserve(self) -> tuple[int, int]:
        """Wait until nothing is in flight, and return a ticket. Other calls wait until ``score_alone`` has answered.

        This is a call of its own, so that a task knows: an engine that dies before it returns died of another call.
        """
        await self._ensure_loaded()
        await self._lock.acquire()
        self._num_reservations += 1
        self._reservation = asyncio.get_running_loop().call_later(RESERVED_S, self._end_reservation)
        return os.getpid(), self._num_reservations

    async def score_alone(self, ids: pa.Array, ticket: tuple[int, int]) -> Outputs | None:
        """The engine's outputs, with nothing else in flight. None: the reservation has ended."""
        if self._reservation is None or ticket != (os.getpid(), self._num_reservations):
            return None
        self._reservation.cancel()
        try:
            return await self._score(ids)
        finally:
            self._end_reservation()

    def _end_reservation(self) -> None:
        self._reservation = None
        self._lock.release()

    async def _ensure_loaded(self) -> None:
        why = await self.load()
        if why:
            raise ServiceError(why)

    async def _score(self, ids: pa.Array) -> Outputs:
        assert self._engine is not None
        self._meter.enter()
        try:
            return await self._engine.score(ids)
        except ServiceLost:
            die()
            raise
        finally:
            self._meter.leave()

    async def close(self) -> None:
        """Close the engine properly, before the actor is killed."""
        if self._engine is not None:
            await asyncio.to_thread(self._engine.close)

    async def meter(self) -> dict[str, float]:
        """Seconds since the engine was loaded: with work (busy_s) and without (idle_s)."""
        return self._meter.read()

    async def device(self) -> str:
        """The name of its GPU, or "cpu". Empty before the engine is loaded."""
        if self._engine is None:
            return ""
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"

    async def _watch(self) -> None:
        limit = self._spec.hang_timeout_s
        while self._meter.stuck_s() < limit:
            await asyncio.sleep(min(limit / 4, WATCH_S))
        die()


def die() -> None:
    """Kill this process and all its children at once.

    Only Python's resource tracker lives on for a moment: it removes the shared memory of the killed processes.
    """
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "resource_tracker" not in " ".join(child.cmdline()):
                child.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def find_logged_error() -> str:
    """Find the last error in the log of this process and its children, for errors that only say "see the log"."""
    for stream in (1, 2):
        log = Path(f"/proc/self/fd/{stream}").resolve()
        if log.is_file():
            lines = log.read_text(encoding="utf-8", errors="replace")[-LOG_CHARACTERS:].splitlines()
            causes = [found for line in lines if (found := _ERROR.search(line))]
            if causes:
                return f"; the log says {causes[-1].group(0)}"
    return ""


class SharedLock:
    """A lock that many calls share, or one call has exclusively.

    Once somebody waits for exclusive access, new calls queue behind it.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._inside = 0
        self._left = asyncio.Condition()

    @asynccontextmanager
    async def share(self) -> AsyncIterator[None]:
        """Hold the lock together with others."""
        async with self._turn:
            self._inside += 1
        try:
            yield
        finally:
            async with self._left:
                self._inside -= 1
                self._left.notify_all()

    async def acquire(self) -> None:
        """Get exclusive access, once all others have released the lock."""
        await self._turn.acquire()
        async with self._left:
            await self._left.wait_for(lambda: self._inside == 0)

    def release(self) -> None:
        """End exclusive access."""
        if self._turn.locked():
            self._turn.release()


class Meter:
    """Measures how long an engine had work, and how long it had none."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._busy_s = self._idle_s = 0.0
        self._inside = 0
        self._has_begun = False

    def begin(self) -> None:
        """Start to measure: the engine is loaded."""
        self._turn()
        self._busy_s = self._idle_s = 0.0
        self._finished = self._since
        self._has_begun = True

    def enter(self) -> None:
        """Count a call that begins."""
        self._turn()
        if self._inside == 0:
            self._finished = self._since
        self._inside += 1

    def leave(self) -> None:
        """Count a call that ends."""
        self._turn()
        self._inside -= 1
        self._finished = self._since

    def read(self) -> dict[str, float]:
        """See ``Replica.meter``."""
        if not self._has_begun:
            return {"busy_s": 0.0, "idle_s": 0.0}
        self._turn()
        return {"busy_s": self._busy_s, "idle_s": self._idle_s}

    def stuck_s(self) -> float:
        """The seconds for which calls have been under way and none has ended."""
        return time.monotonic() - self._finished if self._inside else 0.0

    def _turn(self) -> None:
        now = time.monotonic()
        if self._inside:
            self._busy_s += now - self._since
        else:
            self._idle_s += now - self._since
        self._since = now
