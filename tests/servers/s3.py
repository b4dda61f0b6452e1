"""A real S3 server on loopback for tests: moto, in its own process.

Not a mock inside this process: every client (s3fs, pyarrow, boto3, a Ray worker, a killed driver's successor) talks
HTTP to it and sees the same objects. moto accepts any key and any checksum: it proves nothing about authentication.

    with S3Server("bucket") as server:
        monkeypatch.setenv(...)  # server.environment(), for clients that read AWS_*
        run_job(storage={"endpoint_url": server.endpoint}, output="s3://bucket/out")
        assert "out/data/part.parquet" in server.objects("bucket", "out/")
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

ACCESS_KEY = SECRET_KEY = "testing"
REGION = "us-east-1"
REPOSITORY = Path(__file__).parents[2]
UNTIL_INPUT_ENDS = """
import os, runpy, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


class ServerProcess:
    """``python -m module args`` in its own process group, started in the repository's root.

    It ends with ``kill``, at this process's exit, and when this process is itself killed: its input then ends.
    """

    def __init__(self, module: str, args: Sequence[str], *, stdout: int = subprocess.DEVNULL) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", UNTIL_INPUT_ENDS, module, *args],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.owner_pid = os.getpid()
        atexit.register(self.kill)

    def kill(self) -> None:
        """SIGKILL the whole group. May be called twice; does nothing in a fork of the process that started it."""
        if os.getpid() != self.owner_pid:
            return
        if self.popen.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe:
                pipe.close()
        atexit.unregister(self.kill)


class S3Server:
    """moto with the named buckets, between ``with`` and the end of its block."""

    def __init__(self, *buckets: str, start_timeout_s: float = 60.0) -> None:
        self.buckets = buckets
        self.start_timeout_s = start_timeout_s
        self.endpoint = ""
        """``http://127.0.0.1:PORT`` while the server runs."""
        self.process: ServerProcess | None = None

    def __enter__(self) -> S3Server:
        # Somebody else may take the free port before moto does: moto then exits, and we try another.
        for _ in range(3):
            if self._start(free_port()):
                break
        else:
            raise RuntimeError(f"moto did not start; see what this prints: {sys.executable} -m moto.server")
        try:
            client = self.client()
            for bucket in self.buckets:
                client.create_bucket(Bucket=bucket)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill the server; its objects are gone."""
        if self.process:
            self.process.kill()
        self.process = None

    def environment(self, *, endpoint: bool = False) -> dict[str, str]:
        """AWS_* variables for this server's clients; ``endpoint=True`` adds AWS_ENDPOINT_URL, which pyarrow's
        ``S3FileSystem()`` ignores and which a job's own endpoint must not depend on."""
        variables = {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        return variables | ({"AWS_ENDPOINT_URL": self.endpoint} if endpoint else {})

    def client(self) -> Any:
        """A boto3 S3 client with explicit keys and endpoint, whatever the environment says."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name=REGION,
            config=Config(s3={"addressing_style": "path"}),
        )

    def objects(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """Key -> whole content of every object under ``prefix``."""
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    def _start(self, port: int) -> bool:
        self.process = ServerProcess("moto.server", ["-H", "127.0.0.1", "-p", str(port)])
        self.endpoint = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + self.start_timeout_s
        while time.monotonic() < deadline and self.process.popen.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=5):
                # Another server on this port would answer too: ours must still be running.
                return self.process.popen.poll() is None
            time.sleep(0.05)
        self.stop()
        return False


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
