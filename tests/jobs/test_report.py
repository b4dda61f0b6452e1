"""Reports of outputs that the tests make themselves: what they say, where they stand, what they refuse."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmbatch.evaluation.best_of_n import best_of_n_curve
from tests.editing import correct_by_math, editor_server
from tests.jobs.commands import Command, mistake_of, write_jsonl, write_parquet
from tests.jobs.running import run, run_in_shapes
from tests.rmbatch.evaluation import slow

WORDS = ["the", "sum", "of", "both", "numbers", "is", "surely", "not", "hard", "to", "find"]
JOB = """
job: best_of_n
input: {path: IN, columns: {reference: answer}}
rewards:
  near: {reward: f1_score}
  short: {reward: length_penalty, min_length: 0, max_length: 1, penalty_rate: 0.01}
select: {by: near}
output: {path: OUT}
"""


def question(number: int) -> dict[str, Any]:
    """Four answers: ever more of the right words, the last but one missing, the last wrong."""
    right = " ".join(WORDS[: 3 + number % 5])
    texts = [" ".join(WORDS[: 1 + number % 3]), right, None, "<b>" + " ".join(WORDS[::-1]) + "</b>"]
    gold = [0.25, 1.0, None, 0.0]
    return {"uid": f"q{number}", "question": f"What is {number}?", "candidates": texts, "answer": right, "truth": gold}


ROWS = [question(number) for number in range(40)]


def flat_rows() -> list[dict[str, Any]]:
    """The same candidates, one a row, those of a question scattered."""
    rows = [
        {"uid": row["uid"], "question": row["question"], "response": text, "answer": row["answer"], "truth": truth}
        for row in ROWS
        for text, truth in zip(row["candidates"], row["truth"])
    ]
    return [row for start in range(3) for row in rows[start::3]]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Outputs of one best-of-N job over nested rows, over flat rows, and over nested rows as JSONL."""
    return run_in_shapes(tmp_path_factory.mktemp("outputs"), JOB, ROWS, flat_rows(), group="uid")


def figures(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_shapes_and_formats_of_rows_give_the_same_figures(
    outputs: dict[str, str], rmbatch: Command, tmp_path: Path
) -> None:
    found = {}
    for name, output in outputs.items():
        ended = rmbatch("report", output, "--gold", "truth", "--out", name)
        assert ended.code == 0, ended.err
        report = figures(tmp_path / name)
        for each in report["curve"][
            "choosers"
        ].values():  # other prompts are drawn, for flat rows come in another order
            for key in ("points", "gain", "best_gain", "loss"):
                each.pop(key)
        for each in report["scores"].values():  # sums in another order differ in the last digit
            each.pop("mean")
            each.pop("deviation")
        same = ("num_prompts", "num_candidates", "nulls", "agreement", "length", "pairs", "choices", "scores")
        found[name] = [*(report[key] for key in same), report["curve"]["choosers"]]
        found[name] += [report["picks"][key] for key in ("kept", "kept_by_tie", "ties")]
    assert found["nested"] == found["jsonl"]
    assert found["nested"] == found["flat"]
    assert found["nested"][:2] == [40, 160]


def test_flat_rows_without_the_rejected_ones_are_compared_with_no_pool(rmbatch: Command, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", flat_rows())
    (tmp_path / "job.yaml").write_text(JOB.replace("IN,", f"{tmp_path}/in, ").replace("OUT}", f"{tmp_path}/out}}"))
    settings = ("input.group.by=uid", "select.ties=first", "run.on=here")
    found = {}
    for rejected in ("keep", "drop"):
        output = f"{tmp_path}/{rejected}"
        told = (*settings, f"output.rejected={rejected}", f"output.path={output}")
        assert rmbatch("run", "job.yaml", *told).code == 0
        assert rmbatch("report", output, "--gold", "truth").code == 0
        found[rejected] = figures(Path(f"{output}.report"))
    kept, dropped = found["keep"], found["drop"]
    assert kept["has_pools"]
    assert kept["picks"]["worth"]["prompts"] == 40
    assert not dropped["has_pools"]
    assert [dropped[name] for name in ("curve", "agreement", "drift", "pairs", "length")] == [None] * 4 + [[]]
    assert dropped["picks"]["worth"] is None
    assert dropped["picks"]["kept"] == kept["picks"]["kept"] == 40
    assert any("nothing is compared with the pools" in each["text"] for each in dropped["findings"])


def test_folder_holds_page_plots_and_figures_beside_the_output(
    outputs: dict[str, str], rmbatch: Command, tmp_path: Path
) -> None:
    before = sorted(Path(outputs["nested"]).rglob("*"))
    ended = rmbatch("report", outputs["nested"], "--json")
    told = json.loads(ended.out)
    assert told["folder"] == f"{outputs['nested']}.report"
    assert sorted(Path(outputs["nested"]).rglob("*")) == before
    names = {"index.html", "report.json", "agreement.png", "drift.png", "pair_lengths.png", "best_of_n.png"}
    assert names | {"score_near.png", "score_short.png"} <= {*os.listdir(told["folder"])}
    page = Path(told["page"]).read_text()
    assert "http" not in page.replace('xmlns="http://www.w3.org/2000/svg"', "").replace(
        'xmlns:xlink="http://www.w3.org/1999/xlink"', ""
    ).replace('http-equiv="', "")
    assert "<b>find" not in page  # a response is text
    assert rmbatch("report", outputs["nested"]).code == 0  # written anew over the old one


def test_curve_on_the_page_is_the_estimators(outputs: dict[str, str], rmbatch: Command, tmp_path: Path) -> None:
    assert rmbatch("report", outputs["nested"], "--gold", "truth", "--by", "short", "--out", "made").code == 0
    report = figures(tmp_path / "made")
    lengths: list[list[float | None]] = [
        [-len(t) if t is not None else None for t in row["candidates"]] for row in ROWS
    ]
    known = [[each for each, gold in zip(some, row["truth"]) if gold is not None] for some, row in zip(lengths, ROWS)]
    golds = [[gold for gold in row["truth"] if gold is not None] for row in ROWS]
    expected = best_of_n_curve(slow.ragged(known), slow.ragged(golds), [1, 2, 3])
    points = report["curve"]["choosers"]["short"]["points"]
    assert [each["mean"] for each in points] == pytest.approx(expected.tolist(), abs=1e-9)
    assert report["curve"]["without_gold"] == 40
    says = [each["text"] for each in report["findings"]]
    assert any(text.startswith("short prefers the shorter response in 100.0%") for text in says)
    assert any("response length alone" in text for text in says)


def test_examples_hold_the_texts_of_both(outputs: dict[str, str], rmbatch: Command, tmp_path: Path) -> None:
    for name in ("nested", "flat"):
        ended = rmbatch("report", outputs[name], "--gold", "truth", "--by", "short", "--examples", "2", "--out", name)
        assert ended.code == 0, ended.err
        shown = figures(tmp_path / name)["examples"]
        assert [each["kind"] for each in shown] == ["worst"] * 2 + [
            "contested"
        ] * 2  # the shortest is never above the mean
        assert {each["pick"]["gold"] for each in shown[:2]} == {0.25}
        assert {each["other"]["gold"] for each in shown[:2]} == {1.0}
        for each in shown[:2]:
            row = next(row for row in ROWS if row["question"] == each["prompt"])
            assert [each["pick"]["text"], each["other"]["text"]] == row["candidates"][:2]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--gold", "truht"], "--gold truht: no score and no column has this name"),
        (["--gold", "question"], "--gold question: the column holds"),
        (["--by", "nea"], "by nea: there is no such score; name one as by: near, short"),
        (["--source", "writer"], "--source writer: no column has this name"),
        (["--out", "s3://bucket/x"], "a disk of this machine"),
        (["--examples", "-1"], "write 0 or more"),
    ],
)
def test_mistake_is_one_line_and_writes_nothing(
    options: list[str], told: str, outputs: dict[str, str], rmbatch: Command, tmp_path: Path
) -> None:
    place = [] if "--out" in options else ["--out", "made"]
    assert told in mistake_of(rmbatch("report", outputs["nested"], *options, *place))
    assert os.listdir(tmp_path) == []


def test_other_things_are_refused_and_stay(outputs: dict[str, str], rmbatch: Command, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.png").write_text("a")
    assert "something else than a report" in mistake_of(rmbatch("report", outputs["nested"], "--out", "mine"))
    assert "is no output of rmbatch" in mistake_of(rmbatch("report", "mine"))
    inside = f"{outputs['nested']}/data/report"
    assert "lies inside the output" in mistake_of(rmbatch("report", outputs["nested"], "--out", inside))
    assert os.listdir(tmp_path / "mine") == ["a.png"]


def test_sample_of_texts_says_so(outputs: dict[str, str], rmbatch: Command, tmp_path: Path) -> None:
    assert rmbatch("report", outputs["nested"], "--sample", "10", "--out", "made").code == 0
    report = figures(tmp_path / "made")
    assert report["sample"]["of"] == 40
    assert 10 <= report["sample"]["prompts"] < 40
    assert report["scores"]["near"]["count"] == 120
    assert "a sample spread evenly over the files" in (tmp_path / "made/index.html").read_text()


def test_correction_is_shown_beside_its_control(here: None, rmbatch: Command, tmp_path: Path) -> None:
    """Every second answer is wrong. The editor mends them; answers sampled anew stay wrong."""
    rows = [
        {"id": n, "prompt": f"Row {n}: 1 + {n}?", "response": f"It is {n + 1 + n % 2}", "answer": str(n + 1)}
        for n in range(60)
    ]
    write_jsonl(tmp_path / "in/a.jsonl", rows)

    def mend(told: Any) -> str:
        number = int(told.prompt.split("Row ")[1].split(":")[0])
        return f"It is {number + 1}" if told.best else f"It is {number + 7}"

    with editor_server(mend) as server:
        correct_by_math(tmp_path / "in", tmp_path / "out", server, rounds=2, control={"share": 0.5})
    ended = rmbatch("report", str(tmp_path / "out"))
    assert ended.code == 0, ended.err
    report = figures(tmp_path / "out.report")
    groups = report["correction"]["gains"]["groups"]
    assert groups["corrected"]["rows"] + groups["control"]["rows"] == 30
    assert groups["corrected"]["rounds"][-1]["gain"]["mean"] == 1.0
    assert groups["control"]["rounds"][-1]["gain"]["mean"] == 0.0
    assert [each["kind"] for each in report["examples"]].count("best") == 3
    best = report["examples"][0]
    assert best["pick"]["scores"]["correct.score"] == 1.0
    assert best["other"]["scores"]["correct.score"] == 0.0
    assert report["drift"]["prompts"] == groups["corrected"]["rows"]
    assert "Gain after each round" in (tmp_path / "out.report/index.html").read_text()


def test_recorded_reward_model_has_its_published_curve(
    here: None, rmbatch: Command, tmp_path: Path, shared_data: Path
) -> None:
    """Qwen2.5-Math's scores of 100 problems x 8 solutions: figures of the README of the data."""
    lines = (shared_data / "qwen_math_bon/math_cot_100.jsonl").read_text().splitlines()
    recorded = [json.loads(line) for line in lines]
    rows = [
        {
            "prompt": row["question"],
            "responses": row["code"],
            "score.right": [float(right) for right in row["score"]],
            "score.model": [score for (score,) in row["pred_score"]],
        }
        for row in recorded
    ]
    write_parquet(tmp_path / "in/a.parquet", rows)
    select = {"by": "model", "ties": "first", "control": {"measure": "right"}}
    run(
        {
            "job": "select",
            "input": {"path": str(tmp_path / "in")},
            "select": select,
            "output": {"path": str(tmp_path / "out")},
        }
    )
    assert rmbatch("report", "out").code == 0
    report = figures(tmp_path / "out.report")
    assert report["columns"] == {"by": "model", "gold": "right", "source": None}
    points = [each["mean"] * 100 for each in report["curve"]["choosers"]["model"]["points"]]
    drawn = [each for row in recorded for each in [row["score"]]]
    assert points[0] == pytest.approx(100 * np.mean(drawn), abs=1e-9)
    assert [round(each, 3) for each in points] == [91, 92.786, 93.393, 93.614, 93.714, 93.786, 93.875, 94.0]
    assert report["curve"]["oracle"][-1]["mean"] == pytest.approx(0.96, abs=1e-9)
    assert report["picks"]["kept_by_tie"] == report["picks"]["ties"]["model"]["tied"] == 20
