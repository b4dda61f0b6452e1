"""Runs one OpenAI-compatible server of a chat model on this machine: starts it, watches it, starts it again.

It knows no Ray: ``actors/servers.py`` puts one on each place of the cluster. The server and all that it starts end with
this process, however that ends (``guard.py``).

    server = ModelServer(ServeSpec(model="Qwen/Qwen3-8B"), "qwen", host="10.0.0.5", api_key="…")
    server.start()
    server.state.url                                     # http://10.0.0.5:41234/v1, once it serves
    server.close()
"""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rmbatch.chat.serve import ServeSpec
from rmbatch.pipeline import guard

MAX_DEATHS = 8
"""Deaths of a server, each less than ``GOOD_S`` after it began to serve, before it is given up."""
GOOD_S = 600.0
LOOK_S, HEALTH_S, METRICS_S = 0.25, 5.0, 10.0
"""How often it is looked whether the process lives, whether it answers, and whether it gets on with its work."""
PAUSE_S = 1.0
"""Before it is started again: where Ray has killed the guard, this process ends in a moment as well."""
CLOSE_S = guard.GRACE_S + guard.KILL_S
LOG_BYTES = 262_144
CPU_ARGS = {"kv_cache_memory_bytes": 2 << 30, "enable_chunked_prefill": False}
"""On CPUs: vLLM's own cache would take nearly all memory; and vLLM 0.32 dies there of a seeded request whose prompt is
read in parts ("CPU Generator does not use offset")."""
_ERROR = re.compile(r"(?:\b(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|NotFound|Interrupt)\b: .+|\berror: .+)")
_HEADINGS = ("Engine core initialization failed", "EngineCore encountered", "EngineDeadError", "cancelled")
"""Errors that only say that there was another one."""
_CURES = {
    r"out of memory|OutOfMemory|No available memory|larger than the available KV cache|memory utilization": (
        "give it more GPUs or memory, or write a smaller max_length, or quantization"
    ),
    r"infer device type|No CUDA GPUs|no NVIDIA driver": "vLLM finds no GPU on the node; gpus: 0 runs it on CPUs",
    r"valid model identifier|Repository ?Not ?Found|ouldn't connect|LocalEntryNotFound|Invalid repos|HFValidation": (
        "write a folder that all nodes see, or a name on the hub that they can reach"
    ),
    r"No module named '?vllm": "install it on the cluster's nodes: pip install 'rmbatch[gpu]'",
    r"unrecognized arguments": "see `vllm serve --help` for the names that engine_args may have",
}
"""By words of a log: what to do."""


@dataclass(frozen=True)
class ServerState:
    """What is known of one server."""

    url: str | None = None
    """Where it serves, with /v1. None: it is not up."""
    failure: str = ""
    """Why it will not be started again. Empty: it is, or it loads, or it serves."""
    num_deaths: int = 0
    last_words: str = ""
    """Why it died the last time."""


class ModelServer:
    """One server, and the thread that watches it."""

    def __init__(self, spec: ServeSpec, name: str, host: str, api_key: str) -> None:
        """``name``: of the model, for those who ask; ``host``: the address that others reach this machine by."""
        self._spec, self._name, self._host, self._api_key = spec, name, host, api_key
        self._port = find_free_port(host)
        self._state = ServerState()
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="model-server", daemon=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path()

    @property
    def state(self) -> ServerState:
        """What is known of it now."""
        return self._state

    def start(self) -> None:
        """Start the server, and watch it until it is closed or given up."""
        self._thread.start()

    def close(self) -> None:
        """End the server and all that it has started."""
        self._is_closing.set()
        self._thread.join(CLOSE_S + HEALTH_S)

    def _run(self) -> None:
        while not self._is_closing.is_set():
            try:
                self._open()
            except OSError as error:
                self._state = ServerState(None, f"it could not be started: {error}", self._state.num_deaths)
                return
            began = time.monotonic()
            try:
                why = self._await_health() or self._watch()
            finally:
                was_up_s = time.monotonic() - began if self._state.url else 0.0
                self._state = replace(self._state, url=None)
                is_orderly = self._is_closing.is_set()
                self._end(is_orderly)
            if not is_orderly:
                self._note_death(why, was_up_s)
            shutil.rmtree(self._folder, ignore_errors=True)
            if self._state.failure:
                return
            self._is_closing.wait(PAUSE_S)

    def _note_death(self, why: str, was_up_s: float) -> None:
        log = read_end(self._folder / "log")
        cause = find_cause(log)
        if not was_up_s and "address already in use" in log.lower():
            self._port = find_free_port(self._host)
            return
        words = f"{why}{'; ' if why and cause else ''}{cause}"
        deaths = 1 if was_up_s > GOOD_S else self._state.num_deaths + 1
        failure = ""
        if not was_up_s:
            failure = words
        elif deaths >= MAX_DEATHS:
            failure = f"its server died {deaths} times, the last time since it {words}"
        self._state = ServerState(None, failure, deaths, words)

    def _open(self) -> None:
        # Below /tmp by name, for a socket's path has at most 107 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="rmbatch-serve-", dir="/tmp" if os.path.isdir("/tmp") else None))
        command = server_command(self._spec, self._name, self._host, self._port)
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", guard.__file__, str(self._folder), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=server_environment(self._spec, os.environ, str(self._folder), self._api_key),
                start_new_session=True,
            )

    def _end(self, is_orderly: bool) -> None:
        """End the process and all below it: kindly where the job is over, else at once."""
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if is_orderly:
                os.write(self._process.stdin.fileno(), b"x")
                self._process.wait(guard.GRACE_S + guard.KILL_S)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.stdin.close()
            self._process.wait(guard.KILL_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # where the guard itself was killed
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _await_health(self) -> str:
        """Empty, once the server is up; or why it will not be."""
        assert self._process is not None
        deadline = time.monotonic() + self._spec.startup_timeout_s
        while time.monotonic() < deadline:
            if self._is_closing.wait(LOOK_S):
                return "it was closed"
            if self._process.poll() is not None:
                return f"the server {_describe_exit(self._process.returncode)} while it loaded the model"
            if self._get("/health") is not None:
                self._state = replace(self._state, url=f"http://{self._host}:{self._port}/v1")
                return ""
        return f"it was not up after {self._spec.startup_timeout_s:.0f} s (startup_timeout_s)"

    def _watch(self) -> str:
        """Until the server dies or hangs: how it did."""
        assert self._process is not None
        limit = self._spec.hang_timeout_s
        answered = moved = looked = measured = time.monotonic()
        progress: tuple[float, ...] = ()
        nudge = _Nudge(self._host, self._port, self._api_key, self._name, limit)
        while not self._is_closing.wait(LOOK_S):
            if self._process.poll() is not None:
                return _describe_exit(self._process.returncode)
            now = time.monotonic()
            if now - looked > min(HEALTH_S, limit / 4):
                answered = time.monotonic() if self._get("/health") is not None else answered
                looked = time.monotonic()
                if looked - answered > limit:
                    return f"answered nothing for {limit:.0f} s (hang_timeout_s)"
            if now - measured > min(METRICS_S, limit / 4):
                seen, measured = read_progress(self._get("/metrics") or ""), time.monotonic()
                if seen != progress or not seen:
                    progress, moved = seen, measured
                if measured - moved > limit / 2 and not nudge.is_alive():
                    if nudge.was_refused:  # so nothing can be told of it
                        moved = measured
                    nudge = _Nudge(self._host, self._port, self._api_key, self._name, limit)
                    nudge.start()
                if measured - moved > limit:
                    return f"got nowhere with its work for {limit:.0f} s (hang_timeout_s)"
        return "was closed"

    def _get(self, path: str) -> str | None:
        """The server's answer, never through a proxy; None where it gives none."""
        connection = http.client.HTTPConnection(
            self._host, self._port, timeout=min(HEALTH_S, self._spec.hang_timeout_s)
        )
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self._api_key}"})
            answer = connection.getresponse()
            body = answer.read().decode(errors="replace")
            return body if answer.status == 200 else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


class _Nudge(threading.Thread):
    """Asks a server for one token, so that an engine that lives moves its counters.

    What waits for an engine that hangs shows nowhere: a core that hung while it was idle still tells of no work.
    """

    def __init__(self, host: str, port: int, api_key: str, name: str, timeout_s: float) -> None:
        super().__init__(name="nudge", daemon=True)
        self._connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        self._body = json.dumps({"model": name, "prompt": "a", "max_tokens": 1})
        self.was_refused = False
        """Whether the server has said that it answers no such request."""

    def run(self) -> None:
        try:
            self._connection.request("POST", "/v1/completions", self._body, self._headers)
            self.was_refused = self._connection.getresponse().status != 200
        except (OSError, http.client.HTTPException):
            pass  # it is dead, or hangs: others see that
        finally:
            self._connection.close()


def server_command(spec: ServeSpec, name: str, host: str, port: int) -> list[str]:
    """The command that starts a server: vLLM's, or the spec's own."""
    if spec.command:
        places = {"{model}": spec.model, "{name}": name, "{host}": host, "{port}": str(port)}
        return [_fill(each, places) for each in spec.command]
    command = [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server"]
    return command + [each for key, value in _arguments(spec, name, host, port).items() for each in _flag(key, value)]


def server_environment(spec: ServeSpec, own: Mapping[str, str], folder: str, api_key: str) -> dict[str, str]:
    """The environment of a server whose sockets are in ``folder``."""
    ours = {"VLLM_NO_USAGE_STATS": "1", "VLLM_RPC_BASE_PATH": folder, "VLLM_API_KEY": api_key}
    return {"VLLM_LOGGING_LEVEL": "WARNING", **own, **ours, **spec.env}


def find_free_port(host: str) -> int:
    """A port of this machine that nobody listens at."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as taken:
        taken.bind((host, 0))
        return int(taken.getsockname()[1])


def find_cause(log: str) -> str:
    """What a server's log says of why it ended, with a cure where one is known; empty where it says nothing."""
    found = [match.group(0).strip() for line in log.splitlines() if (match := _ERROR.search(line))]
    causes = [each for each in found if not any(heading in each for heading in _HEADINGS)]
    if not found:
        return ""
    cause = " ".join((causes or found)[-1].split())[:400].rstrip(".")
    cure = next((cure for words, cure in _CURES.items() if re.search(words, log)), "")
    return f"its log says: {cause}{'; ' if cure else ''}{cure}"


def read_progress(metrics: str) -> tuple[float, ...]:
    """Of vLLM's metrics: how many requests run, how many tokens were read and written. Empty where it tells none."""
    names = ("num_requests_running", "prompt_tokens_total", "generation_tokens_total")
    found = [[float(each) for each in re.findall(rf"(?m)^vllm:{name}\b.* (\S+)$", metrics)] for name in names]
    return tuple(map(sum, found)) if all(found) else ()


def read_end(path: Path) -> str:
    """The end of a log; empty where there is none."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(path.stat().st_size - LOG_BYTES, 0))
        return file.read().decode(errors="replace")
    return ""


def _arguments(spec: ServeSpec, name: str, host: str, port: int) -> dict[str, Any]:
    split = spec.gpus > 1 and not {"pipeline_parallel_size", "data_parallel_size"} & spec.engine_args.keys()
    own = {
        "model": spec.model,
        "served_model_name": name,
        "host": host,
        "port": port,
        "dtype": spec.dtype,
        "revision": spec.revision,
        "quantization": spec.quantization,
        "max_model_len": spec.max_length,
        "tensor_parallel_size": int(spec.gpus) if split else None,
        "gpu_memory_utilization": 0.9 * spec.gpus if 0 < spec.gpus < 1 else None,
        "disable_uvicorn_access_log": True,
        **(CPU_ARGS if spec.gpus == 0 else {}),
    }
    return {key: value for key, value in {**own, **spec.engine_args}.items() if value is not None}


def _flag(key: str, value: Any) -> list[str]:
    flag = key.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, list | tuple):
        return [f"--{flag}", *map(str, value)]
    return [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]


def _fill(text: str, places: Mapping[str, str]) -> str:
    for place, value in places.items():
        text = text.replace(place, value)
    return text


def _describe_exit(status: int) -> str:
    """How the server ended, by the status of its guard."""
    if 128 < status < 128 + 65:
        status = 128 - status
    said = guard.describe_status(status)
    return f"{said}, perhaps for want of memory" if status == -signal.SIGKILL else said
