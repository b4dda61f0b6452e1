"""A real vLLM server on CPU for tests: reward models (``runner="pooling"``) and, for judges, causal models.

    with vllm_server(make_model(tmp_path / "m", "scalar"), log=tmp_path / "vllm.log") as url:
        ...                                          # POST {url}/classify, {url}/v1/chat/completions, …

Start: 25 to 75 s on a busy machine of two cores. All its processes end with the block, and with this process too.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tests.servers.s3 import REPOSITORY, free_port

_SETTINGS = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
_GUARD = """
import os, signal, subprocess, sys, threading

def end_with_input():
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)

threading.Thread(target=end_with_input, daemon=True).start()
sys.exit(subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL))
"""
"""vLLM's engine is a process that outlives the server's SIGKILL, so somebody has to kill the whole group."""


@contextlib.contextmanager
def vllm_server(
    model: str,
    *args: str,
    log: Path,
    runner: Literal["pooling", "generate"] = "pooling",
    max_model_len: int = 2048,
    start_timeout_s: float = 240.0,
) -> Iterator[str]:
    """The URL of a server that holds the model, float32; ``args`` as on vLLM's command line."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--runner", runner]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", str(max_model_len), *args]
    with log.open("wb") as output:
        guard = subprocess.Popen(
            [sys.executable, "-c", _GUARD, *command],
            cwd=REPOSITORY,
            env={"VLLM_RPC_BASE_PATH": str(log.parent), **os.environ, **_SETTINGS},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_up(url, guard, log, start_timeout_s)
        yield url
    finally:
        _end(guard)


def _wait_until_up(url: str, guard: subprocess.Popen[bytes], log: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and guard.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
            return
        time.sleep(0.2)
    raise RuntimeError("vLLM did not start; the end of its log:\n" + log.read_text(errors="replace")[-4000:])


def _end(guard: subprocess.Popen[bytes], grace_s: float = 30.0) -> None:
    """SIGTERM lets vLLM remove its shared memory; then SIGKILL, whoever is left."""
    for sent, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(guard.pid, sent)
        deadline = time.monotonic() + wait_s
        while _has_processes(guard) and time.monotonic() < deadline:
            time.sleep(0.05)
    guard.wait()
    assert guard.stdin is not None
    guard.stdin.close()


def _has_processes(guard: subprocess.Popen[bytes]) -> bool:
    guard.poll()
    try:
        os.killpg(guard.pid, 0)
    except ProcessLookupError:
        return False
    return True
