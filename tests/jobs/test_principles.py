"""A principles job against a real server whose judge and writer are scripted: what it finds, writes and tells."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import rmbatch
from jobs.cli import main
from rmbatch.judges.principles import load_principles
from tests.judging import Seen
from tests.rmbatch.discovery.scripted import VAGUE, asked_of, rows, scripted_server, text_for, writing, written
from tests.servers.hostile import HostileServer, Late, Status

pytestmark = pytest.mark.usefixtures("no_client_stays")

ROOT = Path(__file__).parents[2]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """``rmbatch run job.yaml …`` in this process: code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")

    def run(*overrides: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ending:
            main(["run", "job.yaml", *overrides])
        assert isinstance(ending.value.code, int)
        return ending.value.code, *capsys.readouterr()

    return run


def prepare(folder: Path, server: HostileServer, lines: list[Any] | None = None, **changes: Any) -> None:
    """A job file and its input."""
    given = rows(30) if lines is None else lines
    (folder / "in.jsonl").write_text(
        "".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in given)
    )
    job: dict[str, Any] = {
        "job": "principles",
        "input": {"path": str(folder / "in.jsonl")},
        "topic": "support",
        "about": "What counts is whether it helps the customer.",
        "judge": {"endpoint": server.url, "model": "judge"},
        "writer": {"endpoint": server.url, "model": "writer", "temperature": 0.7, "seed": 1},
        "select": {"trial_rows": 8},
        "output": {"path": "out"},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job | changes))


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_right_principle_is_found_and_usable(command: Command, tmp_path: Path) -> None:
    with scripted_server() as server:
        prepare(tmp_path, server)
        code, out, err = command()
        assert (code, "So the principles help." in out) == (0, True), err
        assert "30 of 30 rows can be used; 21 to learn from, 9 held out" in err
        found = load_principles("out/principles.yaml")
        assert [each.text for each in found.principles] == [text_for("step")]  # the vague one never decides anything
        assert found.about == "What counts is whether it helps the customer."
        judge = rmbatch.judge("pairwise", principles="out/principles.yaml", endpoint=server.url, model="judge")
        row = rows(40)[39]
        results = judge.evaluate({"prompt": row["prompt"], "responses": [*row["rejected"], row["chosen"]]})
        assert [each.score for each in results] == [0.0, 1.0]  # type: ignore[union-attr]
    told = report(tmp_path / "out")
    assert told["worth"]["with"]["right"] == told["worth"]["without"]["ties"] == 9
    assert told["worth"]["principles"][0]["contribution"]["value"] == 1.0
    assert found.provenance["held_out_accuracy"]["gain"] == told["worth"]["gain"]  # type: ignore[call-overload, index]
    assert "**On 9 held-out rows the judge is right on 100% (70% to 100%)" in (tmp_path / "out/report.md").read_text()
    lines = [json.loads(line) for line in (tmp_path / "out/proposed.jsonl").read_text().splitlines()]
    assert {line["row"] for line in lines} <= {f"r{number}" for number in range(30)}
    assert len(lines) == 42
    assert sum(line["kept"] for line in lines) == 21


def test_fresh_runs_are_equal_and_second_run_asks_nothing(command: Command, tmp_path: Path) -> None:
    with scripted_server() as server:
        prepare(tmp_path, server, rows(30, ("step", "price", "sorry")))
        assert command()[0] == command("output.path=again")[0] == 0
        first = (tmp_path / "out/principles.yaml").read_bytes()
        assert (tmp_path / "again/principles.yaml").read_bytes() == first
        assert (tmp_path / "again/report.md").read_bytes() == (tmp_path / "out/report.md").read_bytes()
        num_asked = len(server.asked)
        code, out, err = command()
        assert (code, "is finished; nothing to do" in err, "So the principles help." in out) == (0, True, True)
        (tmp_path / "out/report.json").unlink()  # as if it had been killed right before its end
        assert command()[0] == 0
        assert len(server.asked) == num_asked
        assert (tmp_path / "out/principles.yaml").read_bytes() == first


def test_killed_job_asks_answered_questions_once(command: Command, tmp_path: Path) -> None:
    with scripted_server() as server:
        prepare(tmp_path, server)
        assert command("output.path=clean")[0] == 0
        num_all = len(asked_of(server, "judge")) + len(asked_of(server, "writer"))
        clean = (tmp_path / "clean/principles.yaml").read_bytes()
        server.asked.clear()
        server.always = Late(0.05)
        arguments = [sys.executable, "-m", "jobs", "run", str(tmp_path / "job.yaml"), "judge.in_flight=4"]
        out = f"output.path={tmp_path / 'out'}"
        killed = subprocess.Popen([*arguments, out], cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 60
            while len(asked_of(server, "judge")) < 30 and time.monotonic() < deadline:
                time.sleep(0.02)
        finally:
            killed.kill()
            killed.wait()
        kept = sum(file.read_bytes().count(b"\n") for file in (tmp_path / "out/_rmbatch/answers").rglob("*.answers"))
        assert 40 < kept < num_all
        server.asked.clear()
        server.always = None
        assert command(out, "propose.rounds=1")[0] == 2  # another job
        assert command(out)[0] == 0
        assert len(asked_of(server, "judge")) + len(asked_of(server, "writer")) == num_all - kept
        assert (tmp_path / "out/principles.yaml").read_bytes() == clean


def test_report_shows_no_gain_for_judge_that_is_right_anyway(command: Command, tmp_path: Path) -> None:
    def judge(seen: Seen) -> dict[str, Any]:
        a, b = ("Next step" in seen.fenced(f"response-{each}") for each in "AB")
        return {"better": "A" if a > b else "B"}

    with scripted_server(judge=judge) as server:
        prepare(tmp_path, server)
        code, out, _ = command()
    assert code == 0
    assert "do not show that the principles help" in out
    assert report(tmp_path / "out")["worth"]["gain"]["value"] == 0.0
    assert "do not show that the principles help" in (tmp_path / "out/report.md").read_text()


def test_unusable_rows_are_counted(command: Command, tmp_path: Path) -> None:
    good = rows(20)
    bad = [
        '{"prompt": "cut o',
        {**good[0], "id": "x1", "prompt": None},
        {**good[0], "id": "x2", "chosen": " "},
        {**good[0], "id": "x3", "rejected": []},
        {**good[0], "id": "x4", "rejected": [good[0]["chosen"]]},
        {**good[0], "id": "x5"},
    ]
    with scripted_server() as server:
        prepare(tmp_path, server, [*good, *bad])
        code, _, err = command()
    assert code == 0, err
    reasons = {"unreadable": 1, "prompt_missing": 1, "chosen_missing": 1, "rejected_missing": 1}
    reasons |= {"equal_answers": 1, "repeated": 1}
    assert report(tmp_path / "out")["rows"]["unusable"] == reasons
    assert "20 of 26 rows can be used; 1 unreadable;" in err


def test_answers_in_one_column(command: Command, tmp_path: Path) -> None:
    lines = [
        {"question": row["prompt"], "answers": [*row["rejected"], row["chosen"]], "best": len(row["rejected"])}
        for row in rows(20, num_rejected=2)
    ]
    with scripted_server() as server:
        prepare(tmp_path, server, lines, preferences={"responses": "answers", "best": "best"}, judge=listwise(server))
        code, _, err = command()
    assert code == 0, err
    told = report(tmp_path / "out")
    assert told["worth"]["with"]["right"] == 6
    assert told["worth"]["without"]["wrong"] > 0  # by their places
    assert {line["row"] for line in map(json.loads, (tmp_path / "out/proposed.jsonl").open())} <= set(
        map(str, range(20))
    )


def listwise(server: HostileServer) -> dict[str, Any]:
    return {"judge": "listwise", "endpoint": server.url, "model": "judge"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"abuot": "x"}, "abuot: unknown key; did you mean 'about'"),
        ({"preferences": {"chosen": "chosen"}}, "preferences: write {chosen: COLUMN, rejected: COLUMN} or"),
        ({"preferences": {"chosen": "winner", "rejected": "rejected"}}, "preferences: no column 'winner'"),
        ({"preferences": {"responses": "rejected", "best": "chosen"}}, "preferences.best: column 'chosen' is"),
        (
            {"judge": {"judge": "pointwise", "endpoint": "http://h", "model": "m"}},
            "judge: 'pointwise' is no judge that compares",
        ),
        ({"judge": {"endpoint": "http://h", "model": "m", "principles": "math"}}, "leave them out"),
        ({"judge": {"endpoint": "http://h", "model": "m", "reference": True}}, "it is to see reference"),
        ({"input": {"path": "in.jsonl", "columns": {"prompt": "qestion"}}}, "no column 'qestion'"),
        ({"input": {"path": "in.jsonl", "limit": 9}}, "9 of 9 rows are preferences; at least 10 are needed"),
        ({"input": {"path": "in.jsonl", "limit": 6000}}, "6,000 rows are too many; write at most 5,000"),
        ({"input": {"path": "out/"}}, "output.path: out lies inside the input out/, which would then hold results"),
        ({"held_out": 0.01}, "held_out: 0.01 of 30 different prompts leaves 30 rows to learn from and 0 to measure"),
        ({"held_out": 1.0}, "held_out: got 1.0; write less than 1"),
        ({"select": {"embeddings": {"endpoint": "host", "model": "m"}}}, "'host' is no URL of a server"),
    ],
)
def test_mistake_is_one_line(command: Command, tmp_path: Path, changes: Mapping[str, Any], said: str) -> None:
    with scripted_server() as server:
        prepare(tmp_path, server, **changes)
        code, _, err = command()
        assert (code, err.count("\n"), server.asked) == (2, 1, []), err
    assert said in err
    assert not (tmp_path / "out").exists()


def test_changed_job_is_refused_unless_answers_stay(command: Command, tmp_path: Path) -> None:
    with scripted_server() as server:
        prepare(tmp_path, server)
        assert command()[0] == 0
        code, _, err = command("propose.rounds=1", "judge.temperature=0.5")
        said = "belongs to another job: judge.temperature: 0.0 -> 0.5; propose.rounds: 3 -> 1"
        assert (code, said in err) == (2, True)
        code, _, err = command("judge.in_flight=7", "writer.attempts=2")
        assert (code, "warning" in err) == (0, False)
        with (tmp_path / "in.jsonl").open("a") as file:
            file.write(json.dumps(rows(31)[30]) + "\n")
        code, _, err = command()
        assert (code, "warning: the input has changed" in err) == (0, True)


def test_foreign_files_are_left_alone(command: Command, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/principles.yaml").write_text("mine")
    with scripted_server() as server:
        prepare(tmp_path, server)
        code, _, err = command()
    assert (code, "holds files of something else" in err) == (2, True)
    assert (tmp_path / "out/principles.yaml").read_text() == "mine"


def test_no_principles_leave_output_free(command: Command, tmp_path: Path) -> None:
    with scripted_server(write=lambda seen: written(VAGUE) if "sorry" not in seen.text else writing(seen)) as server:
        prepare(tmp_path, server, propose={"rounds": 1})
        code, _, err = command()
        assert (code, "no principle was found" in err, "(rows: 21 tie)" in err) == (2, True, True)
        assert not (tmp_path / "out/principles.yaml").exists()
        assert len((tmp_path / "out/proposed.jsonl").read_text().splitlines()) == 42
        prepare(tmp_path, server, rows(30, ("sorry",)), propose={"rounds": 2})
        assert command()[0] == 0


@pytest.mark.parametrize(
    ("judge", "code", "said"),
    [
        ({"budget": {"requests": 50}}, 1, "stopped: the budget is used up: 50 requests of 50"),
        ({"model": "wrong"}, 1, "stopped: model 'wrong': "),
    ],
)
def test_stopped_job_says_why_and_continues(
    command: Command, tmp_path: Path, judge: dict[str, Any], code: int, said: str
) -> None:
    with scripted_server() as server:
        answer = server._answer
        server._answer = lambda path, body: Status(404) if body and body["model"] == "wrong" else answer(path, body)
        prepare(tmp_path, server, judge={"endpoint": server.url, "model": "judge", **judge})
        ended, _, err = command()
        assert (ended, said in err) == (code, True), err
        assert command()[0] == code  # what was spent is not forgotten
        assert len(asked_of(server, "judge")) <= 50
        prepare(tmp_path, server)
        ended, _, err = command()
    assert ended == 0, err


def test_embeddings_are_asked_once(command: Command, tmp_path: Path) -> None:
    def answer(path: str, body: Any) -> Any:
        if path != "/v1/embeddings":
            return chats(path, body)
        vectors = [[1.0, 0.0] if "step" in text else [0.0, 1.0] for text in body["input"]]
        return {"data": [{"index": place, "embedding": each} for place, each in enumerate(vectors)][::-1]}

    with scripted_server() as server:
        chats, server._answer = server._answer, answer
        server._key = lambda path, body: path
        embeddings = {"endpoint": server.url, "model": "vectors"}
        prepare(tmp_path, server, rows(20, ("step", "price")), select={"trial_rows": 8, "embeddings": embeddings})
        assert command()[0] == 0
        assert len(server.seen["/v1/embeddings"]) == 1
        texts = [each.text for each in load_principles("out/principles.yaml").principles]
        assert sorted(texts) == sorted([text_for("step"), text_for("price")])
        (tmp_path / "out/report.json").unlink()
        assert command()[0] == 0
        assert len(server.seen["/v1/embeddings"]) == 1
