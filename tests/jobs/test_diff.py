"""rmbatch diff: real outputs against a plain restatement and scipy, nested and flat, and what cannot be compared."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import kendalltau

from jobs.run.diff import compare_outputs
from tests.jobs.commands import Command, mistake_of
from tests.jobs.running import rows, run

pytestmark = [pytest.mark.usefixtures("here"), pytest.mark.timeout(180)]

Scores = dict[str, list[float | None]]


def draw(seed: int, num_prompts: int, other: Scores | None = None) -> Scores:
    """Scores of the candidates of prompts, with ties and nulls; some of ``other``, whose lengths they have."""
    source = random.Random(seed)
    found: Scores = {}
    for number in range(num_prompts):
        name = f"p{number:03}"
        before = (other or {}).get(name)
        length = len(before) if before is not None else source.randrange(1, 7)
        found[name] = [source.choice([None, 0.0, 0.5, 1.0, source.random()]) for _ in range(length)]
        if before is not None and source.random() < 0.5:
            found[name] = [old if source.random() < 0.7 else new for old, new in zip(before, found[name], strict=True)]
    return found


def output(place: Path, scores: Scores, *, flat: bool = False, text: str = "t", **more: Any) -> str:
    """The output of a select job over stored scores."""
    if flat:
        found: list[dict[str, Any]] = [
            {"id": f"{name}-{n}", "group": name, "prompt": "?", "response": f"{text}{n}", "score.x": score}
            for name, values in scores.items()
            for n, score in enumerate(values)
        ]
        random.Random(3).shuffle(found)
    else:
        found = [
            {"id": name, "prompt": "?", "responses": [f"{text}{n}" for n in range(len(values))], "score.x": values}
            for name, values in scores.items()
        ]
    place.mkdir(parents=True)
    score = pa.float64() if flat else pa.list_(pa.float64())
    table = pa.Table.from_pylist(found)
    table = table.set_column(table.column_names.index("score.x"), "score.x", table["score.x"].cast(score))
    pq.write_table(table, place / "in.parquet", row_group_size=7)
    run(
        {
            "job": "select",
            "input": {"path": str(place / "in.parquet"), **({"group": {"by": "group"}} if flat else {})},
            "select": {"keep": 1, "min_score": 0.4, "ties": "first"},
            "output": {"path": str(place / "out"), **more},
        }
    )
    return str(place / "out")


def kept(output: str) -> dict[str, Any]:
    """The candidate of each prompt that an output keeps."""
    found = {}
    for row in rows(output):
        flat = row.get("group")
        found[flat or row["id"]] = row["id"] if flat else row["select.rank"].index(1)
    return found


def expect(a: Scores, b: Scores) -> dict[str, Any]:
    """A plain restatement of what ``diff`` counts."""
    counts = dict.fromkeys(("same", "changed", "gained", "lost", "no_score"), 0)
    flipped, taus, moved = 0, [], []
    for name in a.keys() & b.keys():
        for x, y in zip(a[name], b[name], strict=True):
            key = "no_score" if x is None else "lost"
            if y is not None:
                key = "gained" if x is None else "same" if x == y else "changed"
            counts[key] += 1
        both = [(x, y) for x, y in zip(a[name], b[name], strict=True) if x is not None and y is not None]
        moved += [y - x for x, y in both]
        flipped += sum((p[0] - q[0]) * (p[1] - q[1]) < 0 for n, p in enumerate(both) for q in both[:n])
        tau = kendalltau(*zip(*both, strict=True)).statistic if len(both) > 1 else math.nan
        taus += [] if math.isnan(tau) else [tau]
    return {"counts": counts, "flipped": flipped, "taus": taus, "mean": sum(moved) / len(moved)}


@pytest.mark.parametrize("shape", ["nested", "flat", "jsonl"])
@pytest.mark.parametrize("min_block", [1, 50_000])
def test_counts_equal_a_plain_restatement(
    tmp_path: Path, shape: str, min_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.run.diff.MIN_BLOCK", min_block)
    a = draw(1, 60)
    b = draw(2, 60, a)
    del a["p001"], b["p002"], b["p003"]
    form = {"format": "jsonl"} if shape == "jsonl" else {}
    one = output(tmp_path / "a", a, flat=shape == "flat", **form)
    other = output(tmp_path / "b", b, flat=shape == "flat", **form)
    found, expected = compare_outputs(one, other).plain(), expect(a, b)
    x = found["scores"]["x"]
    assert x["candidates"] == expected["counts"]
    assert x["pairs"]["flipped"] == expected["flipped"] > 0
    assert x["mean_change"] == pytest.approx(expected["mean"])
    assert x["tau"]["prompts"] == len(expected["taus"])
    assert x["tau"]["mean"] == pytest.approx(sum(expected["taus"]) / len(expected["taus"]))
    assert found["prompts"] == {"both": 57, "only_a": 2, "only_b": 1}
    assert found["candidates"]["only_a"] == len(a["p002"]) + len(a["p003"])
    assert found["candidates"]["only_b"] == len(b["p001"])
    assert found["candidates"]["other_text"] == 0
    names = a.keys() & b.keys()
    kept_a, kept_b = kept(one), kept(other)
    pairs = [(kept_a.get(name), kept_b.get(name)) for name in names]
    assert found["selection"]["prompts"] == {
        "same": sum(p == q for p, q in pairs),
        "changed": sum(p != q for p, q in pairs if p is not None and q is not None),
        "gained": sum(p is None and q is not None for p, q in pairs),
        "lost": sum(p is not None and q is None for p, q in pairs),
    }
    for flip in found["flips"]["x"]:
        assert flip["scores_a"][0] > flip["scores_a"][1]
        assert flip["scores_b"][0] < flip["scores_b"][1]
        place = [int(str(flip[side]).rpartition("-")[2]) for side in ("better", "worse")]
        assert flip["scores_a"] == tuple(a[flip["prompt"]][each] for each in place)
        assert flip["scores_b"] == tuple(b[flip["prompt"]][each] for each in place)


def test_an_output_equals_itself(tmp_path: Path) -> None:
    one = output(tmp_path / "a", draw(1, 30))
    x = compare_outputs(one, one).plain()["scores"]["x"]
    assert (x["candidates"]["changed"], x["pairs"]["flipped"], x["mean_change"]) == (0, 0, 0)
    assert x["tau"]["mean"] == 1.0


def test_two_scores_of_one_output(tmp_path: Path, rmbatch: Command) -> None:
    row = [{"id": "p", "prompt": "?", "responses": ["a", "b"], "score.x": [1.0, 0.0], "score.y": [0.2, 0.9]}]
    pq.write_table(pa.Table.from_pylist(row), tmp_path / "in.parquet")
    run(
        {
            "job": "select",
            "input": {"path": str(tmp_path / "in.parquet")},
            "select": {"by": "x"},
            "output": {"path": str(tmp_path / "out")},
        }
    )
    outcome = rmbatch("diff", "out", "out", "--by-a", "x", "--by-b", "score.y", "--json")
    found = json.loads(outcome.out)
    assert found["selection"] is None
    assert found["scores"]["x -> y"]["tau"]["mean"] == -1.0
    assert found["scores"]["x -> y"]["first_place"] == {"same": 0, "overlaps": 0, "changed": 1}
    shown = rmbatch("diff", "out", "out", "--by-a", "x", "--by-b", "y").out
    assert "p: A prefers 0 to 1 (1 to 0), B prefers 1 (0.9 to 0.2)" in shown
    assert "p: A" not in rmbatch("diff", "out", "out", "--by-a", "x", "--by-b", "y", "--limit", "0").out


def test_other_texts_are_counted(tmp_path: Path, rmbatch: Command) -> None:
    a = draw(1, 5)
    one, other = output(tmp_path / "a", a), output(tmp_path / "b", a, text="other ")
    num = sum(map(len, a.values()))
    assert compare_outputs(one, other).candidates["other_text"] == num
    assert f"{num} responses have another text in B than in A" in rmbatch("diff", one, other).out


def test_what_cannot_be_compared_is_one_line(tmp_path: Path, rmbatch: Command) -> None:
    nested, flat = output(tmp_path / "a", draw(1, 5)), output(tmp_path / "b", draw(1, 5), flat=True)
    output(tmp_path / "c", {"p": [1.0]})
    pq.write_table(pa.concat_tables([pq.read_table(tmp_path / "c/in.parquet")] * 2), tmp_path / "c/in.parquet")
    run(
        {
            "job": "select",
            "input": {"path": str(tmp_path / "c/in.parquet")},
            "output": {"path": str(tmp_path / "e")},
        }
    )
    assert "compare like ones" in mistake_of(rmbatch("diff", nested, flat))
    assert "2 rows have the id 'p'" in mistake_of(rmbatch("diff", str(tmp_path / "e"), nested))
    assert "--by-a z: " in mistake_of(rmbatch("diff", nested, nested, "--by-a", "z"))
    assert "no such column" in mistake_of(rmbatch("diff", nested, nested, "--on", "uid"))
    assert "a key is a plain value" in mistake_of(rmbatch("diff", nested, nested, "--on", "responses"))
    assert "is no output of rmbatch" in mistake_of(rmbatch("diff", nested, str(tmp_path)))
    assert "no row is in both outputs" in mistake_of(
        rmbatch("diff", nested, output(tmp_path / "f", {"other": [1.0]}), "--on", "id")
    )


def test_a_missing_package_is_named(tmp_path: Path, rmbatch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmbatch.settings.extras.find_spec", lambda name: None)
    assert "pip install 'rmbatch[inspect]'" in mistake_of(rmbatch("diff", "a", "b"))
