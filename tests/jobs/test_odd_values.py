"""Columns in which nearly all rows have one kind of value: what rewards see, what is written, and what is told."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

import rmbatch
from connectors.errors import UserError
from connectors.schema import JSON_METADATA, TWIN_OF
from jobs.config.job_types import parse_job
from jobs.show.display import draw_result
from rmbatch.rows.roles import Roles, flatten
from tests.jobs.running import make_plan, rows, run
from tests.judging import honest, judge_server
from tests.servers.hostile import HostileServer

TWIN = {**JSON_METADATA, TWIN_OF: b"x"}


def with_twin(values: list[Any], odd: list[str | None], name: str = "x") -> pa.Table:
    fields = [pa.field(name, pa.array(values).type), pa.field(f"odd.{name}", pa.string(), metadata=TWIN)]
    fields[1] = fields[1].with_metadata({**TWIN, TWIN_OF: name.encode()})
    return pa.table([pa.array(values), pa.array(odd, pa.string())], schema=pa.schema(fields))


@pytest.mark.parametrize(
    ("role", "values", "odd", "seen"),
    [
        ("reference", ["a", None, None], [None, "42", None], ["a", "42", None]),
        ("response", ["a", None], [None, '["step 1", "step 2"]'], ["a", "step 1\nstep 2"]),
        ("reference", [1, None], [None, '"two"'], ["1", "two"]),
    ],
)
def test_role_reads_odd_value_as_if_alone(role: str, values: list, odd: list, seen: list) -> None:
    view = flatten(with_twin(values, odd), Roles(**{role: "x"}))
    assert view.column(role).to_pylist() == seen


def test_multimodal_prompt_among_plain_ones_is_read() -> None:
    plain = [{"role": "user", "content": "hello"}]
    odd = json.dumps([{"role": "user", "content": [{"type": "text", "text": "look"}]}])
    view = flatten(with_twin([plain, None], [None, odd]), Roles(prompt="x"))
    alone = rmbatch.rows.messages.messages_of(json.loads(odd))  # type: ignore[attr-defined]
    assert view.column("prompt").to_pylist() == [plain, alone]


def test_candidates_of_odd_row_are_read() -> None:
    table = with_twin([["a", "b"], None, None, None], [None, '["c", 3]', '"d"', None])
    view = flatten(table, Roles(responses="x"))
    assert view.column("response").to_pylist() == ["a", "b", "c", "3"]
    assert view.nest(view.column("response")).to_pylist() == [["a", "b"], ["c", "3"], None, None]


@pytest.mark.parametrize(
    ("values", "odd", "seen"),
    [(["a", None], [None, "1"], ["a", "1"]), ([7, None], [None, '"seven"'], [7, None])],
)
def test_text_column_shows_odd_values(values: list, odd: list, seen: list) -> None:
    assert flatten(with_twin(values, odd), Roles()).column("x").to_pylist() == seen


def job(tmp_path: Path, found: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    path = tmp_path / "in" / "rows.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    written = {
        "job": "score",
        "input": {"path": str(path)},
        "rewards": {"exact": {"reward": "accuracy"}},
        "output": {"path": str(tmp_path / "out")},
    }
    for key, value in settings.items():
        part, _, name = key.partition("_")
        written[part] = {**written[part], name: value} if name else value
    return written


ROWS = [{"id": n, "response": str(n), "reference": str(n)} for n in range(200)]
ROWS[150] = {"id": 150, "response": "150", "reference": 150}


def test_row_with_odd_reference_is_scored(here: None, tmp_path: Path) -> None:
    told = StringIO()
    summary = run(job(tmp_path, ROWS), told)
    found = rows(tmp_path / "out")
    assert [row["score.exact"] for row in found] == [1.0] * 200
    assert [row["reference"] for row in found[149:152]] == ["149", None, "151"]
    assert [row["odd.reference"] for row in found[149:152]] == [None, "150", None]
    file = next((tmp_path / "out/data").glob("*.parquet"))
    assert pq.read_schema(file).field("reference").type == pa.string()
    line = "string; 1 of 200 rows are not (text 199, integer 1), and are JSON text in odd.reference"
    assert f"column reference: {line}" in told.getvalue()
    assert summary.tally["odd.reference"] == 1
    again = run(job(tmp_path, ROWS))  # finished
    console = Console(file=StringIO(), width=200)
    console.print(draw_result("", again.rows, again.tally, {"mixed": again.mixed}))
    assert line in console.file.getvalue()  # type: ignore[attr-defined]
    second = {"path": str(tmp_path / "out")}  # the output is an input like any other
    run({**job(tmp_path, ROWS), "input": second, "output": {"path": str(tmp_path / "again")}, "rewards": F1})
    assert [row["score.f1"] for row in rows(tmp_path / "again")] == [1.0] * 200


F1 = {"f1": {"reward": "f1_score"}}


def test_odd_values_follow_chosen_rule(here: None, tmp_path: Path) -> None:
    letters = job(tmp_path, ROWS, input_odd_values="dead_letter")
    assert run(letters).rows == {"data": 199, "rejected": 0, "dead_letters": 1}
    letters["input"]["odd_values"] = "json_column"
    letters["output"] = {"path": str(tmp_path / "column")}
    run(letters)
    assert [row["reference"] for row in rows(tmp_path / "column")[149:151]] == ['"149"', "150"]
    run(job(tmp_path, ROWS, output_format="jsonl", output_path=str(tmp_path / "lines"), output_columns=["reference"]))
    found = rows(tmp_path / "lines")
    assert found[149:151] == [{"reference": "149", **SCORED}, {"reference": 150, **SCORED}]


SCORED = {"score.exact": 1.0, "error.exact": None}


def test_groups_with_keys_of_several_kinds(here: None, tmp_path: Path) -> None:
    found = [{"key": n // 2, "response": str(n % 2), "reference": "0"} for n in range(298)]
    found += [{"key": "a", "response": "1", "reference": "0"}, {"key": "a", "response": "0", "reference": "0"}]
    written = {**job(tmp_path, found, input_group={"by": "key"}), "job": "best_of_n"}
    told = StringIO()
    assert run(written, told).rows == {"data": 150, "rejected": 150, "dead_letters": 0}
    assert "column key: all of it is JSON text, in which text has quotes" in told.getvalue()


def test_plan_counts_odd_values(tmp_path: Path) -> None:
    console = Console(file=StringIO(), width=300)
    make_plan(parse_job(job(tmp_path, ROWS), "test")).show(console)
    line = "by the first 200 rows: string; 1 of 200 rows are not (text 199, integer 1), and are JSON text in odd.ref"
    assert line in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("where", ["in", "in/out"])
def test_output_inside_input_is_refused(tmp_path: Path, where: str) -> None:
    written = job(tmp_path, ROWS, output_path=str(tmp_path / where), input_path=str(tmp_path / "in"))
    for begin in (lambda: run(written), lambda: make_plan(parse_job(written, "test"))):
        with pytest.raises(
            UserError, match=r"output\.path: .* lies inside the input .*; choose a folder outside of it"
        ):
            begin()
    assert [each.name for each in (tmp_path / "in").iterdir()] == ["rows.jsonl"]


ASKED = [{"prompt": "2+2", "response": "4"}]
JUDGE = {"judge": "pointwise", "principles": "math", "endpoint": "http://127.0.0.1:9", "model": "judge"}
MODEL = {"model": "rm", "engine": "endpoint", "endpoints": ["http://127.0.0.1:9"]}


def test_missing_judge_stops_job_before_scan(here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scanned(*args: Any) -> None:
        raise AssertionError("the input was scanned first")

    monkeypatch.setattr("jobs.run.rows.scan", scanned)
    with pytest.raises(UserError, match="reward 'kind': model 'judge' cannot be asked: no endpoint answers"):
        run(job(tmp_path, ASKED, rewards={"kind": JUDGE}))
    with judge_server(honest) as server, pytest.raises(AssertionError, match="scanned first"):
        run(job(tmp_path, ASKED, rewards={"kind": {**JUDGE, "endpoint": server.url}}))
    assert isinstance(server, HostileServer)
