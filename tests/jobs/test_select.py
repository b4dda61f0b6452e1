"""The select job on outputs of other jobs: what it keeps, what it says of the rest, and what it is compared with."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.errors import UserError
from jobs.config.identity import job_identity
from jobs.config.job_types import parse_job
from rmbatch.rows.roles import guess_roles
from rmbatch.selection.choose import ChoiceRule
from rmbatch.stages.select import ControlRule, SelectStage
from tests.jobs.commands import write_jsonl, write_parquet
from tests.jobs.running import by, make_plan, rows, run

pytestmark = pytest.mark.usefixtures("here")


def scored(count: int = 60) -> list[dict[str, Any]]:
    """Nested rows with stored scores: empty and null lists, null scores and texts, many ties."""
    chance = random.Random(3)
    made = []
    for number in range(count):
        num = chance.randint(0, 5)
        texts = [chance.choice([None, "yes", "Yes ", f"no {n}", "a longer answer"]) for n in range(num)]
        row = {"uid": f"p{number:03}", "prompt": f"what is {number}?", "responses": texts}
        for name in ("math", "length"):
            row[f"score.{name}"] = [chance.choice([None, 0.0, 0.5, 1.0]) for _ in range(num)]
        row["generation"] = [{"model": chance.choice("mk"), "error": None} for _ in range(num)]
        if number % 13 == 4:
            row |= {"responses": None, "score.math": None, "score.length": None, "generation": None}
        made.append(row)
    return made


def flat(nested: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"uid": row["uid"], "prompt": row["prompt"], "response": text, "model": row["generation"][n]["model"]}
        | {name: row[name][n] for name in ("score.math", "score.length")}
        for row in nested
        for n, text in enumerate(row["responses"] or [])
    ]


def job(path: object, target: object, select: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "job": "select",
        "input": {"path": str(path), **more},
        "select": select,
        "output": {"path": str(target)},
        "run": {"on": "here", "block_rows": 16},
    }


FULL = {
    "by": {"math": 1.0, "length": 0.1, "on_null": 0.0},
    "keep": 2,
    "min_percentile": 30,
    "solve_rate": {"by": "math", "low": 0.1, "high": 0.9},
    "duplicates": "normalised",
}


def test_nested_and_flat_rows_keep_same_responses(tmp_path: Path) -> None:
    nested = scored()
    write_parquet(tmp_path / "nested/a.parquet", nested)
    scattered = random.Random(1).sample(flat(nested), len(flat(nested)))
    write_parquet(tmp_path / "flat/a.parquet", scattered)
    one = run(job(tmp_path / "nested", tmp_path / "one", FULL | {"cap": {"keep": 1}}))
    two = run(job(tmp_path / "flat", tmp_path / "two", FULL | {"cap": {"by": "model", "keep": 1}}, group={"by": "uid"}))
    kept = Counter(
        (row["uid"], text, rank)
        for row in rows(tmp_path / "one")
        for text, rank in zip(row["responses"], row["select.rank"], strict=True)
        if rank is not None
    )
    assert sum(kept.values()) > 20
    assert kept == Counter((row["uid"], row["response"], row["select.rank"]) for row in rows(tmp_path / "two"))
    of_both = [{k: v for k, v in each.tally.items() if "random" not in k} for each in (one, two)]
    assert of_both[0] == of_both[1]
    assert set(of_both[0]) >= {"select.duplicate", "select.source_cap", "select.too_hard", "compared.kept"}


def test_every_row_and_stored_score_stays_as_it_is(tmp_path: Path) -> None:
    nested = scored()
    write_jsonl(tmp_path / "in/a.jsonl", nested)
    run(job(tmp_path / "in", tmp_path / "out", FULL))
    found = by("uid", rows(tmp_path / "out") + rows(tmp_path / "out", "rejected"))
    assert [{name: row[name] for name in nested[0] if name != "generation"} for row in found] == [
        {name: row[name] for name in row if name != "generation"} for row in nested
    ]


def test_selects_from_outputs_of_score_and_best_of_n(tmp_path: Path) -> None:
    candidates = [
        {"uid": "a", "prompt": "1+1", "responses": ["2", "3", "2"], "reference": "2"},
        {"uid": "b", "prompt": "1+2", "responses": ["4", "3"], "reference": "3"},
    ]
    write_jsonl(tmp_path / "in/a.jsonl", candidates)
    base = {"input": {"path": str(tmp_path / "in")}, "rewards": {"exact": {"reward": "accuracy"}}}
    run(base | {"job": "score", "output": {"path": str(tmp_path / "scored")}})
    run(base | {"job": "best_of_n", "output": {"path": str(tmp_path / "best")}})
    columns = []
    for name in ("scored", "best"):
        run(job(tmp_path / name, tmp_path / f"from_{name}", {"keep": 2, "duplicates": "exact"}))
        found = by("uid", rows(tmp_path / f"from_{name}"))
        assert [row["select.rank"] for row in found] == [[1, 2, None], [2, 1]]
        assert [row["select.reason"] for row in found] == [[None, None, "duplicate"], [None, None]]
        assert [row["select.response"] for row in found] == ["2", "3"]
        columns.append(set(found[0]))
    assert columns[0] == columns[1]  # what the earlier selection wrote was replaced


def test_flat_rows_replace_columns_of_nested_selection(tmp_path: Path) -> None:
    kept = {"select.rank": [1, None], "select.reason": [None, "outranked"], "select.response": "2"}
    write_parquet(tmp_path / "in/a.parquet", [{"uid": "a", "prompt": "1+1", "score.x": 1.0, **kept}])
    run(job(tmp_path / "in", tmp_path / "out", {}, columns={"response": "select.response"}, group={"by": "uid"}))
    (row,) = rows(tmp_path / "out")
    assert (row["select.rank"], row["select.reason"], row["select.response"]) == (1, None, "2")


def test_summary_compares_with_random_pick_and_oracle(tmp_path: Path) -> None:
    proxy = [
        {"uid": str(n), "prompt": "p", "responses": list("abcd"), "score.proxy": [1.0, 1.0, 0.0, 0.0]}
        for n in range(400)
    ]
    for row in proxy:
        row["score.truth"] = [0.0, 1.0, 0.0, 0.0]
    write_parquet(tmp_path / "in/a.parquet", proxy)
    summary = run(job(tmp_path / "in", tmp_path / "out", {"by": "proxy", "control": {"measure": "truth"}}))
    counts = {name.removeprefix("compared."): count for name, count in summary.tally.items() if "compared" in name}
    assert (counts["kept"], counts["measured"], counts["tied"]) == (400, 400, 400)  # a tie decided each
    assert counts["oracle"] == 400_000_000
    assert 60_000_000 < counts["random"] < 140_000_000
    found = rows(tmp_path / "out")
    assert sum(row["select.control"]["random"] for row in found) * 1e6 == counts["random"]
    assert all(sum(row["select.random"]) == 1 for row in found)
    again = run(job(tmp_path / "in", tmp_path / "again", {"by": "proxy", "control": {"measure": "truth"}}))
    assert again.tally == summary.tally


@pytest.mark.parametrize(
    ("select", "more", "message"),
    [
        ({"by": "maths"}, {}, "no score is called 'maths'; did you mean 'math'?"),
        ({"by": {"math": 1.0, "kind": 2.0}}, {}, "no score is called 'kind'"),
        ({"by": "math", "veto": {"safety": 0.5}}, {}, "no score is called 'safety'"),
        ({"by": "math", "control": {"measure": "gold"}}, {}, "no score is called 'gold'"),
        ({"by": "math", "control": {"seed": -1}}, {}, "select.control.seed: got -1"),
        ({"by": "math", "control": {"seed": 2**64}}, {}, "select.control.seed: got 18446744073709551616"),
        ({}, {}, "2 scores, and nothing says which decides: select.by: one of math, length"),
        ({"by": "math", "cap": {"by": "generation.modell"}}, {}, "'generation' has no field 'modell'"),
        ({"by": "math", "cap": {"by": "generation"}}, {}, "a source is a plain value"),
        ({"by": "math", "cap": {"by": "team"}}, {}, "no column 'team'"),
        ({"by": "math"}, {"columns": {"response": "uid"}}, "one response per row"),
        ({"by": "math"}, {"columns": {"response": "uid"}, "group": {"by": "uid"}}, "are lists"),
    ],
)
def test_mistakes_are_told_before_any_work(
    tmp_path: Path, select: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    write_parquet(tmp_path / "in/a.parquet", scored(5))
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        run(job(tmp_path / "in", tmp_path / "out", select, **more))
    assert not (tmp_path / "out/data").exists()


def test_input_without_scores_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in/a.parquet", [{"prompt": "p", "responses": ["a"]}])
    with pytest.raises(UserError, match=r"no scores .* run job: score on it first"):
        run(job(tmp_path / "in", tmp_path / "out", {}))


@pytest.mark.parametrize(
    ("select", "setting"),
    [({"vote": {}}, "vote"), ({"ties": "first", "duplicates": "near"}, "duplicates"), ({}, "ties: hash")],
)
def test_choice_by_texts_over_rows_without_texts_is_refused(
    tmp_path: Path, select: dict[str, Any], setting: str
) -> None:
    write_parquet(tmp_path / "in/a.parquet", [{"uid": n // 2, "score.math": float(n)} for n in range(4)])
    more = {"group": {"by": "uid", "rows": "adjacent"}}
    with pytest.raises(UserError, match=rf"select\.{setting} reads the responses"):
        run(job(tmp_path / "in", tmp_path / "out", {"by": "math", **select}, **more))
    summary = run(job(tmp_path / "in", tmp_path / "out", {"by": "math", "ties": "first"}, **more))
    assert summary.tally["select.kept"] == 2


def test_row_without_scores_is_rejected_and_a_row_with_too_many_is_named(tmp_path: Path) -> None:
    good = {"responses": ["a", "b"], "score.math": [0.0, 1.0]}
    write_parquet(tmp_path / "in/a.parquet", [good, {"responses": ["a", "b"], "score.math": None}])
    summary = run(job(tmp_path / "in", tmp_path / "out", {"by": "math"}))
    assert summary.rows == {"data": 1, "rejected": 1, "dead_letters": 0}
    assert rows(tmp_path / "out", "rejected")[0]["select.reason"] == ["no_score", "no_score"]
    write_parquet(tmp_path / "odd/a.parquet", [good, {"responses": ["a"], "score.math": [0.0, 1.0]}])
    with pytest.raises(UserError, match=r"not as long as the lists of candidates, first in row 1 of .*odd/a\.parquet"):
        run(job(tmp_path / "odd", tmp_path / "other", {"by": "math"}))


def test_plan_shows_choice_of_first_rows(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in/a.parquet", scored(5))
    plan = make_plan(parse_job(job(tmp_path / "in", tmp_path / "out", {"by": "math"}), "test"))
    assert {"select.rank", "select.reason", "select.random", "select.control"} <= set(plan.writes)
    assert len(plan.first_rows) == 5


def test_identity_of_best_of_n_holds_new_keys_only_where_given() -> None:
    def of(select: dict[str, Any]) -> Any:
        rewards = {"x": {"reward": "accuracy"}}
        made = {"job": "best_of_n", "input": {"path": "in"}, "output": {"path": "o"}, "rewards": rewards}
        return job_identity(parse_job(made | {"select": select}, "test"))["select"]

    old = {"keep": 1, "min_score": None, "min_margin": None, "ties": "hash", "seed": 0, "by": None}
    assert of({}) == old
    assert of({"min_z": 0.5}) == old | {"min_z": 0.5}


def test_stage_is_the_job(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in/a.parquet", scored())
    run(job(tmp_path / "in", tmp_path / "out", {"by": "math", "min_z": 0.0}))
    table = pq.read_table(tmp_path / "in/a.parquet")
    stage = SelectStage(ChoiceRule(min_z=0.0), "math", guess_roles(table.schema), control=ControlRule())
    alone = by("uid", pa.Table.to_pylist(stage(table).select(["uid", "select.rank", "select.reason"])))
    found = by("uid", rows(tmp_path / "out") + rows(tmp_path / "out", "rejected"))
    assert [{name: row[name] for name in alone[0]} for row in found] == alone


def write_qwen_math(shared_data: Path, file: Path) -> None:
    """Qwen2.5-Math's own scores of 100 problems x 8 solutions: 91 right at random, 94 by its pick, 96 at best."""
    lines = (shared_data / "qwen_math_bon/math_cot_100.jsonl").read_text().splitlines()
    kept = {"code": "responses", "score": "score.right", "pred_score": "score.model", "question": "prompt"}
    recorded = [{kept[name]: value for name, value in json.loads(line).items() if name in kept} for line in lines]
    for row in recorded:
        row["score.right"] = [float(right) for right in row["score.right"]]
        row["score.model"] = [score for (score,) in row["score.model"]]
    write_parquet(file, recorded)


def test_vote_solves_as_many_as_published(tmp_path: Path, shared_data: Path) -> None:
    """maj@8 of Qwen2.5-Math on these problems is 93; weighted by its reward model, ours is 94, as its best of 8."""
    write_qwen_math(shared_data, tmp_path / "in/a.parquet")
    for weight, num_right in (("count", 93), ("score", 94)):
        select = {"by": "model", "vote": {"weight": weight}, "control": {"measure": "right"}}
        counts = run(job(tmp_path / "in", tmp_path / weight, select)).tally
        assert counts["compared.selected"] == num_right * 1_000_000
        assert counts["select.outvoted"] > 20


def test_recorded_reward_model_is_measured_beside_its_controls(tmp_path: Path, shared_data: Path) -> None:
    write_qwen_math(shared_data, tmp_path / "in/a.parquet")
    select = {"by": "model", "ties": "first", "control": {"measure": "right"}}
    counts = run(job(tmp_path / "in", tmp_path / "out", select)).tally
    found = {name: counts[f"compared.{name}"] for name in ("kept", "measured", "tied", "selected", "oracle")}
    assert found == {"kept": 100, "measured": 100, "tied": 20, "selected": 94_000_000, "oracle": 96_000_000}
    draws = []
    for seed in range(5):
        select["control"] = {"measure": "right", "seed": seed}
        draws.append(run(job(tmp_path / "in", tmp_path / f"out{seed}", select)).tally["compared.random"] / 1e6)
    assert abs(sum(draws) / len(draws) - 91) < 2  # the mean of all 800
