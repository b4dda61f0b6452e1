"""The evaluate job from files to a leaderboard: what is measured, what a kill costs, what is refused."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from connectors.errors import JobError, UserError
from connectors.storage import StorageOptions
from jobs.config.job_types import parse_job
from jobs.evaluate import Evaluation
from jobs.run.doctor import examine_job
from jobs.run.job import read_output_status
from jobs.show.display import Display
from jobs.show.evaluation import describe_comparison
from rmbatch.evaluation.rewardbench import SECTIONS
from tests.chaos.victim import Victim
from tests.jobs.commands import Command, mistake_of
from tests.jobs.running import make_plan, rows, run
from tests.judging import biased, honest, judge_server
from tests.servers.hostile import HostileServer, Late
from tests.servers.hub import HubServer
from tests.servers.s3 import REPOSITORY

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("no_client_stays")]
REWARDS = """
def length(response: str) -> float:
    return float(len(response))


def constant(response: str) -> float:
    return 1.0


def goodness(response: str) -> float | None:
    if "silent" in response:
        return None
    return float(response.count("good") - response.count("bad"))
"""


def pairs(number: int) -> list[dict[str, Any]]:
    """Pairs whose right answer is good and, in three of four, longer; in one of ten it silences the scorer."""
    found = []
    for place in range(number):
        more = " and much more" * (place % 4 > 0)
        silent = " silent" * (place % 10 == 9)
        found.append(
            {
                "id": place,
                "prompt": f"Question {place}?",
                "chosen": f"good answer {place}{more}{silent} 9",
                "rejected": f"bad answer {place} as such 1",
                "subset": ["alpacaeval-easy", "mt-bench-hard", "donotanswer", "math-prm"][place % 4],
            }
        )
    return found


def write(path: Path, records: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def job(tmp_path: Path, number: int = 80, **others: Any) -> dict[str, Any]:
    """Three rules on pairs in the form of RewardBench."""
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "rules.py").write_text(REWARDS)
    names = ("length", "constant", "goodness")
    return {
        "job": "evaluate",
        "suites": {"rewardbench": {"path": write(tmp_path / "data/pairs.jsonl", pairs(number))}},
        "rewards": {name: {"reward": f"{tmp_path}/rules.py:{name}"} for name in names},
        "replicates": 200,
        "output": {"path": str(tmp_path / "out")},
        **others,
    }


def evaluate(mapping: dict[str, Any]) -> dict[str, Any]:
    found = run(mapping)
    assert isinstance(found, Evaluation)
    return dict(found.evaluation)


def main(report: dict[str, Any], reward: str, suite: str = "rewardbench") -> dict[str, Any]:
    found: dict[str, Any] = report["suites"][suite]["rewards"][reward]["figures"]["overall"]
    return found


def test_rewards_get_what_they_deserve(here: None, tmp_path: Path) -> None:
    report = evaluate(job(tmp_path, compare=["goodness", "length"]))
    good, constant = main(report, "goodness"), main(report, "constant")
    assert (good["fair"], good["low"], good["high"]) == (1.0, 1.0, 1.0)
    assert good["coverage"] < 1
    assert good["best"] == 1.0
    assert good["worst"] == good["official"] < 1  # null is never a win
    assert (constant["fair"], constant["official"]) == (0.5, 0.0)
    says = {name: each["says"] for name, each in report["suites"]["rewardbench"]["rewards"].items()}
    assert any("no better than chance" in line for line in says["constant"])
    assert any("length alone explains it" in line for line in says["length"])
    assert not any("length alone" in line for line in says["goodness"])
    (comparison,) = report["comparisons"]
    assert comparison["items"] == 72  # those that both have scored
    assert 0 < comparison["low"] <= comparison["difference"]
    assert comparison["p_holm"] < 0.05


def test_files_of_an_output_say_the_same(here: None, tmp_path: Path) -> None:
    mapping = job(tmp_path)
    report = evaluate(mapping)
    out = tmp_path / "out"
    assert json.loads((out / "evaluation.json").read_text()) == report
    by_item = pq.read_table(out / "items/rewardbench.parquet")
    assert by_item.num_rows == 80
    assert by_item["credit.goodness"].null_count == 8
    assert set(by_item.column_names) >= {"item", "subset", "credit.length", "credit.control.longest"}
    page = (out / "leaderboard.md").read_text()
    assert "| rewardbench | goodness |" in page
    assert "Chat Hard" in page
    protocol = json.loads((out / "protocol.json").read_text())
    suite = protocol["suites"]["rewardbench"]
    assert (suite["rows"], suite["items"], len(suite["files"])) == (80, 80, 1)
    assert suite["files"][0]["etag"]
    assert protocol["rewards"]
    assert protocol["versions"]["pyarrow"]
    assert len(rows(out)) == 80  # the scored rows are an ordinary output


def test_finished_evaluation_is_only_read(here: None, tmp_path: Path) -> None:
    mapping = job(tmp_path)
    first = evaluate(mapping)
    assert evaluate(mapping) == first
    (tmp_path / "out/evaluation.json").unlink()  # as a kill between scoring and figures leaves it
    assert read_output_status(str(tmp_path / "out"), StorageOptions()).plain()["state"] == "not finished"
    assert evaluate(mapping) == first


@pytest.mark.parametrize("lost", ["manifest", "items"])
def test_goes_on_where_a_kill_left_it(here: None, tmp_path: Path, lost: str) -> None:
    """Whatever a killed run has not written is done again, and comes to the same figures."""
    clean = evaluate(job(tmp_path / "a"))
    mapping = job(tmp_path / "b")
    evaluate(mapping)
    private = tmp_path / "b/out/_rmbatch"
    (tmp_path / "b/out/evaluation.json").unlink()
    (private / "manifest.json").unlink()
    if lost == "items":  # the kill came while the suites were read
        for name in ("items.json", "plan.json"):
            (private / name).unlink()
        for part in ("commits", "segments"):
            for record in (private / part).glob("*"):
                record.unlink()
    again = evaluate(mapping)
    for report in (clean, again):
        del report["protocol"]
    assert json.dumps(again).replace("/b/", "/a/") == json.dumps(clean)


def test_kills_at_any_step_change_no_figure(tmp_path: Path) -> None:
    """The driver is killed while it reads the suites, asks the judge and makes the figures; nothing is asked twice."""
    number = 60
    with judge_server(honest) as server:
        reports, asked = [], []
        for name in ("a", "b"):
            judge = {"judge": "pairwise", "endpoint": server.url, "model": "judge", "in_flight": 8}
            mapping = job(tmp_path / name, number, rewards={"judge": judge}, run={"on": "here", "block_rows": 8})
            file, out = tmp_path / f"{name}.json", tmp_path / name / "out"
            file.write_text(json.dumps(mapping))
            server.seen.clear()
            steps = [
                lambda out=out: (out / "_rmbatch/items").exists(),
                lambda: len(server.seen) > number // 2,
                lambda: len(server.seen) > number,
                lambda out=out: (out / "_rmbatch/manifest.json").exists(),
            ]
            with Victim(file) as victim:
                server.always = Late(0.05)
                for is_time in steps if name == "b" else []:
                    victim.start()
                    killed_when(victim, is_time)
                victim.start()
                assert victim.wait() == 0, victim.said()
            asked.append({key for key in server.seen if not key.startswith("/")})
            reports.append(json.loads((out / "evaluation.json").read_text()))
    for report in reports:
        del report["protocol"]
    assert reports[0] == reports[1]
    assert len(asked[0]) == len(asked[1]) == 2 * number


def killed_when(victim: Victim, is_time: Callable[[], bool], timeout_s: float = 60) -> None:
    """SIGKILL of the driver, and of what it has started."""
    deadline = time.monotonic() + timeout_s
    while not is_time() and victim.alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    victim.kill_driver()
    victim.left_behind_s()


def test_figures_that_cannot_be_made_leave_the_scores(here: None, tmp_path: Path, monkeypatch: Any) -> None:
    """A run that stops in the metric pass is not finished; the same command makes the figures without scoring again."""

    def stops(*arguments: Any) -> None:
        raise JobError("the disk is full")

    mapping = job(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("jobs.evaluate.summarise", stops)
        with pytest.raises(JobError, match="disk is full"):
            run(mapping)
    scored = sorted((tmp_path / "out/data").iterdir())
    report = evaluate(mapping)
    assert sorted((tmp_path / "out/data").iterdir()) == scored
    assert main(report, "goodness")["fair"] == 1.0


def test_judge_of_the_first_place_is_at_chance(here: None, tmp_path: Path) -> None:
    """A real server that always prefers what comes first: half by fairness, whatever the places are."""
    with judge_server(biased) as server:
        assert isinstance(server, HostileServer)
        judge = {"judge": "pairwise", "endpoint": server.url, "model": "judge"}
        report = evaluate(job(tmp_path, 24, rewards={"judge": judge}))
    figure = main(report, "judge")
    assert (figure["fair"], figure["coverage"]) == (0.5, 1.0)
    assert figure["official"] == 0.5  # RewardBench gives judges half of a tie
    assert "no better than chance" in report["suites"]["rewardbench"]["rewards"]["judge"]["says"][0]


def test_several_suites_are_scored_in_one_pass(anywhere: str, tmp_path: Path) -> None:
    """Best of four, pairs and lists in one dataset; each has its own figures."""
    four = [
        {
            "id": str(place),
            "prompt": "?",
            "responses": ["good", "bad", "bad bad", "so so"],
            "correct": [True, False, False, False],
            "subset": "Math",
        }
        for place in range(12)
    ]
    mapping = job(tmp_path, rewards={"goodness": {"reward": f"{tmp_path}/rules.py:goodness"}})
    mapping["suites"]["rewardbench2"] = {"path": write(tmp_path / "data2/four.jsonl", four)}
    mapping["suites"]["mine"] = {"suite": "preferences", "path": write(tmp_path / "data3/four.jsonl", four)}
    report = evaluate(mapping)
    assert main(report, "goodness", "rewardbench2")["fair"] == 1.0
    assert main(report, "goodness", "mine")["items"] == 12
    assert report["suites"]["rewardbench2"]["controls"]["constant"]["overall"]["fair"] == 0.25
    assert len(rows(tmp_path / "out")) == 80 + 24


def test_subsets_by_path_and_json_lists(here: None, tmp_path: Path) -> None:
    plain = [{key: value for key, value in each.items() if key != "subset"} for each in pairs(8)]
    for name in ("one", "two"):
        path = tmp_path / f"data/{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(plain))
    by_subset = {name: str(tmp_path / f"data/{name}.json") for name in ("one", "two")}
    report = evaluate(job(tmp_path, suites={"preferences": {"path": by_subset}}))
    figures = report["suites"]["preferences"]["rewards"]["length"]["figures"]
    assert {name: figures[name]["items"] for name in ("one", "two", "overall")} == {"one": 8, "two": 8, "overall": 16}
    assert report["protocol"]["suites"]["preferences"]["files"][0]["uri"].endswith("one.json")
    folder = evaluate(
        job(tmp_path, suites={"preferences": {"path": str(tmp_path / "data")}}, output={"path": str(tmp_path / "o2")})
        | {"limit": 5}
    )
    assert folder["suites"]["preferences"]["items"] == 5


def test_comparison_without_an_interval_is_shown(here: None, tmp_path: Path) -> None:
    """One pair in each subset: no draw of the prompts holds all of them."""
    subsets = [each for weights in SECTIONS.values() for each in weights]
    few = [pair | {"subset": each} for pair, each in zip(pairs(len(subsets)), subsets)]
    data = write(tmp_path / "few/pairs.jsonl", few)
    report = evaluate(job(tmp_path, suites={"rewardbench": data}, compare=["length", "constant"]))
    (found,) = report["comparisons"]
    assert (found["low"], found["high"]) == (None, None)
    assert "[–, –]" in describe_comparison(found)
    assert "[–, –]" in (tmp_path / "out/leaderboard.md").read_text()


def test_steps_are_judged_by_their_scores(here: None, tmp_path: Path) -> None:
    """A stepwise judge on reasonings: it finds the first wrong step; blank lines inside a step do not cut it."""
    cases = [
        {"id": "a", "prompt": "?", "steps": ["so\n\nfar", "wrong here", "and on"], "error_steps": [1]},
        {"id": "b", "prompt": "?", "steps": ["fine", "fine too"], "error_steps": []},
        {"id": "c", "prompt": "?", "steps": ["fine", "still fine"], "error_steps": [1]},  # the judge does not see it
        {"id": "d", "prompt": "?", "steps": ["nobody knows"], "error_steps": None},
    ]

    with judge_server(honest) as server:
        judge = {"judge": "stepwise", "endpoint": server.url, "model": "judge"}
        data = write(tmp_path / "steps/cases.jsonl", cases)
        report = evaluate(
            job(tmp_path, suites={"first_error": {"path": data}, "prmbench": {"path": data}}, rewards={"judge": judge})
        )
    figures = report["suites"]["first_error"]["rewards"]["judge"]["figures"]
    assert (figures["error accuracy"]["fair"], figures["correct accuracy"]["fair"]) == (0.5, 1.0)
    assert figures["overall"]["fair"] == pytest.approx(2 / 3)
    assert report["protocol"]["suites"]["first_error"]["left_out"] == {"wrong steps unknown": 1}
    assert report["suites"]["prmbench"]["rewards"]["judge"]["figures"]["overall"]["coverage"] == 1.0


def test_total_is_measured_too(here: None, tmp_path: Path) -> None:
    report = evaluate(job(tmp_path, combine={"length": 0.0, "constant": 0.0, "goodness": 1.0, "on_null": None}))
    assert main(report, "total")["fair"] == 1.0


def test_plan_and_status_read_it_like_any_job(here: None, tmp_path: Path, rmbatch: Command) -> None:
    mapping = job(tmp_path)
    plan = make_plan(parse_job(mapping, "test"))
    assert (plan.num_rows, plan.roles["responses"]) == (80, "responses")
    assert not (tmp_path / "out").exists()  # a plan writes nothing
    (tmp_path / "job.json").write_text(json.dumps(mapping))
    ended = rmbatch("run", "job.json", "--json", "--limit", "20")
    assert ended.code == 0
    assert json.loads(ended.out)["evaluation"]["suites"]["rewardbench"]["items"] == 20
    status = read_output_status(str(tmp_path / "out"), StorageOptions()).plain()
    assert (status["state"], status["rows"]) == ("finished", 20)
    shown = rmbatch("run", "job.json", "limit=20")
    assert "leaderboard" in shown.out + shown.err


def test_overwrite_begins_anew(here: None, tmp_path: Path, rmbatch: Command) -> None:
    mapping = job(tmp_path, 12)
    evaluate(mapping)
    write(tmp_path / "data/pairs.jsonl", pairs(16))
    (tmp_path / "job.json").write_text(json.dumps(mapping))
    assert rmbatch("run", "job.json", "--overwrite", "--yes").code == 0
    assert json.loads((tmp_path / "out/evaluation.json").read_text())["suites"]["rewardbench"]["items"] == 16


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"suites": {"rewardbench3": "data"}}, "there is no suite 'rewardbench3'"),
        ({"rewards": {}}, "nothing to measure"),
        ({"compare": ["length"]}, "at least two"),
        ({"compare": ["length", "lenght"]}, "nothing is called 'lenght'"),
        ({"recorded": {"theirs": {"llmbar": "x.jsonl"}}}, "no suite is called 'llmbar'"),
        ({"recorded": {"length": {"rewardbench": "x.jsonl"}}}, "a reward has this name"),
        ({"input": {"path": "data"}}, "reads the data of its suites"),
        ({"output": {"path": "out", "format": "jsonl"}}, "are Parquet"),
        ({"suites": {"rewardbench": {"path": "nowhere"}}}, "nowhere"),
    ],
)
def test_mistakes_are_one_line_before_any_work(
    here: None, tmp_path: Path, rmbatch: Command, change: dict[str, Any], says: str
) -> None:
    (tmp_path / "job.json").write_text(json.dumps(job(tmp_path) | change))
    assert says in mistake_of(rmbatch("run", "job.json"))
    assert not (tmp_path / "out/data").exists()


def test_data_of_another_form_are_refused(here: None, tmp_path: Path) -> None:
    other = [{"question": "?", "answer": "4"}]
    path = write(tmp_path / "data/other.jsonl", other)
    with pytest.raises(UserError, match="question"):
        run(job(tmp_path, suites={"preferences": {"path": path}}))
    hopeless = [{"id": "a", "prompt": "?", "responses": ["x", "y"], "correct": [False, False]}]
    path = write(tmp_path / "none/none.jsonl", hopeless)
    with pytest.raises(UserError, match="none of 1 rows is an item; 1: no response is right"):
        run(job(tmp_path, suites={"preferences": {"path": path}}))


def test_lists_of_responses_are_no_single_response(here: None, tmp_path: Path) -> None:
    """RewardBench 2 without one of its columns: its three wrong responses were joined to one, and chance was a half."""
    row = {"id": "a", "prompt": "?", "subset": "Math", "chosen": ["x"], "rejected": ["y", "z", "w"]}
    path = write(tmp_path / "data/four.jsonl", [row])
    with pytest.raises(UserError, match="no 'num_correct'"):
        run(job(tmp_path, suites={"rewardbench2": path}))


def test_output_inside_the_data_is_refused(here: None, tmp_path: Path) -> None:
    mapping = job(tmp_path, output={"path": str(tmp_path / "data/out")})
    mapping["suites"] = {"rewardbench": str(tmp_path / "data")}
    with pytest.raises(UserError, match="lies inside the data"):
        run(mapping)


def test_doctor_asks_about_the_items(here: None, tmp_path: Path) -> None:
    out = io.StringIO()
    with judge_server(honest) as server:
        judge = {"judge": "pairwise", "endpoint": server.url, "model": "judge"}
        parsed = parse_job(job(tmp_path, rewards={"judge": judge}), "test")
        assert examine_job(parsed, Display(Console(file=out, width=300)))
    assert "both orders agree" in out.getvalue()


def test_suite_comes_from_the_hub(tmp_path: Path) -> None:
    """By the real client of Hugging Face, from a hub on loopback."""
    pytest.importorskip("huggingface_hub")
    (tmp_path / "hub/data").mkdir(parents=True)
    (tmp_path / "hub/README.md").write_text("a card")
    pq.write_table(pa.Table.from_pylist(pairs(20)), tmp_path / "hub/data/train-00000-of-00001.parquet")
    (tmp_path / "hub/all.json").write_text(json.dumps(pairs(20)))
    given = job(tmp_path)
    with HubServer(tmp_path / "hub") as hub:
        given["suites"] = {
            "rewardbench": "hf://datasets/org/set/data",
            "again": {"suite": "rewardbench", "path": "hf://datasets/org/set/all.json"},
        }
        (tmp_path / "job.json").write_text(json.dumps(given))
        ended = subprocess.run(
            [sys.executable, "-m", "jobs", "run", str(tmp_path / "job.json"), "run.on=here", "--json"],
            cwd=REPOSITORY,
            env={**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
        )
    assert ended.returncode == 0, ended.stderr
    suites = json.loads(ended.stdout)["evaluation"]["suites"]
    assert (suites["rewardbench"]["items"], suites["again"]["items"]) == (20, 20)
    assert suites["rewardbench"]["rewards"] == suites["again"]["rewards"]


def test_plots_are_images(here: None, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    evaluate(job(tmp_path))
    assert (tmp_path / "out/plots/rewardbench.png").read_bytes().startswith(b"\x89PNG")


def test_scores_are_measured_again_in_another_way(here: None, tmp_path: Path) -> None:
    """Comparisons, draws and seed decide no score: a finished output is measured again, and nothing is scored."""
    first = evaluate(job(tmp_path))
    scored = sorted((tmp_path / "out/data").iterdir())
    again = evaluate(job(tmp_path, compare=["goodness", "constant"], seed=7))
    assert sorted((tmp_path / "out/data").iterdir()) == scored
    assert (len(first["comparisons"]), len(again["comparisons"])) == (0, 1)
    assert main(again, "length")["fair"] == main(first, "length")["fair"]
    pooled = [each["suites"]["rewardbench"]["rewards"]["length"]["figures"]["pooled"] for each in (first, again)]
    assert pooled[0]["low"] != pooled[1]["low"]


def test_a_changed_job_may_not_go_on(here: None, tmp_path: Path) -> None:
    evaluate(job(tmp_path))
    with pytest.raises(UserError, match="belongs to another job: limit"):
        run(job(tmp_path, limit=7))
