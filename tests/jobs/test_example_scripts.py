"""The scripts behind `make demo-llm`: sums that are always the same, and the solve rate of stored answers."""

import itertools
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.examples import correction_curve, first_answers, smollm2, solve_rate, sums
from rmbatch.generation.candidates import Candidate, as_columns


def test_sums_are_right_different_and_the_same_again(tmp_path: Path) -> None:
    found = list(sums.sums())
    assert len({row["prompt"] for row in found}) == len(found) == sums.NUM_SUMS
    for row in found:
        a, b = (int(word.strip("?")) for word in row["prompt"].split() if word.strip("?").isdigit())
        assert row["answer"] == str(a + b)
    for name in ("first", "second"):
        sums.main(str(tmp_path / name / "sums.jsonl"))
    assert (tmp_path / "first/sums.jsonl").read_bytes() == (tmp_path / "second/sums.jsonl").read_bytes()
    assert list(sums.sums(5)) == found[:5]


@given(st.data())
def test_chance_of_a_right_one_is_the_share_of_draws(data: st.DataObject) -> None:
    num_candidates = data.draw(st.integers(1, 8))
    num_right = data.draw(st.integers(0, num_candidates))
    size = data.draw(st.integers(1, num_candidates))
    draws = list(itertools.combinations([place < num_right for place in range(num_candidates)], size))
    expected = sum(any(draw) for draw in draws) / len(draws)
    assert solve_rate.chance_of_a_right_one(num_candidates, num_right, size) == pytest.approx(expected)


def candidate(text: str | None, error: str | None = None) -> Candidate:
    return Candidate(text, "m", error)


def output(file: Path, scores: list[list[float | None]], candidates: list[list[Candidate]]) -> None:
    file.parent.mkdir(parents=True)
    pq.write_table(pa.table({"score.math": scores, **as_columns(candidates)}), file)


def test_rejected_rows_count_and_cut_off_answers_are_wrong(tmp_path: Path) -> None:
    cut = candidate("3", "cut_off: the answer ended at max_tokens: 8")
    output(tmp_path / "data/u0.parquet", [[1.0, 0.0]], [[candidate("3"), candidate("4")]])
    output(
        tmp_path / "_rejected/u0.pq",
        [[1.0, 0.0], [None, 0.0]],
        [[cut, candidate("4")], [candidate(None, "empty_response: …"), candidate("4")]],
    )
    counts = solve_rate.count_right(solve_rate.read(str(tmp_path)), "math")
    assert counts == [(2, 1), (2, 0), (2, 0)]
    rates: list[Any] = list(solve_rate.solve_rates(counts))
    assert rates == [(1, pytest.approx(1 / 6), pytest.approx(1 / 6)), (2, pytest.approx(1 / 3), pytest.approx(1 / 6))]


def test_an_output_without_rows_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="run the job first"):
        solve_rate.read(str(tmp_path))


def test_first_answers_are_rows_to_be_corrected(tmp_path: Path) -> None:
    rows = [{"id": f"sum-{n}", "prompt": f"{n}?", "answer": "3", "responses": [None, "3"]} for n in (2, 1)]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data/u0.parquet")
    first_answers.main(str(tmp_path), str(tmp_path / "first.jsonl"))
    assert [orjson.loads(line) for line in (tmp_path / "first.jsonl").read_bytes().splitlines()] == [
        {"id": f"sum-{n}", "prompt": f"{n}?", "answer": "3", "response": None} for n in (1, 2)
    ]


def test_rows_that_are_done_stay_right_and_cost_nothing_more() -> None:
    rows = [
        {"correct.by_round": [{"score": 1.0, "tokens": 10}]},
        {"correct.by_round": [{"score": 0.0, "tokens": 20}, {"score": 1.0, "tokens": 30}]},
        {"correct.by_round": [{"score": 0.0, "tokens": 20}, {"score": 0.0, "tokens": None}]},
        {"correct.by_round": []},
    ]
    assert correction_curve.curve(rows, 3) == [(0.25, 12.5), (0.5, 20.0), (0.5, 20.0)]


def test_a_model_that_stands_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / smollm2.INDEX).write_bytes(b"weights")
    smollm2.main(str(tmp_path))
    assert "there already" in capsys.readouterr().out
    assert [file.name for file in tmp_path.iterdir()] == [smollm2.INDEX]
