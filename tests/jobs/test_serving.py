"""Jobs that serve their models themselves: what becomes of rows, answers and processes when servers die."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

import rmbatch
from connectors.errors import JobError, UserError
from jobs.config.job_types import parse_job
from jobs.run.doctor import examine_job
from jobs.show.display import Display
from tests.chaos.victim import Victim
from tests.jobs.running import by, rows, run
from tests.rmbatch.pipeline.test_model_server import COMMAND, living, pids, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180), pytest.mark.usefixtures("no_client_stays")]


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Path]:
    """The folder of a model; nothing that serves it may be left at the end."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    yield folder
    until(lambda: not living(folder), 15)


def job(tmp_path: Path, model: Path, num_rows: int = 40, serve: Any = None, **others: Any) -> dict[str, Any]:
    path = tmp_path / "in.jsonl"
    lines = [{"id": n, "prompt": f"Count {n}.", "response": f"is {n % 9 + 1}"} for n in range(num_rows)]
    if not path.exists():  # a changed input would be refused
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    served = {"model": str(model), "gpus": 0, "cpus": 0.4, "command": COMMAND, **(serve or {})}
    return {
        "job": "score",
        "input": {"path": str(path)},
        "rewards": {"help": {"judge": "pointwise", "serve": served}},
        "output": {"path": str(tmp_path / "out")},
        **others,
    }


def check_output(tmp_path: Path, num_rows: int = 40) -> None:
    """Every row is there once, with the honest judge's score."""
    found = by("id", rows(tmp_path / "out"))
    assert [row["id"] for row in found] == list(range(num_rows))
    assert [row["score.help"] for row in found] == [n % 9 + 1.0 for n in range(num_rows)]


def asked(model: Path) -> list[dict[str, Any]]:
    path = model / "asked"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def meanwhile(what: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=what, daemon=True)
    thread.start()
    return thread


def test_job_serves_its_model_and_ends_it(local_ray: None, model: Path, tmp_path: Path) -> None:
    said = StringIO()
    run(job(tmp_path, model, serve={"replicas": 2}), said)
    check_output(tmp_path)
    assert len({each["pid"] for each in asked(model)}) == 2  # both were asked
    assert len({each["text"] for each in asked(model)}) == len(asked(model)) == 40
    assert {each["key"] for each in asked(model)} != {"Bearer key"}
    assert all(each["key"].startswith("Bearer ") for each in asked(model))
    assert f"help: loading {model} on the cluster, 2 servers" in said.getvalue().replace("\n", "")
    assert not living(model)


def test_all_who_ask_a_named_model_share_its_servers(local_ray: None, model: Path, tmp_path: Path) -> None:
    asks = job(tmp_path, model)
    served = asks["rewards"]["help"]["serve"]
    asks["models"] = {"local": {"serve": str(model), "gpus": 0, "cpus": 0.4, "command": served["command"]}}
    asks["rewards"] = {
        "help": {"judge": "pointwise", "by": "local"},
        "terse": {"judge": "pointwise", "by": "local", "temperature": 0.5, "principles": ["Be terse."]},
    }
    summary = run(asks)
    check_output(tmp_path)
    assert len(pids(model)) == 2  # one server and its engine
    assert len(asked(model)) == 80
    assert {name: each["answers"] for name, each in summary.judged.items()} == {"help": 40, "terse": 40}


def test_candidates_of_a_served_model_share_its_server(local_ray: None, model: Path, tmp_path: Path) -> None:
    command = job(tmp_path, model)["rewards"]["help"]["serve"]["command"]
    asks = {
        "job": "generate",
        "models": {"local": {"serve": str(model), "gpus": 0, "cpus": 0.4, "command": command}},
        "input": {"path": str(tmp_path / "in.jsonl"), "columns": {"response": None}},
        "generate": {"by": "local", "n": 2, "temperature": 1.0, "seed": 3},
        "output": {"path": str(tmp_path / "out"), "columns": ["id", "prompt"]},
    }
    run(asks)
    found = by("id", rows(tmp_path / "out"))
    assert [row["id"] for row in found] == list(range(40))
    assert all(len(set(row["responses"])) == 2 for row in found)
    assert all(text.startswith("said ") for row in found for text in row["responses"])
    assert len(pids(model)) == 2


def test_server_that_is_killed_costs_no_row(local_ray: None, model: Path, tmp_path: Path) -> None:
    (model / "slow").write_text("0.2")

    def kill() -> None:
        until(lambda: len(asked(model)) > 10)
        os.kill(pids(model)[0], signal.SIGKILL)

    thread, said = meanwhile(kill), StringIO()
    asks = job(tmp_path, model, num_rows=100)
    asks["rewards"]["help"]["in_flight"] = 8
    run(asks, said)
    thread.join()
    check_output(tmp_path, 100)
    assert "was killed by SIGKILL" in said.getvalue()
    assert len(pids(model)) == 4
    texts = [each["text"] for each in asked(model)]
    assert len(texts) - len(set(texts)) <= 8  # what was on its way


def test_actor_that_is_killed_costs_no_row(local_ray: None, model: Path, tmp_path: Path) -> None:
    (model / "slow").write_text("0.2")

    def kill() -> None:
        until(lambda: len(asked(model)) > 10)
        guard = psutil.Process(pids(model)[0]).parent()
        assert guard is not None
        actor = guard.parent()
        assert actor is not None
        assert "ServerActor" in " ".join(actor.cmdline())
        actor.kill()

    thread = meanwhile(kill)
    asks = job(tmp_path, model, num_rows=100)
    asks["rewards"]["help"]["in_flight"] = 8
    run(asks)
    thread.join()
    check_output(tmp_path, 100)
    assert len(pids(model)) == 4


def test_server_that_hangs_is_replaced(local_ray: None, model: Path, tmp_path: Path) -> None:
    (model / "slow").write_text("0.1")

    def stop() -> None:
        until(lambda: len(asked(model)) > 10)
        os.kill(pids(model)[0], signal.SIGSTOP)

    thread, said = meanwhile(stop), StringIO()
    asks = job(tmp_path, model, serve={"hang_timeout_s": 2.0})
    asks["rewards"]["help"]["in_flight"] = 4
    run(asks, said)
    thread.join()
    check_output(tmp_path)
    assert "answered nothing for 2 s" in said.getvalue()


def test_model_that_cannot_be_loaded_is_one_line_before_any_work(local_ray: None, model: Path, tmp_path: Path) -> None:
    (model / "broken").write_text("CUDA out of memory")
    with pytest.raises(UserError) as mistake:
        run(job(tmp_path, model))
    assert str(mistake.value).startswith(f"model {str(model)!r} (for help) cannot be served: the server ended with")
    assert "CUDA out of memory; give it more GPUs or memory" in str(mistake.value)
    assert not list((tmp_path / "out").rglob("*.parquet"))


@pytest.mark.chaos
def test_servers_that_keep_dying_stop_the_job(local_ray: None, model: Path, tmp_path: Path) -> None:
    (model / "deadly").write_text("Count 7.")
    with pytest.raises(JobError, match=r"its server died \d+ times, the last time since it was killed by SIGKILL"):
        run(job(tmp_path, model))
    (model / "deadly").unlink()
    run(job(tmp_path, model))  # and the same command goes on
    check_output(tmp_path)


def test_more_than_the_cluster_has_is_refused(local_ray: None, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the job's models need more GPUs than the cluster has"):
        run(job(tmp_path, model, serve={"gpus": 1}))
    with pytest.raises(UserError, match="the job's models need more CPUs than the cluster has"):
        run(job(tmp_path, model, serve={"replicas": 9}))


def test_other_weights_are_another_service(local_ray: None, model: Path, tmp_path: Path) -> None:
    run(job(tmp_path, model))
    (model / "config.json").write_text('{"other": 1}')
    said = StringIO()
    again = job(tmp_path, model, num_rows=40)
    run(again, said)
    assert "has changed" in said.getvalue()


def test_killed_driver_leaves_no_server_and_the_job_goes_on(local_ray: None, model: Path, tmp_path: Path) -> None:
    (model / "slow").write_text("0.2")
    asks = job(tmp_path, model, num_rows=60)
    asks["rewards"]["help"]["in_flight"] = 4
    file = tmp_path / "job.json"
    file.write_text(json.dumps(asks))
    with Victim(file) as victim:
        victim.start()
        until(lambda: len(asked(model)) > 10, 90)
        victim.kill_driver()
        began = time.monotonic()
        until(lambda: not living(model), 30)
        print(f"servers were gone after {time.monotonic() - began:.1f} s")
        victim.left_behind_s()
        victim.start()
        assert victim.wait() == 0, victim.said()
    check_output(tmp_path, 60)
    texts = [each["text"] for each in asked(model)]
    assert len(texts) - len(set(texts)) <= 4


def test_killed_raylet_leaves_no_server(model: Path, tmp_path: Path) -> None:
    (model / "slow").write_text("0.2")
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job(tmp_path, model, num_rows=100)))
    with Victim(file) as victim:
        victim.start()
        until(lambda: asked(model), 90)
        (raylet,) = [each for each in victim.processes() if each.name() == "raylet"]
        raylet.kill()
        until(lambda: not living(model), 60)


def test_what_belongs_to_the_named_model_is_refused_beside_by(model: Path, tmp_path: Path) -> None:
    asks = job(tmp_path, model)
    asks["models"] = {"local": {"serve": "some/model"}}
    asks["rewards"]["help"] = {"judge": "pointwise", "by": "local", "gpus": 2}
    with pytest.raises(UserError, match="by: local says which model is asked and where; leave out gpus"):
        parse_job(asks, "JOB")


def test_doctor_asks_no_model_that_only_the_job_serves(model: Path, tmp_path: Path) -> None:
    said = StringIO()
    assert examine_job(parse_job(job(tmp_path, model), "JOB"), Display(Console(file=said, width=300)))
    assert f"only the job itself serves {model}; not asked" in said.getvalue()
    assert not pids(model)


def test_served_model_in_python_says_what_to_do() -> None:
    judge = rmbatch.judge("pointwise", serve="Qwen/Qwen3-8B", gpus=1)
    with pytest.raises(UserError, match="only a job over rows starts servers"):
        judge.evaluate({"prompt": "q", "response": "a"})
