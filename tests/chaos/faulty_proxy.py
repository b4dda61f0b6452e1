"""An HTTP/1.1 reverse proxy in front of an S3 server which spoils a share of the requests, in its own process.

Bytes pass unchanged in both directions (aws-chunked bodies, ranges, HEAD's Content-Length, the client's Host header);
only the hop's own headers (Connection, Keep-Alive, Expect) are the proxy's. Bodies are held in memory. It is no load
balancer and no TLS end. A signature made for this proxy's address is not valid at a server which checks signatures.

    with S3Server("bucket") as server, FaultyProxy(server.endpoint, rate=0.2, seed=7) as proxy:
        run_job(storage={"endpoint_url": proxy.endpoint}, output="s3://bucket/out")
        assert proxy.counts()["lost_ack"] > 0

By hand: ``python -m tests.chaos.faulty_proxy --target http://127.0.0.1:9000 --rate 0.2 --seed 7 --port 0`` prints its
port; then ``curl localhost:PORT/__faults__`` and ``curl -X PUT 'localhost:PORT/__faults__?rate=0.0'``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import struct
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from tests.servers.s3 import ServerProcess

KINDS = ("reset", "503", "500", "truncate", "delay", "lost_ack")
"""What can happen to a request.

- ``reset``: TCP RST once the request's headers are in; the server never hears of it
- ``503``, ``500``: SlowDown or InternalError as S3's XML; the server never hears of it
- ``truncate``: done by the server; the client gets all headers, half of the body, and a closed connection
- ``delay``: done by the server 0.2 to 1.5 s later
- ``lost_ack``: done by the server; the client gets a closed connection instead of an answer
"""
S3_ERRORS = {
    "503": (b"503 Slow Down", "SlowDown", "Please reduce your request rate."),
    "500": (b"500 Internal Server Error", "InternalError", "We encountered an internal error. Please try again."),
}
HOP_HEADERS = {b"connection", b"keep-alive", b"proxy-connection", b"expect"}
MAX_LINE_BYTES = 1 << 20
CONTROL_PATH = "/__faults__"
MODULE = "tests.chaos.faulty_proxy"


@dataclass
class Settings:
    """What to spoil. Each field is also a command-line option and a query key of ``PUT /__faults__``."""

    rate: float = 0.0
    """Probability per matching request, 0 to 1."""
    kinds: tuple[str, ...] = KINDS
    """The faults to draw from; in text, separated by commas."""
    match: str = ""
    """Spoil only requests whose first line holds this text, e.g. ``PUT /bucket/out/_rmbatch``; empty means all."""
    at_most: int = -1
    """Stop after this many more faults; negative means never."""
    latency_s: float = 0.0
    """Seconds that each request waits before it is passed on."""

    def update(self, values: dict[str, str]) -> None:
        """Set the named fields from text. Raises ValueError, and sets nothing, for an unknown name or value."""
        if unknown := values.keys() - self.__dataclass_fields__.keys():
            raise ValueError(f"unknown {sorted(unknown)}; there are {sorted(self.__dataclass_fields__)}")
        rate = float(values.get("rate", self.rate))
        kinds = tuple(values["kinds"].split(",")) if "kinds" in values else self.kinds
        at_most = int(values.get("at_most", self.at_most))
        latency_s = float(values.get("latency_s", self.latency_s))
        if not 0 <= rate <= 1:
            raise ValueError(f"rate is a probability, 0 to 1; got {rate}")
        if unknown := set(kinds) - set(KINDS):
            raise ValueError(f"unknown kinds {sorted(unknown)}; there are {list(KINDS)}")
        self.rate, self.kinds, self.at_most, self.latency_s = rate, kinds, at_most, latency_s
        self.match = values.get("match", self.match)


class FaultyProxy:
    """The proxy in its own process, between ``with`` and the end of its block."""

    def __init__(
        self,
        target: str,
        *,
        rate: float = 0.0,
        seed: int = 0,
        kinds: Sequence[str] = KINDS,
        match: str = "",
        at_most: int = -1,
    ) -> None:
        options = {"target": target, "seed": seed, "port": 0}
        settings = {"rate": rate, "kinds": ",".join(kinds), "match": match, "at_most": at_most}
        Settings().update({name: str(value) for name, value in settings.items()})  # refuse a mistake here, not there
        self.args = [f"--{name.replace('_', '-')}={value}" for name, value in (options | settings).items()]
        self.endpoint = ""
        """``http://127.0.0.1:PORT`` while the proxy runs."""
        self.process: ServerProcess | None = None

    def __enter__(self) -> FaultyProxy:
        self.process = ServerProcess(MODULE, self.args, stdout=subprocess.PIPE)
        assert self.process.popen.stdout is not None
        port = self.process.popen.stdout.readline().strip()
        if not port:
            self.stop()
            raise RuntimeError(
                f"the proxy did not start; see what this prints: {sys.executable} -m {MODULE} {' '.join(self.args)}"
            )
        self.endpoint = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill the proxy; open connections are cut."""
        if self.process:
            self.process.kill()
        self.process = None

    def configure(self, **values: Any) -> None:
        """Change fields of ``Settings`` from now on: ``configure(rate=1.0, kinds="lost_ack", at_most=1)``."""
        self._control("PUT", "?" + urlencode(values))

    def counts(self) -> dict[str, int]:
        """Kind -> how often it was injected since the start."""
        counts: dict[str, int] = self._control("GET")["counts"]
        return counts

    def requests(self) -> int:
        """How many requests came in since the start, spoiled or not."""
        return int(self._control("GET")["requests"])

    def _control(self, method: str, query: str = "") -> Any:
        request = urllib.request.Request(f"{self.endpoint}{CONTROL_PATH}{query}", method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)


class Message(NamedTuple):
    """A request or a response: first line, headers in order, and the body as it stands on the wire."""

    first: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""

    def header(self, name: bytes) -> bytes:
        """The last value under ``name`` (lower case), stripped and lower-cased; empty if there is none."""
        values = [value.strip().lower() for key, value in self.headers if key.lower() == name]
        return values[-1] if values else b""

    def head(self, **added: str) -> bytes:
        """First line and headers as bytes, without those that belong to one hop."""
        kept = [key + b":" + value for key, value in self.headers if key.lower() not in HOP_HEADERS]
        kept += [f"{key}: {value}".encode() for key, value in added.items()]
        return b"\r\n".join([self.first, *kept, b"", b""])


async def read_head(reader: asyncio.StreamReader) -> Message | None:
    """The next message's first line and headers; None at the end of the connection."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = raw[:-4].split(b"\r\n")
    pairs = [line.partition(b":") for line in lines]
    return Message(first, [(key, value) for key, _, value in pairs])


async def read_body(reader: asyncio.StreamReader, message: Message, *, to_the_end: bool) -> bytes:
    """The body as it stands on the wire, chunk sizes included; ``to_the_end`` where no length is given."""
    if message.header(b"transfer-encoding") == b"chunked":
        return await read_chunks(reader)
    if length := message.header(b"content-length"):
        return await reader.readexactly(int(length))
    return await reader.read() if to_the_end else b""


async def read_chunks(reader: asyncio.StreamReader) -> bytes:
    raw = bytearray()
    while True:
        size_line = await reader.readuntil(b"\r\n")
        size = int(size_line.split(b";")[0], 16)
        raw += size_line
        if size == 0:
            break
        raw += await reader.readexactly(size + 2)
    while (trailer := await reader.readuntil(b"\r\n")) != b"\r\n":
        raw += trailer
    return bytes(raw + b"\r\n")


async def forward(request: Message, host: str, port: int) -> Message:
    """The server's final response to ``request``, over a connection of its own."""
    reader, writer = await asyncio.open_connection(host, port, limit=MAX_LINE_BYTES)
    try:
        writer.write(request.head(Connection="close") + request.body)
        await writer.drain()
        response = await read_head(reader)
        while response and response.first.split()[1].startswith(b"1"):  # 100 Continue and its like
            response = await read_head(reader)
        if response is None:
            raise ConnectionResetError(f"{host}:{port} closed the connection without an answer")
        first = b"HTTP/1.1 " + response.first.split(b" ", 1)[1]
        if request.first.startswith(b"HEAD ") or first.split()[1] in (b"204", b"304"):
            return Message(first, response.headers)
        body = await read_body(reader, response, to_the_end=True)
        framed = response.header(b"content-length") or response.header(b"transfer-encoding")
        length = [] if framed else [(b"Content-Length", b" %d" % len(body))]
        return Message(first, response.headers + length, body)
    finally:
        writer.close()


class Proxy:
    """Serves connections on behalf of the server at ``target``, with the faults that its settings ask for."""

    def __init__(self, target: str, seed: int, settings: Settings) -> None:
        self.address = urlsplit(target)
        self.rng = random.Random(seed)
        self.settings = settings
        self.counts = Counter(dict.fromkeys(KINDS, 0))
        self.requests = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client connection, request after request, until either side ends it."""
        # A server that is down shows as a closed connection, as it would without us.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await self.answer(reader, writer):
                pass
        writer.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; True while the connection may carry another."""
        request = await read_head(reader)
        if request is None:
            return False
        method, path, _ = request.first.decode("latin-1").split(" ", 2)
        if urlsplit(path).path == CONTROL_PATH:
            await read_body(reader, request, to_the_end=False)
            return await self.reply(writer, self.control(method, path))
        self.requests += 1
        fault = self.draw(request)
        if fault == "reset":
            self.reset(writer)
            return False
        if request.header(b"expect") == b"100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request = request._replace(body=await read_body(reader, request, to_the_end=False))
        if fault in S3_ERRORS:
            return await self.reply(writer, s3_error(fault, path), head_only=method == "HEAD")
        if fault == "delay":
            await asyncio.sleep(self.rng.uniform(0.2, 1.5))
        await asyncio.sleep(self.settings.latency_s)
        response = await forward(request, self.address.hostname or "", self.address.port or 80)
        if fault == "lost_ack":
            return False
        if fault == "truncate":
            writer.write(response.head() + response.body[: len(response.body) // 2])
            await writer.drain()
            return False
        return await self.reply(writer, response) and request.header(b"connection") != b"close"

    def draw(self, request: Message) -> str | None:
        """The fault for this request, counted; None to serve it well."""
        settings = self.settings
        if not settings.at_most or settings.match.encode() not in request.first:
            return None
        if self.rng.random() >= settings.rate:
            return None
        fault = self.rng.choice(settings.kinds)
        settings.at_most -= settings.at_most > 0
        self.counts[fault] += 1
        return fault

    def control(self, method: str, path: str) -> Message:
        """The counters as JSON, after a PUT's settings are taken over; 400 with the reason where they are wrong."""
        try:
            if method == "PUT":
                self.settings.update(dict(parse_qsl(urlsplit(path).query, keep_blank_values=True)))
        except ValueError as error:
            return plain(b"400 Bad Request", b"text/plain", str(error).encode())
        state = {"requests": self.requests, "counts": self.counts, **vars(self.settings)}
        return plain(b"200 OK", b"application/json", json.dumps(state).encode())

    @staticmethod
    async def reply(writer: asyncio.StreamWriter, response: Message, *, head_only: bool = False) -> bool:
        writer.write(response.head() + (b"" if head_only else response.body))
        await writer.drain()
        return True

    @staticmethod
    def reset(writer: asyncio.StreamWriter) -> None:
        """Close with RST: with a linger time of zero the kernel drops what is queued and sends no FIN."""
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


def plain(status: bytes, content_type: bytes, body: bytes) -> Message:
    headers = [(b"Content-Type", b" " + content_type), (b"Content-Length", b" %d" % len(body))]
    return Message(b"HTTP/1.1 " + status, headers, body)


def s3_error(kind: str, path: str) -> Message:
    status, code, text = S3_ERRORS[kind]
    resource = quote(urlsplit(path).path, safe="/%")
    body = f"<Error><Code>{code}</Code><Message>{text}</Message><Resource>{resource}</Resource></Error>"
    return plain(status, b"application/xml", b'<?xml version="1.0" encoding="UTF-8"?>\n' + body.encode())


async def run(target: str, port: int, seed: int, settings: Settings) -> None:
    proxy = Proxy(target, seed, settings)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", port, limit=MAX_LINE_BYTES)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="A reverse proxy that spoils a share of the requests.")
    parser.add_argument("--target", required=True, help="the server's address, http://HOST:PORT")
    parser.add_argument("--port", type=int, default=0, help="0: a free one; printed on the first line")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", default="0.0", help="probability of a fault per request, 0 to 1")
    parser.add_argument("--kinds", default=",".join(KINDS), help="faults to draw from, separated by commas")
    parser.add_argument("--match", default="", help="spoil only requests whose first line holds this text")
    parser.add_argument("--at-most", default="-1", help="stop after this many faults; negative: never")
    options = vars(parser.parse_args())
    settings = Settings()
    try:
        settings.update({name: options.pop(name) for name in ("rate", "kinds", "match", "at_most")})
    except ValueError as error:
        parser.error(str(error))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(settings=settings, **options))


if __name__ == "__main__":
    main()
