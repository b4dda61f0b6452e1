"""Jobs that serve a model with real vLLM on the CPU: end to end, with an engine that dies or hangs on the way."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest

from connectors.errors import UserError
from tests.chaos.victim import Victim
from tests.jobs.running import by, rows, run
from tests.rmbatch.pipeline.test_model_server import until
from tests.tiny_models import make_model

pytest.importorskip("vllm")
pytestmark = [pytest.mark.served, pytest.mark.ray, pytest.mark.timeout(900)]

COMPACT = {"backend": "xgrammar", "disable_any_whitespace": True}  # random weights would go on with blanks for ever


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("served") / "model", "causal")


@pytest.fixture(autouse=True)
def no_engine_stays() -> Iterator[None]:
    yield
    until(lambda: not engines(), 20)


def engines() -> list[psutil.Process]:
    """All processes of servers that jobs have started, wherever they hang: guards, servers, engines."""
    found = []
    for process in psutil.process_iter():
        try:
            sockets = process.environ().get("VLLM_RPC_BASE_PATH", "")
            if sockets.startswith("/tmp/rmbatch-serve-") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def cores() -> list[psutil.Process]:
    """Processes in which vLLM computes."""
    found = []
    for process in engines():
        with suppress(psutil.Error):
            if "EngineCore" in f"{process.name()} {' '.join(process.cmdline())}":
                found.append(process)
    return found


def job(tmp_path: Path, num_rows: int, **serve: Any) -> dict[str, Any]:
    path = tmp_path / "in.jsonl"
    lines = [{"id": n, "prompt": f"Count {n}.", "response": f"is {n % 9 + 1}"} for n in range(num_rows)]
    if not path.exists():  # a changed input would be refused
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = {"enforce_eager": True, "kv_cache_memory_bytes": 256 << 20, "structured_outputs_config": COMPACT}
    served = {"gpus": 0, "cpus": 0.4, "dtype": "float32", "max_length": 2048}
    served |= {"engine_args": arguments, **serve}
    judge = {"judge": "pointwise", "critique": False, "max_tokens": 64, "seed": 7, "serve": served}
    return {
        "job": "score",
        "input": {"path": str(path)},
        "rewards": {"help": {**judge, "in_flight": 4}},
        "output": {"path": str(tmp_path / "out")},
    }


def scores(tmp_path: Path) -> list[Any]:
    return [(row["id"], row["score.help"], row["error.help"]) for row in by("id", rows(tmp_path / "out"))]


def meanwhile(what: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=what, daemon=True)
    thread.start()
    return thread


def answers(tmp_path: Path) -> int:
    """How many answers the job has kept so far."""
    found = tmp_path.glob("out/_rmbatch/answers/*/*.answers")
    return sum(file.read_bytes().count(b"\n") for file in found)


@pytest.mark.chaos
def test_deaths_and_hangs_of_the_engine_cost_no_score(local_ray: None, model: str, tmp_path: Path) -> None:
    def trouble() -> None:
        for at_answers, sent in ((5, signal.SIGKILL), (20, signal.SIGSTOP)):
            until(lambda at=at_answers: answers(tmp_path) >= at and cores(), 240)
            os.kill(cores()[0].pid, sent)

    thread, said = meanwhile(trouble), StringIO()
    run(job(tmp_path, 60, model=model, hang_timeout_s=10.0), said)
    thread.join()
    found = scores(tmp_path)
    assert [number for number, *_ in found] == list(range(60))
    assert all(score is not None and error is None for _, score, error in found)
    assert answers(tmp_path) == 60
    text = " ".join(said.getvalue().split())
    assert "it is started again" in text
    assert "got nowhere with its work for 10 s" in text


@pytest.mark.parametrize(
    ("serve", "cause"),
    [
        ({"model": "/no/such/model"}, "write a folder that all nodes see"),
        ({"engine_args": {"max_num_sqs": 4}}, "unrecognized arguments: --max-num-sqs"),
        ({"engine_args": {"kv_cache_memory_bytes": 1 << 16}}, "give it more GPUs or memory"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(
    local_ray: None, model: str, tmp_path: Path, serve: dict[str, Any], cause: str
) -> None:
    with pytest.raises(UserError) as mistake:
        run(job(tmp_path, 4, **{"model": model, **serve}))
    print(mistake.value)
    assert cause in str(mistake.value)
    assert "\n" not in str(mistake.value)


def test_killed_driver_leaves_no_engine(model: str, tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job(tmp_path, 200, model=model)))
    with Victim(file) as victim:
        victim.start()
        until(lambda: answers(tmp_path) >= 5, 300)
        assert cores()
        victim.kill_driver()
        until(lambda: not engines(), 30)
        victim.left_behind_s()
