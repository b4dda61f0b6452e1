"""A provider's files and batches as OpenAI's API has them: upload, create, find, cancel, download, read lines.

Every call is tried again while the provider is busy or cannot be reached. A batch is created once, even if the answer
to that was lost: it has a name in its metadata and is looked for by that. ``client.py`` decides when to create a batch
and what happens to its requests.

    api = BatchApi("https://api.openai.com/v1", api_key=key, patience=Patience())
    batch = await api.create(await api.upload(lines), "24h", "some-name", time.time(), is_wanted)
    batch = await api.find(batch.id)
    if batch.has_ended and batch.output_file_id:
        with await api.download(batch.output_file_id) as lines:
            replies = [api.read_line(orjson.loads(line)) for line in lines]
    await api.disconnect()

All raise Refused (trying again changes nothing), BudgetExhausted, and ServiceLost if the provider cannot be reached
for ``Patience.whole_s``.
"""

import asyncio
import io
import logging
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import quote

import aiohttp
import orjson

from rmbatch.chat.spec import normalize_url
from rmbatch.chat.transport import ChatTransport
from rmbatch.endpoints.balancer import BudgetExhausted, OutOfQuota, Patience
from rmbatch.endpoints.errors import ServiceError, ServiceLost
from rmbatch.endpoints.http import BadAnswer, Data, Refused, Reply, TryFailed

T = TypeVar("T")

PATH = "/v1/chat/completions"
"""What lines and batches write as the path, wherever the API itself is."""
NAME = "rmbatch"
"""The key of the name in a batch's metadata."""

_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_TOO_MUCH = "token_limit_exceeded"
"""OpenAI fails a batch with this code while too many tokens of other batches are queued."""
_UNANSWERED = frozenset({"batch_expired", "batch_cancelled"})
_LONGEST_S = 1800.0
"""One call may take so long, for files are large."""
_CLOCKS_S = 3600.0
"""The most that the provider's clock and ours differ."""
_IN_MEMORY = 16 << 20
_PAGE = 100
"""Batches in one page of their list."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SentBatch:
    """A batch as the provider describes it."""

    id: str
    status: str
    input_file_id: str
    output_file_id: str | None
    error_file_id: str | None
    errors: tuple[Mapping[str, Any], ...]
    """With ``code``, ``message`` and ``line``."""
    name: str | None
    """The name that ``create`` gave it; None: it is somebody else's."""
    created_at: float
    """In seconds of ``time.time``, by the provider's clock."""

    @classmethod
    def read(cls, body: Any) -> "SentBatch":
        """Read a batch's JSON. Raises BadAnswer."""
        try:
            errors = ((body.get("errors") or {}).get("data")) or ()
            return cls(
                str(body["id"]),
                str(body["status"]),
                str(body.get("input_file_id") or ""),
                body.get("output_file_id"),
                body.get("error_file_id"),
                tuple(errors),
                (body.get("metadata") or {}).get(NAME),
                float(body["created_at"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BadAnswer(f"no batch: {type(error).__name__} {error}") from None

    @property
    def has_ended(self) -> bool:
        """Whether it will not change any more."""
        return self.status in _ENDED


class BatchApi(ChatTransport):
    """The batch API of one provider; used from one event loop."""

    def __init__(self, url: str, *, api_key: str | None, patience: Patience) -> None:
        """Raises ServiceError for a key that no header can hold."""
        super().__init__(api_key=api_key, timeout_s=_LONGEST_S, connect_timeout_s=patience.connect_timeout_s)
        self.url = normalize_url(url)
        self._patience = patience

    async def upload(self, lines: bytes) -> str:
        """The id of a file of requests."""

        async def upload() -> str:
            form = aiohttp.FormData({"purpose": "batch"})
            form.add_field("file", io.BytesIO(lines), filename="requests.jsonl")
            body = await self._call("/files", form)
            if not isinstance(body, dict) or not isinstance(body.get("id"), str):
                raise BadAnswer("a file without an id")
            return str(body["id"])

        return await self._insist(upload)

    async def create(
        self, file_id: str, window: str, name: str, since: float, is_wanted: Callable[[], Awaitable[bool]]
    ) -> SentBatch | None:
        """Create the batch of this name, once; ``since``: when it may first have been created, as ``time.time``.

        None if it does not exist and ``is_wanted`` said no before a try.
        """
        asked = {
            "input_file_id": file_id,
            "endpoint": PATH,
            "completion_window": window,
            "metadata": {NAME: name},
        }
        num_tries = 0

        async def create() -> SentBatch | None:
            nonlocal num_tries
            num_tries += 1
            if num_tries > 1 and (batch := await self._find_named(name, since)) is not None:
                return batch
            return SentBatch.read(await self._call("/batches", orjson.dumps(asked))) if await is_wanted() else None

        return await self._insist(create)

    async def find_named(self, name: str, since: float) -> SentBatch | None:
        """The batch of this name; None if it was never created."""
        return await self._insist(lambda: self._find_named(name, since))

    async def find(self, batch_id: str) -> SentBatch:
        """The present state of a batch."""

        async def find() -> SentBatch:
            return SentBatch.read(await self._call(f"/batches/{quote(batch_id, safe='')}"))

        return await self._insist(find)

    async def is_busy(self) -> bool:
        """Whether any of the latest batches is under way."""

        async def look() -> bool:
            batches, _ = await self._list()
            return any(not batch.has_ended for batch in batches)

        return await self._insist(look)

    async def cancel(self, batch_id: str) -> None:
        """End a batch with the answers that it has; does nothing if it has ended."""
        try:
            await self._insist(lambda: self._call(f"/batches/{quote(batch_id, safe='')}/cancel", method="POST"))
        except Refused as refused:
            _log.info("batch %s cannot be cancelled: %s", batch_id, refused)

    async def download(self, file_id: str) -> BinaryIO:
        """A file's lines, on disk if they are many; the caller closes it."""
        return await self._insist(lambda: self._fetch(self._load(f"/files/{quote(file_id, safe='')}/content")))

    def read_line(self, line: Mapping[str, Any]) -> Reply:
        """The answer in a line of an output or error file. Raises Refused, TryFailed, BadAnswer and BudgetExhausted.

        If the batch ended before the request was answered, the code of TryFailed is ``batch_expired``.
        """
        response, error = line.get("response"), line.get("error")
        if isinstance(response, dict) and isinstance(response.get("status_code"), int):
            status, body = response["status_code"], response.get("body")
            if 200 <= status < 300:
                return Reply(self._mask.mask_json(body), {}, self.url, status)
            return self._take(super()._read_refusal(self.url, status, {}, self._mask.mask_raw(orjson.dumps(body))))
        if not isinstance(error, dict):
            raise BadAnswer("a line with neither a response nor an error")
        code, message = str(error.get("code") or ""), self.clean(str(error.get("message") or error))
        if code in _UNANSWERED:
            raise TryFailed("batch_expired", message)
        raise TryFailed("endpoint_error", f"{code} {message}".strip())

    def explain(self, batch: SentBatch) -> Exception | None:
        """What a failed batch means for the job: ServiceError, BudgetExhausted, or None if it only came too early."""
        if batch.errors and all(error.get("code") == _TOO_MUCH for error in batch.errors):
            return None
        for error in batch.errors:
            body = orjson.dumps({"error": {"code": error.get("code"), "message": error.get("message")}})
            try:
                self._take(super()._read_refusal(self.url, 400, {}, self._mask.mask_raw(body)))
            except BudgetExhausted as out:
                return out
            except (Refused, TryFailed):
                continue
        why = "; ".join(_describe(error) for error in batch.errors[:3]) or "it does not say why"
        return ServiceError(f"batch {batch.id} was refused by {self.url}: {self.clean(why)}")

    def _read_refusal(self, url: str, status: int, headers: Mapping[str, str], raw: bytes) -> Exception:
        """As in ``ChatTransport``, but no call of this API is answered by a refusal."""
        found = super()._read_refusal(url, status, headers, raw)
        return Refused(status, found.body["error"].removeprefix(f"{status} ")) if isinstance(found, Reply) else found

    def _take(self, outcome: T | Exception) -> T:
        """The outcome if it is no error; raises it if it is one."""
        if isinstance(outcome, OutOfQuota):
            raise BudgetExhausted(f"{self.url} is out of quota: {outcome}")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _find_named(self, name: str, since: float) -> SentBatch | None:
        after, has_more = "", True
        while has_more:
            batches, has_more = await self._list(after)
            for batch in batches:  # the latest first
                if batch.name == name:
                    return batch
                if batch.created_at < since - _CLOCKS_S:
                    return None
            after, has_more = (batches[-1].id, has_more) if batches else ("", False)
        return None

    async def _list(self, after: str = "") -> tuple[list[SentBatch], bool]:
        """A page of batches, and whether there are more."""
        body = await self._call(f"/batches?limit={_PAGE}" + (f"&after={quote(after, safe='')}" if after else ""))
        if not isinstance(body, dict) or not isinstance(body.get("data"), list):
            raise BadAnswer("no list of batches")
        return [SentBatch.read(each) for each in body["data"]], body.get("has_more") is not False

    async def _call(self, path: str, data: Data = None, method: str = "") -> Any:
        """The JSON of an answer. Raises as ``_fetch``."""
        return (await self._fetch(self._answer(self.url, path, data, method))).body

    async def _load(self, path: str) -> BinaryIO | Exception:
        """A file with the answer's bytes; or the error that a refusal means."""
        async with asyncio.timeout(self._timeout_s), self._send(self.url, path) as response:
            if response.status >= 300:
                raw = self._mask.mask_raw(await response.read())
                return self._read_refusal(self.url, response.status, response.headers, raw)
            file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - the caller closes it
            try:
                async for piece in response.content.iter_any():
                    file.write(piece)
            except BaseException:
                file.close()
                raise
            file.seek(0)
            return cast(BinaryIO, file)

    async def _fetch(self, answer: Awaitable[T | Exception]) -> T:
        """The answer. Raises TryFailed, Refused, BadAnswer and BudgetExhausted."""
        return self._take(await self._try(answer))

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of a call, tried again while the provider is busy or cannot be reached."""
        began, backoff_s = time.monotonic(), self._patience.backoff_s
        while True:
            try:
                return await call()
            except BadAnswer as bad:
                failed = TryFailed("endpoint_bad_answer", self.clean(str(bad)))
            except TryFailed as why:
                failed = why
            after_s = time.monotonic() - began
            if after_s > self._patience.whole_s:
                raise ServiceLost(f"{self.url} has not answered for {after_s:.0f} s: {failed}")
            _log.info("%s is asked again: %s", self.url, failed)
            await asyncio.sleep(failed.wait_s or random.uniform(0, backoff_s))
            backoff_s = min(2 * backoff_s, self._patience.max_backoff_s)


def _describe(error: Mapping[str, Any]) -> str:
    line, message = error.get("line"), error.get("message")
    return f"line {line}: {message}" if line is not None else str(message)
