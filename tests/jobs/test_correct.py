"""The correct job from file to output: what becomes of rows, what is asked of the editor, what a kill costs."""

import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import rmbatch
from connectors.errors import JobError, UserError
from jobs.config.job_types import parse_job
from rmbatch.endpoints.connections import close_all
from tests.chaos.victim import Victim
from tests.editing import Told, editor_server, requests
from tests.jobs.running import by, make_plan, rows, run
from tests.servers.hostile import HostileServer, Late

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("no_client_stays")]


def sums(num_rows: int, wrong: float = 0.5) -> list[dict[str, Any]]:
    """Sums, of which a share is wrong by one."""
    draw = random.Random(3)
    found = []
    for n in range(num_rows):
        a, b = draw.randrange(100), draw.randrange(100)
        said = a + b + (draw.random() < wrong)
        found.append({"id": n, "prompt": f"Row {n}: {a} + {b}?", "response": f"It is {said}", "answer": str(a + b)})
    return found


def right_answer(told: Told) -> int:
    a, b = map(int, re.findall(r"(\d+) \+ (\d+)", told.prompt)[-1])
    return a + b


def job(tmp_path: Path, found: list[dict[str, Any]], server: HostileServer, **settings: Any) -> dict[str, Any]:
    path = tmp_path / "in.jsonl"
    if not path.exists():
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
    editor = {"endpoint": server.url, "model": "editor", **settings.pop("editor", {})}
    others = {key: settings.pop(key) for key in ("rewards", "combine", "run", "output", "models") if key in settings}
    return {
        "job": "correct",
        "input": {"path": str(path)},
        "rewards": {"math": {"reward": "math_verify"}},
        "correct": {"gate": {"below": 1.0}, "editor": editor, **settings},
        "output": {"path": str(tmp_path / "out")},
        **others,
    }


def test_wrong_rows_are_corrected_and_right_ones_cost_nothing(anywhere: str, tmp_path: Path) -> None:
    found = sums(60)
    wrong = [row for row in found if row["response"] != f"It is {row['answer']}"]
    with editor_server(lambda told: f"It is {right_answer(told)}") as server:
        summary = run(job(tmp_path, found, server))
        assert len(requests(server)) == len(wrong)
    written = by("id", rows(tmp_path / "out"))
    assert [row["correct.response"] for row in written] == [f"It is {row['answer']}" for row in found]
    assert Counter(row["correct.outcome"] for row in written) == {"untouched": 60 - len(wrong), "target": len(wrong)}
    assert [row["response"] for row in written] == [row["response"] for row in found]
    assert {row["correct.tokens"] for row in written if row["correct.outcome"] == "untouched"} == {0}
    assert summary.tally["correct.outcome.target"] == len(wrong)
    assert summary.tally["correct.round.1.gain"] == len(wrong) * 1_000_000
    assert summary.judged["correct.editor"]["answers"] == len(wrong)


def test_requests_of_a_round_are_open_rows_times_edits(anywhere: str, tmp_path: Path) -> None:
    """Every third row is mended in the first round, every third in the second, the others never."""
    found = sums(90, wrong=1.0)
    asked: Counter[int] = Counter()

    def policy(told: Told) -> str:
        n = int(told.prompt.split("Row ")[1].split(":")[0])
        asked[n] += 1
        number_of_round = (asked[n] + 1) // 2
        is_mended = n % 3 < 2 and number_of_round > n % 3
        return f"It is {right_answer(told) if is_mended else -asked[n]}"

    with editor_server(policy) as server:
        settings = {"rounds": 3, "stop": {"patience": 3}, "editor": {"edits": 2, "in_flight": 8}}
        summary = run(job(tmp_path, found, server, **settings))
        assert len(requests(server)) == 2 * (90 + 60 + 30)
        assert all(got == ["200"] for key, got in server.seen.items() if not str(key).startswith("/"))
    for number, num_rows in enumerate((90, 60, 30), 1):
        assert summary.tally[f"correct.round.{number}.rows"] == num_rows
        assert summary.tally[f"correct.round.{number}.edits"] == 2 * num_rows
    written = by("id", rows(tmp_path / "out"))
    assert [row["correct.rounds"] for row in written] == [1, 2, 3] * 30


def test_after_a_kill_nothing_that_was_answered_is_asked_again(tmp_path: Path) -> None:
    """The driver is killed in the middle of the rounds; the same command comes to what one clean run comes to."""
    found = sums(100, wrong=1.0)
    clean, killed = tmp_path / "clean", tmp_path / "killed"
    settings = {"editor": {"edits": 2, "in_flight": 8}, "rounds": 3, "stop": {"patience": 3}, "run": {"on": "here"}}

    def policy(told: Told) -> str:
        off = told.seed % 5
        return f"It is {right_answer(told) + off}" if off else f"It is {right_answer(told)}"

    with editor_server(policy) as server:
        for folder in (clean, killed):
            folder.mkdir()
        run({**job(clean, found, server, **settings, output={"path": str(clean / "out")})})
        expected = len(requests(server))
        server.asked.clear()
        server.seen.clear()
        server.always = Late(0.02)
        file = tmp_path / "job.yaml"
        mapping = job(killed, found, server, **settings, output={"path": str(killed / "out")})
        mapping["run"]["block_rows"] = 32
        file.write_text(json.dumps(mapping))
        with Victim(file) as victim:
            for share in (0.2, 0.5, 0.8):
                victim.start()
                killed_when(victim, lambda share=share: len(server.seen) > share * expected)
            victim.start()
            assert victim.wait() == 0, victim.said()
        again = [key for key, got in server.seen.items() if got.count("200") > 1 and not key.startswith("/")]
        assert len(again) <= 3 * 8  # under way when it was killed
        assert len([key for key in server.seen if not key.startswith("/")]) == expected
    assert by("id", rows(killed / "out")) == by("id", rows(clean / "out"))


def killed_when(victim: Victim, is_time: Callable[[], bool], timeout_s: float = 60) -> None:
    """SIGKILL of the driver, and of the worker that would end a moment later."""
    deadline = time.monotonic() + timeout_s
    while not is_time() and victim.alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert victim.kill_driver(), victim.said()
    victim.left_behind_s()


def test_a_second_job_over_the_same_rows_asks_nothing(here: None, tmp_path: Path) -> None:
    found = sums(20)
    with editor_server(lambda told: f"It is {right_answer(told)}") as server:
        cached = job(tmp_path, found, server, editor={"cache": str(tmp_path / "answers")})
        run(cached)
        asked = len(requests(server))
        summary = run({**cached, "output": {"path": str(tmp_path / "other")}})
        assert len(requests(server)) == asked
    assert summary.judged["correct.editor"]["saved_answers"] == asked
    assert by("id", rows(tmp_path / "out")) == by("id", rows(tmp_path / "other"))


def test_a_job_says_of_a_row_what_python_says(here: None, tmp_path: Path) -> None:
    found = sums(12)
    with editor_server(lambda told: f"It is {right_answer(told) + told.seed % 2}") as server:
        mapping = job(tmp_path, found, server, editor={"edits": 2}, control={"share": 0.4})
        run(mapping)
        close_all()
        settings = dict(mapping["correct"])
        done = rmbatch.correct(found, reward={"rewards": mapping["rewards"]}, **settings)
    assert by("id", rows(tmp_path / "out")) == by("id", done)


def test_a_plan_says_what_the_editor_would_be_asked(tmp_path: Path) -> None:
    told = StringIO()
    with editor_server(lambda told: "x") as server:
        critics = ["math", {"by": "reviewer"}]
        asked = job(
            tmp_path,
            sums(50),
            server,
            editor={"edits": 2, "price": {"input": 1.0, "output": 2.0}, "max_tokens": 100},
            critics=critics,
            models={"reviewer": {"endpoint": server.url, "model": "big"}},
        )
        make_plan(parse_job(asked, "test")).show(Console(file=told, width=200))
        assert not server.asked
    text = told.getvalue()
    assert "correct.editor" in text
    assert "at most 300, 300 answers" in text  # 50 rows, 2 edits, 3 rounds
    assert "correct.critic" in text
    assert "at most 150, 150 answers" in text
    assert "You correct the last response" in text
    assert "not_asked" not in text  # what nobody knows yet is left out of the first rows


def test_a_plan_counts_what_judges_are_asked_about_edits(tmp_path: Path) -> None:
    """Of 50 rows each response is scored once, and each of 3 x 2 edits; comparing judges see both orders of two."""
    with editor_server(lambda told: "x") as server:
        model = {"endpoint": server.url, "model": "judge"}
        compares = {"judge": "pairwise", "principles": "helpfulness", **model}
        asked = job(
            tmp_path,
            sums(50),
            server,
            editor={"edits": 2},
            gate={"below": 5.0},
            rewards={"help": {"judge": "pointwise", "principles": "helpfulness", **model}, "duel": compares},
            held_out={**compares, "model": "another"},
        )
        plan = make_plan(parse_job(asked, "test"))
        assert not server.asked
    requests_of = {name: lines["requests"] for name, lines in plan.asked.items()}
    assert requests_of["help"] == "at most 350, 350 answers"
    assert requests_of["duel"] == "at most 600, 600 answers"
    assert requests_of["correct.held_out"] == "at most 300, 300 answers"  # at most one edit a round is accepted


def test_what_decides_the_result_may_not_change_between_runs(here: None, tmp_path: Path) -> None:
    found = sums(5)
    with editor_server(lambda told: f"It is {right_answer(told)}") as server:
        run(job(tmp_path, found, server))
        run(job(tmp_path, found, server, editor={"in_flight": 3}))
        with pytest.raises(UserError, match=r"correct\.editor\.temperature: 0\.8 -> 0\.1"):
            run(job(tmp_path, found, server, editor={"temperature": 0.1}))
        with pytest.raises(UserError, match=r"correct\.rounds: 3 -> 5"):
            run(job(tmp_path, found, server, rounds=5))
        template = tmp_path / "mine.jinja"
        template.write_text("{{ response }}")
        with pytest.raises(UserError, match=r"correct\.editor\.template"):
            run(job(tmp_path, found, server, editor={"template": str(template)}))


def test_the_summary_shows_rounds_and_the_control(here: None, tmp_path: Path) -> None:
    told = StringIO()
    with editor_server(lambda told: f"It is {right_answer(told) + told.seed % 2}") as server:
        price = {"input": 1000.0, "output": 1000.0}
        settings = {"control": {"share": 0.3}, "editor": {"price": price, "edits": 2}}
        run(job(tmp_path, sums(60, wrong=1.0), server, **settings)).show(Console(file=told, width=300))
    text = " ".join(told.getvalue().split())
    assert re.search(r"corrected target \d+", text)
    assert re.search(r"round 1 \d+ rows, \d+ edits, \d+ accepted", text)
    assert re.search(r"tokens for each accepted edit, \$\d+\.\d+ for each accepted edit in this run", text)
    assert re.search(r"control \d+ rows edited, .* by resampling; ", text)


def test_mistakes_are_one_line_before_anybody_is_asked(here: None, tmp_path: Path) -> None:
    with editor_server(lambda told: "x") as server:
        for change, message in (
            ({"accept": {"never_lower": ["mth"]}}, "correct.accept.never_lower: .* did you mean 'math'"),
            ({"held_out": {"reward": "f1_scor"}}, "did you mean 'f1_score'"),
            ({"combine": {"math": 1.0, "form": 1.0}}, "combine.form: no reward has this name"),
            ({"rewards": {"math": {"reward": "math_verify"}, "f1": {"reward": "f1_score"}}}, "no say in which has to"),
            ({"editor": {"endpoint": "http://127.0.0.1:9"}}, "no endpoint answers"),
        ):
            with pytest.raises(UserError, match=message) as error:
                run(job(tmp_path, sums(3), server, **change))
            assert "\n" not in str(error.value)
        assert not requests(server)


def test_stops_where_the_held_out_judge_prefers_the_old(here: None, tmp_path: Path) -> None:
    """The reward likes each edit, and each edit is without the word that the held-out judge looks for."""
    found = [{**row, "response": f"{row['response']} indeed"} for row in sums(400, wrong=1.0)]
    held_out = {"reward": "pattern_match", "pattern": "indeed"}
    with editor_server(lambda told: f"It is {right_answer(told)}") as server:
        mapping = job(tmp_path, found, server, held_out=held_out, run={"block_rows": 16, "cpus": 1})
        mapping["input"]["path"] = str(tmp_path / "in")  # several files, so that there are several commits
        (tmp_path / "in").mkdir()
        for n in range(8):
            lines = [json.dumps(row) + "\n" for row in found[50 * n : 50 * n + 50]]
            (tmp_path / f"in/{n}.jsonl").write_text("".join(lines))
        server.always = Late(0.3)
        with pytest.raises(JobError, match=r"the held-out judge prefers what was replaced: .* 0 better"):
            run(mapping)
        assert len(requests(server)) < 400
        mapping["correct"]["stop"] = {"held_out": False}
        server.always = None
        summary = run(mapping)
        assert len(requests(server)) == 400
    assert summary.tally["correct.round.1.held_out.worse"] == 400
