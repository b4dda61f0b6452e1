"""One server of a model: started again when it dies or hangs, given up with its last words, never left behind."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rmbatch.chat.serve import ServeSpec
from rmbatch.pipeline import model_server
from rmbatch.pipeline.model_server import ModelServer, find_cause, read_progress, server_command, server_environment
from tests.servers.s3 import REPOSITORY

SCRIPT = REPOSITORY / "tests/servers/chat_process.py"
COMMAND = (sys.executable, str(SCRIPT), "{model}", "{name}", "{host}", "{port}")


def spec(folder: Path, **settings: Any) -> ServeSpec:
    return ServeSpec(model=str(folder), gpus=0, command=COMMAND, **settings)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ModelServer]]:
    servers: list[ModelServer] = []

    def make(**settings: Any) -> ModelServer:
        servers.append(ModelServer(spec(tmp_path, **settings), "name", "127.0.0.1", "key"))
        servers[-1].start()
        return servers[-1]

    yield make
    for each in servers:
        each.close()
    assert not living(tmp_path)


def pids(folder: Path) -> list[int]:
    path = folder / "pids"
    return [int(each) for each in path.read_text().split()] if path.exists() else []


def living(folder: Path) -> list[int]:
    found = []
    for pid in pids(folder):
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found


def until(what: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it has taken too long"
        time.sleep(0.02)
    return found


def test_serves_and_ends_with_all_that_it_started(start: Callable[..., ModelServer], tmp_path: Path) -> None:
    server = start()
    url = until(lambda: server.state.url)
    with urllib.request.urlopen(f"{url}/models") as answer:
        assert b'"name"' in answer.read()
    assert len(living(tmp_path)) == 2
    server.close()
    assert not living(tmp_path)
    assert server.state.url is None


@pytest.mark.parametrize("which", [0, 1], ids=["server", "guard"])
def test_killed_server_is_started_again_at_its_address(
    start: Callable[..., ModelServer], tmp_path: Path, which: int
) -> None:
    server = start()
    url = until(lambda: server.state.url)
    first = pids(tmp_path)
    victim = first[0] if which == 0 else psutil.Process(first[0]).ppid()
    os.kill(victim, signal.SIGKILL)
    until(lambda: server.state.num_deaths)
    assert until(lambda: server.state.url) == url
    assert set(living(tmp_path)) == set(pids(tmp_path)) - set(first)  # its engine has not outlived it
    assert "was killed by SIGKILL" in server.state.last_words


def test_hung_server_is_started_again(start: Callable[..., ModelServer], tmp_path: Path) -> None:
    server = start(hang_timeout_s=1.0)
    until(lambda: server.state.url)
    first = pids(tmp_path)
    os.kill(first[0], signal.SIGSTOP)
    until(lambda: server.state.num_deaths)
    assert server.state.last_words.startswith("answered nothing for 1 s (hang_timeout_s)")
    until(lambda: server.state.url)
    assert len(living(tmp_path)) == 2


@pytest.mark.parametrize("refused", [False, True])
def test_idle_server_is_left_alone(start: Callable[..., ModelServer], tmp_path: Path, refused: bool) -> None:
    (tmp_path / "metrics").touch()
    if refused:
        (tmp_path / "no nudges").touch()
    server = start(hang_timeout_s=1.0)
    until(lambda: server.state.url)
    time.sleep(5)
    assert server.state.url
    assert server.state.num_deaths == 0
    assert (tmp_path / "nudges").exists()


def test_engine_that_hung_while_idle_is_started_again(start: Callable[..., ModelServer], tmp_path: Path) -> None:
    (tmp_path / "metrics").touch()
    server = start(hang_timeout_s=1.0)
    until(lambda: server.state.url)
    (tmp_path / "stuck").touch()  # as its engine hangs, it goes on to count nothing, and to be well by its own account
    until(lambda: server.state.num_deaths)
    assert server.state.last_words.startswith("got nowhere with its work for 1 s (hang_timeout_s)")
    (tmp_path / "stuck").unlink()
    until(lambda: server.state.url)


def test_model_that_cannot_be_loaded_is_not_tried_again(start: Callable[..., ModelServer], tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("CUDA out of memory. Tried to allocate 2 GiB")
    server = start()
    failure = until(lambda: server.state.failure)
    assert failure.startswith("the server ended with status 1 while it loaded the model; its log says: RuntimeError:")
    assert "CUDA out of memory. Tried to allocate 2 GiB; give it more GPUs or memory" in failure
    assert server.state.num_deaths == 1


def test_server_that_keeps_dying_is_given_up(
    start: Callable[..., ModelServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_server, "MAX_DEATHS", 3)
    server = start()
    for deaths in (1, 2, 3):
        until(lambda: server.state.url)
        os.kill(pids(tmp_path)[-2], signal.SIGKILL)
        until(lambda deaths=deaths: server.state.num_deaths == deaths)
    assert server.state.failure.startswith("its server died 3 times, the last time since it was killed by SIGKILL")


def test_server_that_does_not_come_up_is_given_up(start: Callable[..., ModelServer], tmp_path: Path) -> None:
    server = start(startup_timeout_s=0.01)
    assert until(lambda: server.state.failure) == "it was not up after 0 s (startup_timeout_s)"


OWNER = """
import sys, time
from pathlib import Path
from tests.rmbatch.pipeline.test_model_server import ModelServer, spec
server = ModelServer(spec(Path(sys.argv[1])), "name", "127.0.0.1", "key")
server.start()
time.sleep(600)
"""


@pytest.mark.parametrize("guard_too", [False, True], ids=["owner", "owner and guard"])
def test_nothing_outlives_the_kill_of_its_owner(tmp_path: Path, guard_too: bool) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], cwd=REPOSITORY)
    until(lambda: pids(tmp_path))
    guard = psutil.Process(psutil.Process(pids(tmp_path)[0]).ppid())
    folder = Path(guard.cmdline()[3])
    assert folder.is_dir()
    owner.kill()
    if guard_too:  # as Ray does with the children of a worker that ends
        guard.kill()
    owner.wait()
    until(lambda: not living(tmp_path), 10)
    until(lambda: not folder.exists(), 10)


def test_command_of_vllm_says_all_settings() -> None:
    found = ServeSpec(
        model="org/m",
        gpus=2,
        max_length=4096,
        dtype="bfloat16",
        engine_args={"enforce_eager": True, "enable_prefix_caching": False, "rope_scaling": {"factor": 2.0}},
    )
    command = server_command(found, "m", "10.0.0.1", 8000)
    assert command[1:4] == ["-P", "-m", "vllm.entrypoints.openai.api_server"]
    assert " ".join(command[4:]) == (
        "--model org/m --served-model-name m --host 10.0.0.1 --port 8000 --dtype bfloat16 --max-model-len 4096 "
        "--tensor-parallel-size 2 --disable-uvicorn-access-log --enforce-eager --no-enable-prefix-caching "
        '--rope-scaling {"factor": 2.0}'
    )


def test_command_on_cpus_and_on_a_part_of_a_gpu() -> None:
    cpu = server_command(ServeSpec(model="m", gpus=0, engine_args={"kv_cache_memory_bytes": 7}), "m", "h", 1)
    assert "--no-enable-chunked-prefill" in cpu
    assert cpu[cpu.index("--kv-cache-memory-bytes") + 1] == "7"
    part = server_command(ServeSpec(model="m", gpus=0.5), "m", "h", 1)
    assert part[part.index("--gpu-memory-utilization") + 1] == "0.45"


def test_environment_has_the_key_that_the_job_chose() -> None:
    found = server_environment(ServeSpec(model="m", env={"A": "1"}), {"VLLM_API_KEY": "own", "B": "2"}, "/f", "key")
    assert (found["VLLM_API_KEY"], found["A"], found["B"]) == ("key", "1", "2")


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("", ""),
        ("INFO all is well\n", ""),
        (
            "(EngineCore) ValueError: 9 GiB is larger than the available KV cache memory\n"
            "RuntimeError: Engine core initialization failed. See root cause above.\n",
            "its log says: ValueError: 9 GiB is larger than the available KV cache memory;"
            " give it more GPUs or memory, or write a smaller max_length, or quantization",
        ),
        (
            "/usr/bin/python: Error while finding module specification (ModuleNotFoundError: No module named 'vllm')",
            "its log says: ModuleNotFoundError: No module named 'vllm'); install it on the cluster's nodes: "
            "pip install 'rmbatch[gpu]'",
        ),
        (
            "api_server.py: error: unrecognized arguments: --max-num-sqs 3",
            "its log says: error: unrecognized arguments: --max-num-sqs 3; see `vllm serve --help` for the names that "
            "engine_args may have",
        ),
        (
            "RuntimeError: Engine core initialization failed.",
            "its log says: RuntimeError: Engine core initialization failed",
        ),
    ],
)
def test_cause_is_found_in_the_log(log: str, expected: str) -> None:
    assert find_cause(log).startswith(expected)
    assert bool(find_cause(log)) == bool(expected)


def test_progress_is_read_from_the_metrics() -> None:
    metrics = (
        'vllm:num_requests_running{engine="0"} 3.0\nvllm:prompt_tokens_total{engine="0"} 5.0\n'
        'vllm:generation_tokens_total{engine="0"} 7.0\nvllm:generation_tokens_total{engine="1"} 1.0\n'
    )
    assert read_progress(metrics) == (3.0, 5.0, 8.0)
    assert read_progress("") == ()
