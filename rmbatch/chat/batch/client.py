"""Sends chat requests through a provider's batch API: gathers them, sends files, waits, and never pays twice.

It takes the place of ``Endpoints.post`` in ``rmbatch/chat/client.py``. The provider's API is ``api.py``, what outlives
a crash is ``records.py``. It does not balance: each client makes its own batches, at one provider.

    batches = BatchClient(api, Batch(poll_s=30), cache=cache, keep=keep)
    answers = await asyncio.gather(*(batches.post(key, Post(PATH, body, read)) for key, body in requests.items()))
    await batches.close()

A batch is sent when it is full, or when no request has come for ``linger_s``. Its end decides what happens to its
requests:

    answered, refused, withheld by a filter         as without batches, whatever became of the others
    429, 5xx, nonsense, or not answered at all      sent again in another batch, twice; then a failure
    the deadline is over                            cancelled; requests without an answer are ``batch_deadline``
    the provider refuses the batch                  ServiceError or BudgetExhausted

With a cache, a process that is started again waits for the batches under way instead of sending their requests once
more; so does another process that wants the same. Without a cache there are no records, and the batch of a process
that ends has cost money for nothing.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from rmbatch.chat.batch.api import PATH, BatchApi, SentBatch
from rmbatch.chat.batch.records import BatchRecord, BatchRecords
from rmbatch.chat.spec import Batch
from rmbatch.endpoints.balancer import Admission, Answer, BudgetExhausted, Failure, Post
from rmbatch.endpoints.errors import ServiceError, ServiceLost
from rmbatch.endpoints.http import BadAnswer, Refused, Reply, TryFailed
from rmbatch.stores.answers import ResponseCache

T = TypeVar("T")

LINGER_S = 3.0
RESENDS = 2
"""How often a request is sent again when a batch has not answered it."""
PENDING_S = 300.0
"""So long another process may take from its record to its batch; after that, its requests are sent from here."""
RIVAL_S = 5.0
"""Of two processes that have recorded the same requests at once, each waits at most so long."""
FOLDER = "batches"
"""Of the records, in the cache's."""

_LINE = b'{"custom_id":"%%s","method":"POST","url":"%s","body":%%s}\n' % PATH.encode()
_PAUSE_LINES = 200
"""Lines to read before other tasks get their turn in the event loop."""
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Request:
    """A request without an answer yet."""

    key: bytes
    body: bytes
    read: Callable[[Reply], Any]
    answer: asyncio.Future[Answer[Any]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    num_sent: int = 0
    num_failed: int = 0

    @property
    def num_bytes(self) -> int:
        """The size of its line."""
        return len(_LINE % (b"0" * 32, b"")) + len(self.body)

    @property
    def line(self) -> bytes:
        """Its line in the file that is sent."""
        return _LINE % (self.key.hex().encode(), self.body)

    def resolve(self, value: Any, failure: Failure | None = None) -> None:
        """Give the outcome to those who wait for it."""
        if not self.answer.done():
            self.answer.set_result(Answer(value, failure, self.num_sent))


class BatchClient:
    """One provider's batches; used from one event loop."""

    def __init__(
        self,
        api: BatchApi,
        batch: Batch,
        *,
        cache: ResponseCache | None,
        keep: Callable[[bytes, Reply], None],
        linger_s: float = LINGER_S,
        admission: Admission | None = None,
    ) -> None:
        """``keep``: puts an answer that nobody here waits for into the cache; raises BadAnswer if it is none.

        ``admission``: holds the budget; requests that another run has sent need no new permission.
        """
        self._api, self._batch, self._cache, self._keep = api, batch, cache, keep
        self._linger_s, self._admission = linger_s, admission
        self._records = BatchRecords(None if cache is None else cache.folder.folder(FOLDER), api.url)
        self._looking, self._has_looked = asyncio.Lock(), False
        self._requests: dict[bytes, _Request] = {}
        self._queue: dict[bytes, _Request] = {}
        self._queue_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._followed: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._num_collected = 0
        """Batches that have ended and are being read."""
        self._stopped: Exception | None = None

    async def post(self, key: bytes, post: Post[T]) -> Answer[T]:
        """The outcome of a request; each key once at a time.

        Raises ServiceError, ServiceLost, BudgetExhausted, and OSError where an answer cannot be kept.
        """
        await self._read_records_once()
        self._stop_if_stopped()
        request, permit = self._requests.get(key), None
        if request is None and self._records.find_holder(key) is None and self._admission is not None:
            permit = await self._admission.admit(len(post.body), again=False, max_tokens=post.max_tokens)
        value = None
        try:
            self._stop_if_stopped()
            request = self._requests.get(key) or self._add_request(key, post)
            answer: Answer[T] = await asyncio.shield(request.answer)
            value = answer.value
            return answer
        finally:
            if permit is not None and request is not None and request.num_sent:
                permit.settle(value)
            elif permit is not None:
                permit.give_back()
            elif value is not None and self._admission is not None and request is not None and request.num_sent:
                self._admission.count_answer(value)  # an earlier run has sent it, and its tokens are not counted yet
            if request is not None and self._queue.get(key) is request:  # cancelled before it was sent
                del self._queue[key], self._requests[key]
                self._queue_bytes -= request.num_bytes

    def stop(self, error: Exception) -> None:
        """Send nothing more, and raise ``error`` in all who wait; batches under way go on at the provider."""
        self._stopped = self._stopped or error
        for request in self._requests.values():
            if not request.answer.done():
                request.answer.set_exception(self._stopped)
                request.answer.exception()  # nobody may be waiting, and asyncio would complain
        self._requests.clear()
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()

    async def close(self) -> None:
        """Collect the batches that have ended, stop, and close all connections."""
        while self._num_collected:
            await asyncio.sleep(0.02)
        self.stop(ServiceLost("the client was closed"))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._api.disconnect()

    def _stop_if_stopped(self) -> None:
        if self._stopped is not None:
            raise self._stopped

    def _add_request(self, key: bytes, post: Post[Any]) -> _Request:
        """Add a request; a batch under way that has it answers it, or else the next batch."""
        request = self._requests[key] = _Request(key, post.body, post.read)
        name = self._records.find_holder(key)
        if name is not None:
            request.num_sent = 1
            self._follow(name)
            return request
        if self._queue and self._queue_bytes + request.num_bytes > self._batch.max_mb * 1e6:
            self._send_queue()
        self._queue[key] = request
        self._queue_bytes += request.num_bytes
        if len(self._queue) >= self._batch.max_requests:
            self._send_queue()
        else:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(self._linger_s, self._send_queue)
        return request

    def _send_queue(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        queue, self._queue, self._queue_bytes = self._queue, {}, 0
        if queue:
            self._start_task(self._send(list(queue.values()), time.time()))

    def _follow(self, name: str) -> None:
        """Start to collect a batch that another process has sent."""
        if name not in self._followed:
            self._followed.add(name)
            self._start_task(self._resume(name))

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._watch(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Refused as refused:
            self.stop(ServiceError(f"the batch API of {self._api.url} says {refused}"))
        except Exception as error:  # whatever it is, it must reach those who wait for this task's requests
            self.stop(error)

    async def _read_records_once(self) -> None:
        if not self._has_looked:
            async with self._looking:
                if not self._has_looked:
                    await self._read_records()
                    self._has_looked = True

    async def _read_records(self) -> None:
        """Read the records that other processes have written."""
        for record in await asyncio.to_thread(self._records.list_unseen):
            self._records.add(record)

    async def _send(self, requests: list[_Request], since: float) -> None:
        """Send requests in a new batch, except those that another batch has, or whose answers are kept."""
        await self._read_records()
        if self._cache is not None:
            await asyncio.to_thread(self._cache.refresh)  # last: a record goes when its answers are kept
        requests = [request for request in requests if not self._follow_if_sent(request)]
        requests = [request for request in requests if not await self._take_if_kept(request)]
        if not requests:
            return
        record = BatchRecord.new(self._api.url, (request.key for request in requests), since)
        self._followed.add(record.name)
        self._records.add(record)
        await asyncio.to_thread(self._records.write, record)
        if await self._is_contested(record):
            await self._remove_record(record)
            await asyncio.sleep(random.uniform(0, RIVAL_S))
            await self._send(requests, since)
            return
        try:
            file = await self._api.upload(b"".join(request.line for request in requests))

            async def is_ours() -> bool:
                return await asyncio.to_thread(self._records.exists, record.name)

            batch = await self._api.create(file, self._batch.window, record.name, record.written, is_ours)
            if batch is None:  # it took too long, and another process has taken over
                self._records.forget(record.name)
                await self._send(requests, since)
                return
        except (Refused, BudgetExhausted):  # so there is no batch
            await self._remove_record(record)
            raise
        record = record.with_batch(batch.id, file)
        await asyncio.to_thread(self._records.write, record)
        _log.info("batch %s has %d requests", batch.id, len(requests))
        for request in requests:
            request.num_sent += 1
        await self._collect(record, is_own=True)

    async def _is_contested(self, record: BatchRecord) -> bool:
        """Whether another process has recorded some of the same requests at the same time, perhaps without seeing ours.

        Each process writes before it reads, so at least one of two sees the other.
        """
        keys = set(record.keys)
        return any(keys.intersection(each.keys) for each in await asyncio.to_thread(self._records.list_unseen))

    def _follow_if_sent(self, request: _Request) -> bool:
        name = self._records.find_holder(request.key)
        if name is not None:
            request.num_sent += 1
            self._follow(name)
        return name is not None

    async def _take_if_kept(self, request: _Request) -> bool:
        if self._cache is None or request.key not in self._cache:
            return False
        kept = await asyncio.to_thread(self._cache.find, request.key)
        if kept is not None:
            with suppress(BadAnswer, KeyError):  # it is asked again
                self._record_answer(request.key, Reply(kept["body"], {}, kept["endpoint"], kept["status"]))
        return request.key not in self._requests

    async def _resume(self, name: str) -> None:
        """Collect another process's batch; if it was never created, or is collected, send the requests wanted of it."""
        while (record := await asyncio.to_thread(self._records.read, name)) is not None:
            if record.batch is None and (batch := await self._api.find_named(name, record.written)) is not None:
                record = record.with_batch(batch.id, batch.input_file_id)
                await asyncio.to_thread(self._records.write, record)
            if record.batch is not None:
                _log.info("batch %s is waited for, which another process has sent", record.batch)
                await self._collect(record, is_own=False)
                return
            if time.time() - record.written > PENDING_S:
                await asyncio.to_thread(self._records.remove, name)  # a process that creates it only now sees that
                if await self._api.find_named(name, record.written) is None:
                    break
                await asyncio.to_thread(self._records.write, record)
            await asyncio.sleep(min(self._batch.poll_s, PENDING_S))
        held = [request for request in self._requests.values() if self._records.find_holder(request.key) == name]
        self._records.forget(name)
        for request in held:
            request.num_sent -= 1
        if held:
            await self._send(held, time.time())

    async def _collect(self, record: BatchRecord, *, is_own: bool) -> None:
        """Wait for a batch, keep and hand out its answers, and send again the requests without one."""
        batch = await self._wait_for_end(record)
        failed: dict[bytes, Failure] = {}
        self._num_collected += 1
        try:
            mistakes = await self._take_lines(batch, record, failed)
            await self._remove_record(record)
        finally:
            self._num_collected -= 1
        why = self._api.explain(batch) if batch.status == "failed" else None
        mistakes += [why] if why is not None and is_own else []
        if batch.status != "failed" or self._seconds_left(record) <= 0:
            self._give_up_failed(record, failed)
        # Also requests that came while lines were read, perhaps after their own line: that answer is kept now.
        again = [self._requests[key] for key in record.keys if key in self._requests and key not in self._queue]
        if mistakes:
            raise mistakes[0]
        if again and batch.status == "failed" and why is None:
            await self._wait_for_room(record)
        if again:
            self._start_task(self._send(again, record.since))

    async def _wait_for_end(self, record: BatchRecord) -> SentBatch:
        """Wait until a batch has ended; past the deadline, cancel it."""
        assert record.batch is not None
        is_cancelled = False
        while True:
            try:
                batch = await self._api.find(record.batch)
            except Refused as refused:
                raise ServiceError(
                    f"batch {record.batch} cannot be seen at {self._api.url}: {refused}; if it is gone for good, "
                    f"delete {self._records.address_of(record.name)} and its {len(record.keys)} requests are sent again"
                ) from None
            if batch.has_ended:
                return batch
            left_s = self._seconds_left(record)
            if left_s <= 0 and not is_cancelled:
                _log.warning("batch %s is cancelled, past its deadline", record.batch)
                await self._api.cancel(record.batch)
                is_cancelled = True
            else:
                await asyncio.sleep(self._batch.poll_s if is_cancelled else min(self._batch.poll_s, left_s))

    async def _take_lines(self, batch: SentBatch, record: BatchRecord, failed: dict[bytes, Failure]) -> list[Exception]:
        """Keep and hand out the answers of an ended batch; ``failed`` gets the other requests.

        Returns the errors that concern all requests.
        """
        mistakes: list[Exception] = []
        left = dict.fromkeys(record.keys)
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            with await self._api.download(file_id) as lines:
                for number, raw in enumerate(lines):
                    if number % _PAUSE_LINES == 0:
                        await asyncio.sleep(0)
                    key, line = _read_line(raw)
                    if key not in left:
                        _log.warning("batch %s: a line of no request of ours: %s", batch.id, self._api.clean(str(raw)))
                        continue
                    del left[key]
                    try:
                        self._record_answer(key, self._api.read_line(line))
                    except Refused as refused:
                        if refused.is_mistake:
                            mistakes.append(ServiceError(f"{self._api.url}{PATH}: {refused}"))
                        else:
                            self._record_failure(key, Failure("endpoint_refused", str(refused)))
                    except BudgetExhausted as out:
                        mistakes.append(out)
                    except TryFailed as why:
                        failed[key] = Failure(why.code, f"{self._api.url}: {why}")
                    except BadAnswer as bad:
                        failed[key] = Failure("endpoint_bad_answer", f"{self._api.url}: {self._api.clean(str(bad))}")
        missing = Failure("batch_expired", f"batch {batch.id} is {batch.status} without an answer to it")
        failed.update(dict.fromkeys(left, missing))
        return mistakes

    def _give_up_failed(self, record: BatchRecord, failed: dict[bytes, Failure]) -> None:
        """Give up requests that have failed too often, or for too long."""
        is_late = self._seconds_left(record) <= 0
        for key, failure in failed.items():
            request = self._requests.get(key)
            if request is None:
                continue
            request.num_failed += 1
            if is_late:
                late = f"not answered within {self._batch.deadline_s:g} s; the last batch: {failure}"
                self._record_failure(key, Failure("batch_deadline", late))
            elif request.num_failed > RESENDS:
                self._record_failure(key, failure)

    async def _wait_for_room(self, record: BatchRecord) -> None:
        """Wait until more tokens may be queued. Raises ServiceError where nothing is under way that could make room."""
        if not await self._api.is_busy():
            raise ServiceError(
                f"{self._api.url} queues no batch of {len(record.keys)} requests, for they have too many tokens; "
                f"write a batch.max_requests below that"
            )
        _log.info("%s queues no more tokens; %d requests wait", self._api.url, len(record.keys))
        await asyncio.sleep(self._batch.poll_s)

    async def _remove_record(self, record: BatchRecord) -> None:
        """Remove the record of a batch whose answers are kept."""
        if self._cache is not None:
            await asyncio.to_thread(self._cache.flush)
        await asyncio.to_thread(self._records.remove, record.name)
        self._records.forget(record.name)

    def _record_answer(self, key: bytes, reply: Reply) -> None:
        """Keep an answer, and give it to those who wait for it. Raises BadAnswer."""
        request = self._requests.get(key)
        if request is not None:
            request.resolve(request.read(reply))
            del self._requests[key]
        elif self._cache is not None:
            self._keep(key, reply)

    def _record_failure(self, key: bytes, failure: Failure) -> None:
        request = self._requests.pop(key, None)
        if request is not None:
            request.resolve(None, failure)

    def _seconds_left(self, record: BatchRecord) -> float:
        limit_s = self._batch.deadline_s
        return float("inf") if limit_s is None else record.since + limit_s - time.time()


def _read_line(raw: bytes) -> tuple[bytes, dict[str, Any]]:
    """The key and the content of a line; an empty key if it cannot be read."""
    try:
        line = orjson.loads(raw)
        return bytes.fromhex(line["custom_id"]), line
    except (KeyError, TypeError, ValueError):
        return b"", {}
