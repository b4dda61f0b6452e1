"""A real HTTP server on loopback that has files and batches as OpenAI's API has them, and counts what it computes.

    with BatchServer(answer, key) as server:         # answer(body): a chat completion; a Status, a Line, or Nothing
        server.ends.append(Ends("expired", answered=3))     # the first batch; those without a plan are completed
        server.plan("POST /v1/batches", Status(500))        # the next such request; Reset() does it and is silent
        server.is_held = True                               # batches stay in progress until it is False again
        ...
        assert server.computed["question"] == 1

A batch goes one step (validating, in_progress, finalizing, its end) with each look at it. Lines of its files are in no
order. It is a ``HostileServer``, so it can also die and come back; its batches stay.
"""

import itertools
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from tests.servers.hostile import HostileServer, Reset, Status, _reset


@dataclass(frozen=True)
class Line:
    """What stands in the error file instead of an answer."""

    error: dict[str, Any]


@dataclass(frozen=True)
class Nothing:
    """The request has no line at all."""


@dataclass(frozen=True)
class Ends:
    """How a batch ends, and how many of its requests are answered before."""

    status: str = "completed"
    answered: int | None = None
    errors: tuple[dict[str, Any], ...] = ()
    """Of one that failed."""


@dataclass
class _Batch:
    said: dict[str, Any]
    lines: list[dict[str, Any]]
    ends: Ends
    computed: list[tuple[str, Any]] = field(default_factory=list)
    """Custom ids and what was answered."""


class BatchServer(HostileServer):
    """A provider at ``url``/v1 between ``with`` and the end of its block."""

    def __init__(self, answer: Callable[[Any], Any], key: Callable[[Any], str]) -> None:
        """``key`` tells request bodies apart."""
        super().__init__(lambda path, body: None)
        self._of, self._name = answer, key
        self.ends: deque[Ends] = deque()
        self.is_held = False
        self.computed: Counter[str] = Counter()
        """How often each request was computed, and has to be paid."""
        self.batches: dict[str, dict[str, Any]] = {}
        """As they are told, in the order in which they were created."""
        self.files: dict[str, bytes] = {}
        self.happened: Counter[str] = Counter()
        """Requests by method and path, ids left out."""
        self.changed = threading.Condition()
        self._batches: dict[str, _Batch] = {}
        self._ids = itertools.count()
        self._random = random.Random(0)

    def sent(self, number: int) -> list[str]:
        """The requests of a batch."""
        return [self._name(line["body"]) for line in list(self._batches.values())[number].lines]

    def add_foreign(self) -> None:
        """Another batch, of somebody else."""
        name = f"batch-{next(self._ids)}"
        self.batches[name] = {
            **{"id": name, "object": "batch", "status": "completed", "created_at": int(time.time())},
            **{"endpoint": "/v1/chat/completions", "input_file_id": "file-x", "completion_window": "24h"},
            "metadata": {"of": "somebody else"},
        }

    def forget_all(self) -> None:
        """Know no batch any more."""
        self.batches.clear()
        self._batches.clear()

    def wait_for(self, what: Callable[[], Any], timeout_s: float = 20) -> None:
        """Wait until something holds of this server."""
        with self.changed:
            assert self.changed.wait_for(what, timeout_s)

    async def _handled(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        self._connections.add(request.transport)
        parts = [("{id}" if "-" in part else part) for part in request.path.split("/")]
        name = f"{request.method} {'/'.join(parts)}"
        plan = self._plans[name]
        deed = plan.pop(0) if plan else None
        await (request.post() if name == "POST /v1/files" else request.read())  # both remember it
        try:
            if isinstance(deed, Status):
                content = deed.body if isinstance(deed.body, bytes) else orjson.dumps(deed.body)
                return web.Response(status=deed.status, headers=dict(deed.headers), body=content)
            did = await self._did(name, request)
            if isinstance(deed, Reset):
                _reset(request.transport)
            return did
        finally:
            with self.changed:
                self.happened[name] += 1
                self.changed.notify_all()

    async def _did(self, name: str, request: web.Request) -> web.Response:
        id_ = next((part for part in request.path.split("/") if "-" in part), "")
        if id_ and id_ not in self.files | self._batches:
            return _refused(404, f"no such thing: {id_}")
        match name:
            case "POST /v1/files":
                form = await request.post()
                upload = form["file"]
                assert isinstance(upload, web.FileField)
                if form["purpose"] != "batch":
                    return _refused(400, "what for?")
                return web.json_response({"id": self._kept(upload.file.read()), "object": "file", "purpose": "batch"})
            case "GET /v1/files/{id}/content":
                return web.Response(body=self.files[id_], content_type="application/octet-stream")
            case "POST /v1/batches":
                return self._created(await request.json())
            case "GET /v1/batches":
                newest = list(reversed(self.batches))
                begin = newest.index(request.query["after"]) + 1 if "after" in request.query else 0
                page = newest[begin : begin + int(request.query["limit"])]
                has_more = begin + len(page) < len(newest)
                told = [self.batches[each] for each in page]
                return web.json_response({"object": "list", "data": told, "has_more": has_more})
            case "GET /v1/batches/{id}":
                self._step(self._batches[id_])
                return web.json_response(self.batches[id_])
            case "POST /v1/batches/{id}/cancel":
                if self.batches[id_]["status"] not in ("validating", "in_progress", "finalizing"):
                    return _refused(409, f"it is {self.batches[id_]['status']}")
                self._begins(self._batches[id_], "cancelling")
                return web.json_response(self.batches[id_])
        return _refused(404, f"nothing here: {name}")

    def _created(self, asked: dict[str, Any]) -> web.Response:
        if asked["endpoint"] != "/v1/chat/completions" or asked["input_file_id"] not in self.files:
            return _refused(400, "no such endpoint or file")
        said = {
            **{"id": f"batch-{next(self._ids)}", "object": "batch", "status": "validating", "errors": None},
            **{"created_at": int(time.time()), "metadata": asked.get("metadata"), "output_file_id": None},
            **{name: asked[name] for name in ("endpoint", "input_file_id", "completion_window")},
            "error_file_id": None,
        }
        ends = self.ends.popleft() if self.ends else Ends()
        lines = [orjson.loads(line) for line in self.files[asked["input_file_id"]].split(b"\n") if line]
        self.batches[said["id"]] = said
        self._batches[said["id"]] = _Batch(said, lines, ends)
        return web.json_response(said)

    def _step(self, batch: _Batch) -> None:
        """What has happened until somebody looks again."""
        status = batch.said["status"]
        if status == "validating":
            wrong = batch.ends.errors or self._wrong(batch)
            self._begins(batch, "failed" if wrong else "in_progress")
            batch.said["errors"] = {"object": "list", "data": list(wrong)} if wrong else None
        elif status == "in_progress":
            some = batch.lines[: batch.ends.answered]
            for line in some[len(batch.computed) :]:
                batch.computed.append((line["custom_id"], self._of(line["body"])))
                self.computed[self._name(line["body"])] += 1
            if not self.is_held:
                self._begins(batch, "finalizing")
        elif status in ("finalizing", "cancelling"):
            self._write_files(batch, "cancelled" if status == "cancelling" else batch.ends.status)

    def _wrong(self, batch: _Batch) -> tuple[dict[str, Any], ...]:
        ids = [line.get("custom_id") for line in batch.lines]
        is_right = len(set(ids)) == len(ids) > 0 and all(
            line["method"] == "POST" and line["url"] == batch.said["endpoint"] and line["body"]["model"]
            for line in batch.lines
        )
        return () if is_right else ({"code": "invalid", "line": 1, "message": "lines are not as they must be"},)

    def _write_files(self, batch: _Batch, status: str) -> None:
        outputs, errors = [], []
        for custom_id, answer in batch.computed:
            line = {"id": f"line-{next(self._ids)}", "custom_id": custom_id, "response": None, "error": None}
            if isinstance(answer, Line):
                errors.append(line | {"error": answer.error})
            elif isinstance(answer, Status):
                errors.append(line | {"response": {"status_code": answer.status, "body": answer.body}})
            elif not isinstance(answer, Nothing):
                outputs.append(line | {"response": {"status_code": 200, "request_id": "r", "body": answer}})
        if status == "expired":
            gone = {"code": "batch_expired", "message": "This request was not executed in time."}
            left = batch.lines[len(batch.computed) :]
            errors += [{"id": "x", "custom_id": line["custom_id"], "response": None, "error": gone} for line in left]
        for name, lines in (("output_file_id", outputs), ("error_file_id", errors)):
            self._random.shuffle(lines)
            if lines:
                batch.said[name] = self._kept(b"".join(orjson.dumps(line) + b"\n" for line in lines))
        self._begins(batch, status)

    def _begins(self, batch: _Batch, status: str) -> None:
        with self.changed:
            batch.said["status"] = status
            self.changed.notify_all()

    def _kept(self, content: bytes) -> str:
        file_id = f"file-{next(self._ids)}"
        self.files[file_id] = content
        return file_id


def _refused(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "invalid_request_error"}}, status=status)
