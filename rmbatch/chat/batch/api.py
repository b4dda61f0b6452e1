"""A provider's files and batches as OpenAI's API has them: upload, create, look, cancel, download; and what lines say.

Every call is tried again while the provider is busy or cannot be reached. A batch is created once even where the
answer to that was lost: it has a name in its metadata, and is looked for by that. When to create one, and what becomes
of its requests, is ``batch.py``.

    api = BatchApi("https://api.openai.com/v1", api_key=key, patience=Patience())
    batch = await api.create(await api.upload(lines), "24h", "some-name", time.time())
    batch = await api.batch(batch.id)
    if is_ended(batch) and batch.output_file_id:
        with await api.download(batch.output_file_id) as lines:
            replies = [api.reply(orjson.loads(line)) for line in lines]
    await api.disconnect()

All raise Refused (trying again changes nothing), BudgetExhausted, and ServiceLost where the provider cannot be reached
for as long as ``Patience.whole_s``.
"""

import asyncio
import logging
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, BinaryIO, Literal, TypeVar, cast

import aiohttp
import httpx2
import openai
import orjson
from openai.types import Batch

from rmbatch.chat.spec import api_url
from rmbatch.chat.transport import ChatReply, OpenAiClient
from rmbatch.endpoints.balancer import BudgetExhausted, OutOfQuota, Patience
from rmbatch.endpoints.errors import ServiceError, ServiceLost
from rmbatch.endpoints.http import BadAnswer, Refused, TryFailed

T = TypeVar("T")

PATH: Literal["/v1/chat/completions"] = "/v1/chat/completions"
"""As lines and batches name it, wherever the API itself stands."""
NAME = "rmbatch"
"""Of the name in a batch's metadata."""

_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_TOO_MUCH = "token_limit_exceeded"
"""OpenAI fails a batch with this while too many tokens of others are queued."""
_UNANSWERED = frozenset({"batch_expired", "batch_cancelled"})
_LONGEST_S = 1800.0
"""One call may take so long, for files are large."""
_CLOCKS_S = 3600.0
"""The provider's clock and ours are not further apart."""
_IN_MEMORY = 16 << 20
_log = logging.getLogger(__name__)


class BatchApi(OpenAiClient):
    """The batch API of one provider; used from one event loop."""

    def __init__(self, url: str, *, api_key: str | None, patience: Patience) -> None:
        """Raises ServiceError for a key that no header can hold."""
        super().__init__(api_key=api_key, timeout_s=_LONGEST_S, connect_timeout_s=patience.connect_timeout_s)
        self.url = api_url(url)
        self._patience = patience
        self._headers = {} if self._key else {"Authorization": cast(str, openai.Omit())}
        self._api: openai.AsyncOpenAI | None = None

    async def upload(self, lines: bytes) -> str:
        """The id of a file of requests."""
        content = ("requests.jsonl", lines)
        file = await self._patiently(
            lambda api: api.files.create(file=content, purpose="batch", extra_headers=self._headers)
        )
        return file.id

    async def create(
        self, file_id: str, window: str, name: str, since: float, is_wanted: Callable[[], Awaitable[bool]]
    ) -> Batch | None:
        """The one batch of this name; ``since``: when it may first have been created, in seconds of ``time.time``.

        None where it is not there, and before a try was not wanted any more.
        """
        num_tries = 0

        async def created(api: openai.AsyncOpenAI) -> Batch | None:
            nonlocal num_tries
            num_tries += 1
            if num_tries > 1 and (there := await self._named(api, name, since)) is not None:
                return there
            if not await is_wanted():
                return None
            # window: other providers have others than the one that OpenAI's client knows
            return await api.batches.create(
                input_file_id=file_id,
                endpoint=PATH,
                completion_window=cast(Any, window),
                metadata={NAME: name},
                extra_headers=self._headers,
            )

        return await self._patiently(created)

    async def named(self, name: str, since: float) -> Batch | None:
        """The batch of this name, None where none was created."""
        return await self._patiently(lambda api: self._named(api, name, since))

    async def batch(self, batch_id: str) -> Batch:
        """How a batch stands."""
        return await self._patiently(lambda api: api.batches.retrieve(batch_id, extra_headers=self._headers))

    async def is_busy(self) -> bool:
        """Whether any batch is under way."""

        async def looked(api: openai.AsyncOpenAI) -> bool:
            recent = await api.batches.list(limit=100, extra_headers=self._headers)
            return any(not is_ended(batch) for batch in recent.data)

        return await self._patiently(looked)

    async def cancel(self, batch_id: str) -> None:
        """Have a batch end with what it has; nothing where it has ended."""
        try:
            await self._patiently(lambda api: api.batches.cancel(batch_id, extra_headers=self._headers))
        except Refused as refused:
            _log.info("batch %s cannot be cancelled: %s", batch_id, refused)

    async def download(self, file_id: str) -> BinaryIO:
        """A file's lines, on the disk where they are many; for the caller to close."""

        async def downloaded(api: openai.AsyncOpenAI) -> BinaryIO:
            file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - the caller closes it
            try:
                sent = api.files.with_streaming_response.content(file_id, extra_headers=self._headers)
                async with sent as response:
                    async for piece in response.iter_bytes(1 << 20):
                        file.write(piece)
            except BaseException:
                file.close()
                raise
            file.seek(0)
            return cast(BinaryIO, file)

        return await self._patiently(downloaded)

    def reply(self, line: Mapping[str, Any]) -> ChatReply:
        """What a line of an output or error file says; raises Refused, TryFailed, BadAnswer and BudgetExhausted.

        Where the batch ended before the request was answered, the code of TryFailed is ``batch_expired``.
        """
        response, error = line.get("response"), line.get("error")
        if isinstance(response, dict) and isinstance(response.get("status_code"), int):
            status, body = response["status_code"], response.get("body")
            if 200 <= status < 300:
                return ChatReply(self._mask.json(body), {}, self.url, status)
            return self._refused(status, {}, orjson.dumps(body))
        if not isinstance(error, dict):
            raise BadAnswer("a line with neither a response nor an error")
        code, said = str(error.get("code") or ""), self.clean(str(error.get("message") or error))
        if code in _UNANSWERED:
            raise TryFailed("batch_expired", said)
        raise TryFailed("endpoint_error", f"{code} {said}".strip())

    def why_failed(self, batch: Batch) -> Exception | None:
        """What a failed batch means for the job: ServiceError, BudgetExhausted, or None: it only came too early."""
        errors = (batch.errors and batch.errors.data) or []
        if errors and all(error.code == _TOO_MUCH for error in errors):
            return None
        for error in errors:
            body = orjson.dumps({"error": {"code": error.code, "message": error.message}})
            try:
                self._refused(400, {}, body)
            except BudgetExhausted as out:
                return out
            except (Refused, TryFailed):
                continue
        said = "; ".join(_told(error.line, error.message) for error in errors[:3]) or "it does not say why"
        return ServiceError(f"batch {batch.id} was refused by {self.url}: {self.clean(said)}")

    async def disconnect(self) -> None:
        """As in ``OpenAiClient``."""
        api, self._api = self._api, None
        if api is not None:
            await api.close()
        await super().disconnect()

    def _refused(self, status: int, headers: Mapping[str, str], content: bytes) -> ChatReply:
        """As ``_refusal``, what is no answer raised."""
        outcome = self._refusal(self.url, status, headers, content)
        if isinstance(outcome, OutOfQuota):
            raise BudgetExhausted(f"{self.url} is out of quota: {outcome}")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _named(self, api: openai.AsyncOpenAI, name: str, since: float) -> Batch | None:
        async for batch in api.batches.list(limit=100, extra_headers=self._headers):  # the latest first
            if batch.metadata and batch.metadata.get(NAME) == name:
                return batch
            if batch.created_at < since - _CLOCKS_S:
                break
        return None

    async def _patiently(self, ask: Callable[[openai.AsyncOpenAI], Awaitable[T]]) -> T:
        began, backoff_s = time.monotonic(), self._patience.backoff_s
        while True:
            try:
                return await self._once(ask)
            except TryFailed as failed:
                after_s = time.monotonic() - began
                if after_s > self._patience.whole_s:
                    raise ServiceLost(f"{self.url} has not answered for {after_s:.0f} s: {failed}") from None
                _log.info("%s is asked again: %s", self.url, failed)
                await asyncio.sleep(failed.wait_s or random.uniform(0, backoff_s))
                backoff_s = min(2 * backoff_s, self._patience.max_backoff_s)

    async def _once(self, ask: Callable[[openai.AsyncOpenAI], Awaitable[T]]) -> T:
        if self._api is None:
            self._api = openai.AsyncOpenAI(
                base_url=self.url,
                api_key=self._key or "none",  # it insists on one
                max_retries=0,
                timeout=httpx2.Timeout(None, connect=self._connect_timeout_s),
                http_client=openai.DefaultAioHttpClient(follow_redirects=False),
            )
        refused: httpx2.Response | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await ask(self._api)
        except openai.APIStatusError as error:
            refused = error.response
        except TimeoutError:
            raise TryFailed("endpoint_timeout", f"no answer within {self._timeout_s:g} s") from None
        except (openai.APIConnectionError, httpx2.HTTPError, aiohttp.ClientError) as lost:
            raise TryFailed("endpoint_unreachable", self._why_lost(lost)) from None
        except (openai.APIError, ValueError) as error:
            raise TryFailed("endpoint_bad_answer", self.clean(str(error))) from None
        if refused is not None:  # here, where no error is under way whose text may hold a key
            said = self._refused(refused.status_code, refused.headers, refused.content)
            raise Refused(said.status, said.body["error"].removeprefix(f"{said.status} "))
        if isinstance(answer, str):  # as openai gives what is no JSON
            raise TryFailed("endpoint_bad_answer", f"no JSON: {self._mask.text(answer)[:80]!r}")
        return answer


def is_ended(batch: Batch) -> bool:
    """Whether a batch will not change any more."""
    return batch.status in _ENDED


def _told(line: int | None, message: str | None) -> str:
    return f"line {line}: {message}" if line is not None else str(message)
