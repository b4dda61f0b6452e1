"""What the models of a job have cost, in its report: over kills, stops and retries, on a disk and in a bucket."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from connectors.errors import JobError
from connectors.storage import Folder
from jobs.run.usage import read_usage
from rmbatch.costs.usage import REPORT_EVERY_S
from rmbatch.endpoints.connections import close_all
from tests.jobs.commands import Command, mistake_of, write_jsonl
from tests.jobs.running import run
from tests.judging import Seen, honest, judge_server, questions
from tests.servers.hostile import HostileServer, Late, Status
from tests.servers.s3 import REPOSITORY, S3Server

pytestmark = pytest.mark.usefixtures("no_client_stays")

PRICE = {"input": 1000.0, "output": 5000.0}
"""Each answer of the judge has 100 prompt tokens and 10 generated ones: it costs 0.15 dollars."""
USD = 0.15
SHORT = {"reward": "length_penalty", "min_length": 0, "max_length": 1, "penalty_rate": 0.01}
RUN = """
import sys
import jobs.run.usage
jobs.run.usage.SAVE_EVERY_S = 0.2
from jobs.cli import main
main(sys.argv[1:])
"""
"""The command line, with files of usage that are written more often."""


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with judge_server(honest) as server:
        yield server


def asks(server: HostileServer, **settings: Any) -> dict[str, Any]:
    return {"judge": "pointwise", "endpoint": server.url, "model": "judge", **settings}


def job(tmp_path: Path, judges: dict[str, Any], num_rows: int = 40, **others: Any) -> dict[str, Any]:
    path = tmp_path / "in.jsonl"
    if not path.exists():  # a changed input would be refused
        texts = [[f"row {n} {k} is {k + 1}" for k in range(3)] for n in range(num_rows)]
        write_jsonl(path, [{"prompt": f"Count {n}.", "responses": some} for n, some in enumerate(texts)])
    given = {"job": "score", "input": {"path": str(path)}, "rewards": judges, "output": {"path": str(tmp_path / "out")}}
    return {**given, **others}


def report_of(rmbatch: Command, output: str, *options: str) -> tuple[dict[str, Any], str]:
    """The figures and the page of an output's report."""
    ended = rmbatch("report", output, "--out", "made", *options)
    assert ended.code == 0, ended.err
    figures: dict[str, Any] = json.loads(Path("made/report.json").read_text())
    return figures, Path("made/index.html").read_text()


def test_priced_and_unpriced_judges_are_told_apart(
    anywhere: str, server: HostileServer, rmbatch: Command, tmp_path: Path
) -> None:
    run(job(tmp_path, {"paid": asks(server, price=PRICE), "free": asks(server, model="other")}))
    figures, page = report_of(rmbatch, str(tmp_path / "out"))
    usage = figures["usage"]
    assert len(questions(server)) == 240
    assert {name: used["answers"] for name, used in usage["users"].items()} == {"paid": 120, "free": 120}
    assert usage["usd"] == usage["users"]["paid"]["usd"] == pytest.approx(120 * USD)
    assert {(each["name"], each["unit"]) for each in usage["curves"]} == {("paid", "usd"), ("free", "tokens")}
    assert usage["curves"][1]["runs"][-1][-1][1] == 120 * 110
    assert "Chat models cost the job at least $18 in its one run." in page
    assert "no price is set" in page
    assert 'id="plot-usage"' in page
    assert Path("made/usage.png").stat().st_size > 5000


def test_killed_and_resumed_job_costs_what_the_server_has_answered(
    here: None, rmbatch: Command, tmp_path: Path
) -> None:
    """Nothing is counted twice. Only what came after the file was last written is missing, inside a block too."""
    in_flight, latency_s = 8, 0.1
    answered: list[float] = []

    def note(seen: Seen) -> dict[str, Any]:
        if seen.text != "Say hi.":
            answered.append(time.time())
        return honest(seen)

    with judge_server(note) as server:
        server.always = Late(latency_s)
        asked = job(tmp_path, {"kind": asks(server, price=PRICE, in_flight=in_flight)}, num_rows=300)
        (tmp_path / "job.yaml").write_text(json.dumps({**asked, "run": {"on": "here", "block_rows": 300}}))
        (tmp_path / "run.py").write_text(RUN)
        output = Folder.open(str(tmp_path / "out"))
        driver = subprocess.Popen(
            [sys.executable, str(tmp_path / "run.py"), "run", "job.yaml"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not any(usage.last["kind"].counts.get("answers", 0) >= 150 for usage in read_usage(output)[0]):
                assert driver.poll() is None
                time.sleep(0.05)
        finally:
            below = psutil.Process(driver.pid).children(recursive=True)
            os.kill(driver.pid, signal.SIGKILL)
            for process in below:
                process.kill()
            driver.wait()
        (file,) = (tmp_path / "out/_rmbatch/usage").iterdir()
        written_at = file.stat().st_mtime
        psutil.wait_procs(below, 30)
        before = len(answered)
        assert before < 900
        late = sum(at > written_at - REPORT_EVERY_S - 1.0 for at in answered)
        assert rmbatch("run", "job.yaml").code == 0
    usage = report_of(rmbatch, "out")[0]["usage"]
    judge = usage["users"]["kind"]
    assert len(usage["runs"]) == 2
    assert usage["runs"][0][1] < usage["runs"][1][0]
    assert 900 - before <= judge["answers"] <= len(answered)
    assert len(answered) - judge["answers"] <= late + in_flight
    assert judge["usd"] == pytest.approx(judge["answers"] * USD)
    (curve,) = usage["curves"]
    values = [value for piece in curve["runs"] for _, value in piece]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(judge["usd"])


def test_job_that_stopped_counts_each_answer_once(anywhere: str, server: HostileServer, tmp_path: Path) -> None:
    """A stop loses nothing: answers that were under way when the budget ended are counted, though no row has them."""
    server.always = Late(0.1)
    poor = asks(server, price=PRICE, budget={"requests": 50}, max_tokens=20)
    with pytest.raises(JobError, match="budget"):
        run(job(tmp_path, {"kind": poor}))
    output = Folder.open(str(tmp_path / "out"))
    ((stopped,), _) = read_usage(output)
    assert stopped.last["kind"].counts["answers"] == len(questions(server)) == 50
    run(job(tmp_path, {"kind": {**poor, "budget": {"requests": 1000}}}))
    runs, _ = read_usage(output)
    assert [each.last["kind"].counts["answers"] for each in runs] == [50, 70]
    assert runs[1].last["kind"].counts["saved_answers"] == 50
    assert len(questions(server)) == 120


def test_retry_adds_a_run_and_overwrite_begins_anew(
    here: None, server: HostileServer, rmbatch: Command, tmp_path: Path
) -> None:
    asked = job(tmp_path, {"kind": asks(server, price=PRICE, attempts=1, give_up_s=1.0)}, num_rows=4)
    (tmp_path / "job.yaml").write_text(json.dumps(asked))
    for text in planned(server, tmp_path)[:2]:
        server.plan(text, *[Status(500)] * 20)
    assert rmbatch("run", "job.yaml").code == 0
    for plan in server._plans.values():
        plan.clear()
    output = Folder.open(str(tmp_path / "out"))
    assert [each.last["kind"].counts["answers"] for each in read_usage(output)[0]] == [10]
    ended = rmbatch("retry", "job.yaml", "--where", "no_answer")
    assert ended.code == 0, ended.err
    assert [each.last["kind"].counts["answers"] for each in read_usage(output)[0]] == [10, 2]
    assert report_of(rmbatch, "out")[0]["usage"]["usd"] == pytest.approx(12 * USD)
    assert rmbatch("run", "job.yaml", "--overwrite", "--yes").code == 0
    (anew,) = read_usage(output)[0]
    assert anew.last["kind"].counts == {
        "saved_answers": 12,
        "saved_prompt_tokens": 1200,
        "saved_completion_tokens": 120,
    }


def planned(server: HostileServer, tmp_path: Path) -> list[str]:
    """The texts of the questions that the job asks."""
    run({**json.loads((tmp_path / "job.yaml").read_text()), "output": {"path": str(tmp_path / "other")}})
    texts = [seen.text for seen in questions(server)]
    server.asked.clear()
    server.seen.clear()
    close_all()
    return texts


def test_rules_alone_and_outputs_of_before_show_no_usage(
    here: None, server: HostileServer, rmbatch: Command, tmp_path: Path
) -> None:
    run(job(tmp_path, {"short": SHORT}, output={"path": str(tmp_path / "rules")}))
    assert not (tmp_path / "rules/_rmbatch/usage").exists()
    figures, page = report_of(rmbatch, "rules")
    assert figures["usage"] is None
    assert "in all runs" not in page
    run(job(tmp_path, {"kind": asks(server, price=PRICE)}))
    (file,) = (tmp_path / "out/_rmbatch/usage").iterdir()
    file.unlink()
    figures, page = report_of(rmbatch, "out")
    assert figures["usage"] is None
    assert "in all runs" not in page
    assert "Chat models, in the last run" in page


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_report_of_a_bucket_has_the_figures_of_a_disk(
    here: None, server: HostileServer, s3: S3Server, rmbatch: Command, tmp_path: Path, kind: str
) -> None:
    bucket = f"s3://bucket/{tmp_path.name}/out"
    found = []
    for output, options in ((str(tmp_path / "out"), []), (bucket, ["--endpoint", s3.endpoint])):
        storage = {"storage": {"endpoint": s3.endpoint}} if options else {}
        rewards = {"kind": asks(server, price=PRICE), "short": SHORT}
        place = {"path": output, "format": kind, **storage}
        run(job(tmp_path, rewards, job="best_of_n", select={"by": "short"}, output=place))
        figures, _ = report_of(rmbatch, output, "--gold", "kind", *options)
        assert figures.pop("output") == output
        usage = figures.pop("usage")
        for each in ("created", "finished", "progress", "costs"):  # times
            assert figures.pop(each) is not None
        for each in figures["examples"]:
            assert each.pop("rows")[0].startswith("data/")  # the names of files are drawn
        found.append((figures, usage["users"], usage["usd"], len(usage["runs"])))
        assert {*os.listdir("made")} >= {"index.html", "usage.png", "score_kind.png"}
    assert found[0] == found[1]
    assert found[0][2] == pytest.approx(120 * USD)
    assert "name a folder of its disk: --out" in mistake_of(rmbatch("report", bucket, "--endpoint", s3.endpoint))
