"""Recorded verdicts in an evaluate job: which item each belongs to, and what is refused because nobody can know."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from connectors.errors import UserError
from tests.jobs.running import run
from tests.jobs.test_evaluate import evaluate, job, main, pairs, write

RECORDED = [
    {"id": str(place), "scores": [1.0, 0.0] if place % 2 else [0.0, 1.0]} for place in range(79, -1, -1)
]  # in another order than the data


def test_recorded_scores_find_their_items(here: None, tmp_path: Path) -> None:
    recorded = {"theirs": {"rewardbench": {"path": write(tmp_path / "rec/a.jsonl", RECORDED[:40])}}}
    report = evaluate(job(tmp_path, rewards={}, recorded=recorded))
    figure = report["suites"]["rewardbench"]["rewards"]["theirs"]["figures"]["pooled"]
    assert (figure["fair"], figure["coverage"], figure["official"]) == (0.5, 0.5, 0.25)


def test_verdicts_on_the_last_items_alone_are_enough(here: None, tmp_path: Path) -> None:
    """The job is fitted to the first 64 items, of which none has a verdict here."""
    recorded = {"theirs": {"rewardbench": {"path": write(tmp_path / "rec/a.jsonl", RECORDED[:8])}}}
    report = evaluate(job(tmp_path, rewards={}, recorded=recorded))
    assert report["suites"]["rewardbench"]["rewards"]["theirs"]["figures"]["pooled"]["coverage"] == 0.1


@pytest.mark.parametrize("some", [RECORDED[:8], RECORDED[-8:]], ids=["last_items", "first_items"])
def test_verdicts_need_not_be_in_each_block(
    here: None, tmp_path: Path, monkeypatch: Any, some: list[dict[str, Any]]
) -> None:
    """Scored rows are read in blocks; in most of them nothing was recorded."""
    monkeypatch.setattr("jobs.evaluate.READ_ROWS", 16)
    recorded = {"theirs": {"rewardbench": {"path": write(tmp_path / "rec/a.jsonl", some)}}}
    report = evaluate(job(tmp_path, rewards={}, recorded=recorded))
    assert report["suites"]["rewardbench"]["rewards"]["theirs"]["figures"]["pooled"]["coverage"] == 0.1


def test_unreadable_lines_move_no_verdict(here: None, tmp_path: Path) -> None:
    """Verdicts without ids belong to rows by their numbers; a broken line has one too, and is counted."""
    lines = [json.dumps(each) for each in pairs(6)]
    verdicts = [json.dumps({"scores": [1.0, 0.0] if place < 3 else [0.0, 1.0]}) for place in range(6)]
    lines[1] = verdicts[4] = "{broken"
    for name, some in (("data", lines), ("verdicts", verdicts)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(some))
    recorded = {"theirs": {"mine": {"path": str(tmp_path / "verdicts.jsonl")}}}
    suites = {"mine": {"suite": "preferences", "path": str(tmp_path / "data.jsonl")}}
    report = evaluate(job(tmp_path, suites=suites, rewards={}, recorded=recorded))
    credits = pq.read_table(tmp_path / "out/items/mine.parquet")["credit.theirs"].to_pylist()
    assert credits == [1.0, 1.0, 0.0, None, 0.0]
    read = report["protocol"]["suites"]["mine"]
    assert (read["rows"], read["items"], read["left_out"]) == (6, 5, {"unreadable": 1})


def test_verdicts_of_nothing_are_refused(here: None, tmp_path: Path) -> None:
    path = write(tmp_path / "rec/a.jsonl", [{"id": "no", "scores": [1.0, 0.0]}])
    with pytest.raises(UserError, match="no verdict belongs to an item"):
        run(job(tmp_path, recorded={"theirs": {"rewardbench": {"path": path}}}))


@pytest.mark.parametrize(("second", "is_refused"), [([0.0, 1.0], True), ([1.0, 0.0], False)])
def test_one_id_with_two_verdicts_is_refused(here: None, tmp_path: Path, second: list[float], is_refused: bool) -> None:
    """Which of them is meant cannot be known; the same verdict twice does no harm."""
    twice = [{"id": "7", "scores": [1.0, 0.0]}, {"id": "7", "scores": second}]
    mapping = job(tmp_path, recorded={"theirs": {"rewardbench": write(tmp_path / "rec/a.jsonl", twice)}})
    if is_refused:
        with pytest.raises(UserError, match=r"recorded.theirs.rewardbench: several verdicts have the id '7'"):
            run(mapping)
    else:
        assert main(evaluate(mapping), "theirs") is not None


@pytest.mark.parametrize("ids", [{}, {"id": "0"}], ids=["in_order", "by_id"])
def test_one_verdict_on_two_subsets_is_refused(here: None, tmp_path: Path, ids: dict[str, str]) -> None:
    """Rows without ids are numbered in each subset anew, so a file of all subsets counted for each from row 0."""
    (row, *_) = pairs(1)
    del row["id"], row["subset"]
    paths = {name: write(tmp_path / f"data/{name}.jsonl", [row]) for name in ("one", "two")}
    verdicts = {name: write(tmp_path / f"rec/{name}.jsonl", [{**ids, "scores": [1.0, 0.0]}]) for name in paths}
    mapping = job(tmp_path, suites={"preferences": {"path": paths}}, rewards={})
    with pytest.raises(UserError, match=r"theirs.preferences: one verdict would count for '0' of 'one' and of 'two'"):
        run(mapping | {"recorded": {"theirs": {"preferences": verdicts["one"]}}})
    report = evaluate(mapping | {"recorded": {"theirs": {"preferences": {"path": verdicts}}}})
    assert report["suites"]["preferences"]["rewards"]["theirs"]["figures"]["overall"]["coverage"] == 1.0
