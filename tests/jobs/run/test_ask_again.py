"""rmbatch retry for answers that came and were kept: the bad ones are asked for again, each once, and no others are."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.editing import editor_server, requests
from tests.jobs.commands import Command, write_jsonl
from tests.jobs.running import by, rows
from tests.judging import Seen, answering, honest, judge_server, questions
from tests.rmbatch.chat.completing import says
from tests.servers.hostile import HostileServer, Late, Status
from tests.servers.s3 import REPOSITORY

pytestmark = [pytest.mark.timeout(280), pytest.mark.usefixtures("no_client_stays")]

BAD = {2, 5, 9}
"""The qualities of the responses that the judge has no verdict on at first."""
STUBBORN = 2
"""The one of them that it never has a verdict on."""


class Judge:
    """A judge that has no verdict on some responses, until it is well again."""

    def __init__(self) -> None:
        self.is_well = False
        self.was_asked: dict[int, threading.Event] = defaultdict(threading.Event)
        """By quality: set when it is asked about, as long as nobody clears it."""

    def __call__(self, seen: Seen) -> Any:
        quality = seen.quality("response")
        self.was_asked[quality].set()
        has_verdict = quality not in BAD or (self.is_well and quality != STUBBORN)
        return honest(seen) if has_verdict else "I would rather not say."


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture
def server(judge: Judge) -> Iterator[HostileServer]:
    with judge_server(judge) as server:
        yield server


SCATTERED = (9, 1, 2, 3, 4, 5, 6, 7, 8, 9)
TOGETHER = (9, 2, 5, 9, 1, 3, 4, 6, 7, 8)
"""The qualities of the rows by their ids; the first bad one is there twice."""


def write_job(tmp_path: Path, server: HostileServer, qualities: Sequence[int] = SCATTERED, **rewards: str) -> None:
    """A job that scores ten responses. ``rewards``: more settings of judges, by their names."""
    found = [{"id": n, "prompt": "Count.", "response": f"is {quality}"} for n, quality in enumerate(qualities)]
    write_jsonl(tmp_path / "in.jsonl", found)
    written = {
        name: f"{{judge: pointwise, endpoint: '{server.url}', model: judge{more}}}" for name, more in rewards.items()
    }
    (tmp_path / "job.yaml").write_text(
        f"job: score\ninput: {{path: {tmp_path}/in.jsonl}}\noutput: {{path: {tmp_path}/out}}\n"
        f"rewards:\n" + "".join(f"  {name}: {each}\n" for name, each in written.items())
    )


def asked_since(server: HostileServer, before: int) -> Counter[int]:
    """How often each quality was asked about after the first ``before`` questions."""
    return Counter(seen.quality("response") for seen in questions(server)[before:])


def scores(output: Path, name: str = "help") -> dict[int, float | None]:
    return {row["id"]: row[f"score.{name}"] for row in rows(output)}


def test_only_unreadable_verdicts_are_asked_for_again(
    anywhere: str, tmp_path: Path, rmbatch: Command, server: HostileServer, judge: Judge
) -> None:
    write_job(tmp_path, server, help="")
    first = rmbatch("run", "job.yaml", "--json")
    assert first.code == 0, first.err
    bad = [0, 2, 5, 9]
    assert [n for n, score in sorted(scores(tmp_path / "out").items()) if score is None] == bad
    before = {row["id"]: row for row in rows(tmp_path / "out")}
    sent, judge.is_well = questions(server), True

    outcome = rmbatch("retry", "job.yaml", "--where", "verdict_*", "--json")
    assert outcome.code == 0, outcome.err
    assert "4 rows are done again, for verdict_missing 4" in outcome.err
    assert "behind 4 of these errors are asked for again and paid for again" in " ".join(outcome.err.split())
    assert asked_since(server, len(sent)) == dict.fromkeys(BAD, 1)
    again = questions(server)[len(sent) :]
    assert all(any(each.body == seen.body for seen in sent) for each in again)
    assert scores(tmp_path / "out") == {n: None if n == STUBBORN else float(n or 9) for n in range(10)}
    after = {row["id"]: row for row in rows(tmp_path / "out")}
    assert {n for n in after if before[n] != after[n]} == {0, 5, 9}
    result = json.loads(outcome.out)
    assert {name: num for name, num in result["tally"].items() if "help" in name} == {
        "scored.help": 9,
        "null.help.verdict_missing": 1,
    }
    assert result["judged"]["help"]["answers"] == 3
    assert rmbatch("status", str(tmp_path / "out")).code == 0
    assert "5" in rmbatch("explain", str(tmp_path / "out"), "5", "--id", "id").out

    again_outcome = rmbatch("retry", "job.yaml", "--where", "help=verdict_missing")
    assert "1 rows are done again" in again_outcome.err
    assert asked_since(server, len(sent) + 3) == {STUBBORN: 1}


def test_another_run_finds_the_newest_answers(
    here: None, tmp_path: Path, rmbatch: Command, server: HostileServer, judge: Judge
) -> None:
    write_job(tmp_path, server, help=f", cache: {tmp_path}/answers")
    assert rmbatch("run", "job.yaml").code == 0
    judge.is_well = True
    assert rmbatch("retry", "job.yaml", "--where", "verdict_missing").code == 0
    before = len(questions(server))
    outcome = rmbatch("run", "job.yaml", f"output.path={tmp_path}/other")
    assert outcome.code == 0, outcome.err
    assert len(questions(server)) == before
    assert scores(tmp_path / "other") == scores(tmp_path / "out")


def test_other_judges_and_other_codes_keep_their_answers(
    here: None, tmp_path: Path, rmbatch: Command, server: HostileServer, judge: Judge
) -> None:
    write_job(tmp_path, server, help="", other=", system: Be strict.")
    assert rmbatch("run", "job.yaml").code == 0
    before = len(questions(server))
    for where in ("no_answer", "help=verdict_malformed", "other=verdict_cut_off"):
        assert "nothing is done again" in rmbatch("retry", "job.yaml", "--where", where).err
    assert len(questions(server)) == before
    judge.is_well = True
    outcome = rmbatch("retry", "job.yaml", "--where", "help=verdict_missing")
    assert outcome.code == 0, outcome.err
    assert asked_since(server, before) == dict.fromkeys(BAD, 1)
    assert not any("Be strict" in json.dumps(seen.body) for seen in questions(server)[before:])
    assert scores(tmp_path / "out")[9] == 9
    assert scores(tmp_path / "out", "other")[9] is None


def test_an_old_verdict_stays_where_no_new_one_comes(
    here: None, tmp_path: Path, rmbatch: Command, judge: Judge
) -> None:
    say = answering(judge)

    def answer(path: str, body: Any) -> Any:
        return Status(500) if is_down and body is not None and "is 5" in Seen(body).text else say(path, body)

    with HostileServer(answer, lambda path, body: path) as server:
        is_down = False
        write_job(tmp_path, server, TOGETHER, help=", attempts: 1")
        assert rmbatch("run", "job.yaml").code == 0
        judge.is_well = True
        for is_down in (True, False):
            outcome = rmbatch("retry", "job.yaml", "--where", "verdict_missing", "--json")
            assert outcome.code == 0, outcome.err
            nulls = 1 + is_down
            tally = {"scored.help": 10 - nulls, "null.help.verdict_missing": nulls}
            assert json.loads(outcome.out)["tally"] == tally


def test_a_repaired_verdict_stays_and_only_a_failed_repair_is_asked_for_again(
    here: None, tmp_path: Path, rmbatch: Command
) -> None:
    is_well = False

    def policy(seen: Seen) -> Any:
        if not seen.text.startswith("This cannot be read"):
            return "not yet"
        original = Seen({"messages": seen.body["messages"][:1]})
        return honest(original) if is_well or original.quality("response") != STUBBORN else "never"

    with judge_server(policy) as server:
        write_job(tmp_path, server, help=", repair: true")
        assert rmbatch("run", "job.yaml").code == 0
        assert [n for n, score in scores(tmp_path / "out").items() if score is None] == [STUBBORN]
        is_well, before = True, len(questions(server))
        outcome = rmbatch("retry", "job.yaml", "--where", "verdict_missing")
        assert outcome.code == 0, outcome.err
        assert len(questions(server)) == before + 1
        assert scores(tmp_path / "out")[STUBBORN] == STUBBORN


def test_a_killed_retry_pays_once_for_each_answer(
    here: None, tmp_path: Path, rmbatch: Command, server: HostileServer, judge: Judge
) -> None:
    write_job(tmp_path, server, TOGETHER, help=", in_flight: 1")  # in one block, so no row is finished before the kill
    assert rmbatch("run", "job.yaml").code == 0
    before, judge.is_well = len(questions(server)), True
    server.plan(next(seen.text for seen in questions(server) if seen.quality("response") == 5), Late(3600))
    judge.was_asked[5].clear()
    command = [sys.executable, "-m", "jobs", "retry", "job.yaml", "--where", "verdict_missing"]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL) as driver:
        assert judge.was_asked[5].wait(60)
        driver.kill()
    while server.under_way:  # its worker still waits for the answer
        time.sleep(0.01)
    assert asked_since(server, before) == {9: 1, STUBBORN: 1, 5: 1}

    outcome = rmbatch("retry", "job.yaml", "--where", "verdict_missing")
    assert outcome.code == 0, outcome.err
    assert "is not finished; this continues it" in outcome.err
    assert asked_since(server, before) == {9: 1, STUBBORN: 1, 5: 2}  # the one that nobody had answered
    assert [n for n, score in scores(tmp_path / "out").items() if score is None] == [TOGETHER.index(STUBBORN)]


@pytest.mark.parametrize("code", ["empty_response", "cut_off"])
def test_only_bad_candidates_are_generated_again(here: None, tmp_path: Path, rmbatch: Command, code: str) -> None:
    is_well = False

    def answer(path: str, body: Any) -> Any:
        if body is None:
            return {"data": [{"id": "m"}]}
        text, seed = body["messages"][-1]["content"], body["seed"]
        if is_well or "bad" not in text or seed % 2:
            return says(f"answer {seed}")
        return says("") if code == "empty_response" else says("half an ans", "length")

    write_jsonl(tmp_path / "in.jsonl", [{"id": n, "prompt": f"{'bad' if n < 3 else 'good'} {n}"} for n in range(6)])
    with HostileServer(answer, lambda path, body: path) as server:
        (tmp_path / "job.yaml").write_text(
            f"job: generate\ninput: {{path: {tmp_path}/in.jsonl}}\noutput: {{path: {tmp_path}/out}}\n"
            f"generate: {{endpoint: '{server.url}', model: m, n: 8}}\n"
        )
        assert rmbatch("run", "job.yaml").code == 0
        first = [body for _, body, _ in server.asked if body is not None]
        bad = [body for body in first if "bad" in body["messages"][-1]["content"] and body["seed"] % 2 == 0]
        errors = [each["error"] for row in rows(tmp_path / "out") for each in row["generation"]]
        assert len(bad) == len([error for error in errors if error is not None and error.startswith(code)]) > 0
        is_well = True
        outcome = rmbatch("retry", "job.yaml", "--where", f"generation={code}", "--json")
        assert outcome.code == 0, outcome.err
        again = [body for _, body, _ in server.asked if body is not None][len(first) :]
    assert sorted(again, key=json.dumps) == sorted(bad, key=json.dumps)
    for row in by("id", rows(tmp_path / "out")):
        assert row["responses"] == [f"answer {each['seed']}" for each in row["generation"]]
        assert [each["error"] for each in row["generation"]] == [None] * 8


def test_an_editor_that_wrote_nothing_is_asked_again(here: None, tmp_path: Path, rmbatch: Command) -> None:
    is_well = False
    found = [{"id": n, "prompt": f"{n} + 1?", "response": "It is 2", "answer": str(n + 1)} for n in range(4)]
    write_jsonl(tmp_path / "in.jsonl", found)
    with editor_server(lambda told: "It is 4" if is_well or "3 + 1" in told.prompt else "") as server:
        (tmp_path / "job.yaml").write_text(
            f"job: correct\ninput: {{path: {tmp_path}/in.jsonl}}\noutput: {{path: {tmp_path}/out}}\n"
            "rewards: {math: {reward: math_verify}}\n"
            f"correct: {{gate: {{below: 1.0}}, rounds: 1, editor: {{endpoint: '{server.url}', model: m}}}}\n"
        )
        first = rmbatch("run", "job.yaml")
        assert first.code == 0, first.err
        assert len(requests(server)) == 3
        errors = [row["correct.error"] for row in by("id", rows(tmp_path / "out"))]
        assert errors == ["empty: nothing was written", None, "empty: nothing was written", None]
        is_well = True
        outcome = rmbatch("retry", "job.yaml", "--where", "correct=empty")
        assert outcome.code == 0, outcome.err
        assert len(requests(server)) == 5
    outcomes = [row["correct.outcome"] for row in by("id", rows(tmp_path / "out"))]
    assert outcomes == ["unchanged", "untouched", "unchanged", "target"]
