"""Exports of outputs that the tests make themselves: what they hold, what they never hold, and who can load them."""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.storage import Folder, StorageOptions
from rmbatch.exports.base import FORMATS
from tests.editing import correct_by_math, editor_server
from tests.jobs.commands import Command, mistake_of, write_jsonl
from tests.jobs.running import run_in_shapes
from tests.servers.s3 import S3Server

ROWS: list[dict[str, Any]] = [
    {
        "uid": f"q{number}",
        "question": f"What is {number} and {number}?",
        "candidates": [
            f"It is {2 * number}.",
            f"It is {2 * number}, so I say.",
            f"Surely {2 * number + 1}!",
            None,
            f"The sum is {2 * number}.",
            f"Cut off, but {2 * number}",
        ],
        "finish_reason": ["stop", "stop", "stop", "error", "stop", "length"],
        "answer": f"The sum is {2 * number}.",
    }
    for number in range(5)
]
"""Of each question: two answers, a wrong one, none, the reference itself, and one that was cut off."""
ROWS += [
    {"uid": "none", "question": None, "candidates": ["a", "b"], "finish_reason": ["stop", "stop"], "answer": "c"},
    {"uid": "one", "question": "?", "candidates": ["a"], "finish_reason": ["stop"], "answer": "c"},
]
JOB = """
job: best_of_n
input: {path: IN, columns: {reference: answer}}
rewards:
  near: {reward: f1_score}
  short: {reward: length_penalty, max_length: 40, penalty_rate: 0.01}
combine: {near: 1.0, short: 1.0, on_null: null}
output: {path: OUT}
"""
THRESHOLDS = ("--above", "0.4", "--below", "0.3")
NEEDED = dict.fromkeys(("kto", "kto_llama_factory", "kto_ms_swift"), THRESHOLDS)
"""Options that formats cannot do without."""
COLUMNS = {
    "sft": ["messages", "lineage"],
    "dpo": ["prompt", "chosen", "rejected", "lineage"],
    "reward": ["prompt", "chosen", "rejected", "margin", "lineage"],
    "dpo_openrlhf": ["prompt", "chosen", "rejected", "margin", "lineage"],
    "dpo_llama_factory": ["conversations", "chosen", "rejected", "lineage"],
    "dpo_ms_swift": ["messages", "rejected_response", "margin", "lineage"],
    "kto": ["prompt", "completion", "label", "lineage"],
    "kto_llama_factory": ["conversations", "kto_tag", "lineage"],
    "kto_ms_swift": ["messages", "label", "lineage"],
    "listwise": ["prompt", "completions", "scores", "ranks", "lineage"],
    "verl": ["data_source", "prompt", "ability", "reward_model", "extra_info"],
}


def flat_rows() -> list[dict[str, Any]]:
    """The same candidates, one a row, those of a question scattered."""
    rows = [
        {"uid": f"{row['uid']}-{place}", "group": row["uid"], "question": row["question"], "response": text}
        | {"answer": row["answer"], "finish_reason": row["finish_reason"][place]}
        for row in ROWS
        for place, text in enumerate(row["candidates"])
    ]
    return [row for start in range(3) for row in rows[start::3]]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Outputs of one best-of-N job over nested rows, over flat rows, and over nested rows as JSONL."""
    return run_in_shapes(tmp_path_factory.mktemp("outputs"), JOB, ROWS, flat_rows(), group="group")


@pytest.fixture(params=["nested", "flat", "jsonl"])
def output(request: pytest.FixtureRequest, outputs: dict[str, str]) -> str:
    return outputs[request.param]


def load(folder: Path) -> Any:
    from datasets import load_dataset

    return load_dataset(str(folder), split="train", cache_dir=str(folder.parent / "cache"))


def read(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / "data").to_pylist()
    return found


def leaves(value: Any) -> Iterator[Any]:
    """All values at all depths."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from leaves(each)
    else:
        yield value


@pytest.mark.parametrize("to", COLUMNS)
def test_datasets_loads_it_and_nothing_forbidden_is_in_it(
    output: str, to: str, rmbatch: Command, tmp_path: Path
) -> None:
    kind = "jsonl" if output.endswith("jsonl") else "parquet"
    ended = rmbatch("export", output, "--to", to, "--out", "made", "--as", kind, *NEEDED.get(to, ()), "--json")
    assert ended.code == 0, ended.err
    rows = load(tmp_path / "made")
    assert sorted(rows.column_names) == sorted(COLUMNS[to])
    assert len(rows) == json.loads(ended.out)["rows"] > 0
    values = list(leaves(rows.to_list()))
    assert None not in values
    texts = [value for value in values if isinstance(value, str)]
    assert not [text for text in texts if text.startswith("Cut off")]
    assert to == "verl" or not [text for text in texts if text.startswith("The sum is")]


def test_flat_and_nested_rows_give_the_same_pairs(outputs: dict[str, str], rmbatch: Command, tmp_path: Path) -> None:
    found = []
    for name in outputs:
        assert (
            rmbatch("export", outputs[name], "--to", "reward", "--pairs", "all_above_margin", "--out", name).code == 0
        )
        rows = [{key: row[key] for key in ("prompt", "chosen", "rejected", "margin")} for row in read(tmp_path / name)]
        found.append(sorted(rows, key=lambda row: json.dumps(row, sort_keys=True)))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 5 * 3


def test_prompt_that_was_rejected_as_a_whole_gives_nothing_flat_or_nested(rmbatch: Command, tmp_path: Path) -> None:
    nested = [*ROWS[1:3], ROWS[3] | {"candidates": ["No.", "Never.", "No!"], "finish_reason": ["stop"] * 3}]
    flat = [
        row if row["group"] != "q3" else row | {"response": f"No {number}.", "finish_reason": "stop"}
        for number, row in enumerate(flat_rows())
        if row["group"] in ("q1", "q2", "q3")
    ]
    job = JOB.replace("output:", "select: {min_score: 0.4}\noutput:")
    for name, output in run_in_shapes(tmp_path, job, nested, flat, group="group").items():
        for to in ("kto", "listwise", "verl"):
            made = tmp_path / f"{to}_{name}"
            ended = rmbatch("export", output, "--to", to, "--out", str(made), *NEEDED.get(to, ()))
            assert ended.code == 0, ended.err
            asked = {str(row["prompt"][-1]["content"]) for row in read(made)}
            assert asked == {"What is 1 and 1?", "What is 2 and 2?"}, made


def test_what_a_veto_left_out_is_never_chosen(rmbatch: Command, tmp_path: Path) -> None:
    texts = [
        "No.",
        "The sum is 4, so I say to all who ask me.",
        "The sum is 4, as anybody can see who counts on fingers.",
    ]
    asks = {"question": "2 and 2?", "answer": "The sum is 4."}
    nested = [{"uid": "a", "candidates": texts, **asks}]
    flat = [{"uid": str(number), "group": "a", "response": text, **asks} for number, text in enumerate(texts)]
    job = JOB.replace("near: 1.0, short: 1.0", "short: 1.0").replace("output:", "select: {veto: {near: 0.1}}\noutput:")
    for name, output in run_in_shapes(tmp_path, job, nested, flat, group="group").items():
        made = tmp_path / f"dpo_{name}"
        assert rmbatch("export", output, "--to", "dpo", "--by", "short", "--out", str(made)).code == 0
        assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in read(made)] == [
            (texts[1], texts[2])
        ]


def test_dpo_pairs_the_best_with_the_worst_and_says_where_from(
    outputs: dict[str, str], rmbatch: Command, tmp_path: Path
) -> None:
    assert rmbatch("export", outputs["nested"], "--to", "dpo", "--out", "made").code == 0
    row = read(tmp_path / "made")[1]
    assert row["prompt"] == [{"role": "user", "content": "What is 1 and 1?"}]
    assert row["chosen"] == [{"role": "assistant", "content": "It is 2."}]
    assert row["rejected"] == [{"role": "assistant", "content": "Surely 3!"}]
    lineage = row["lineage"]
    file, _, number = lineage["source"].partition("#")
    written = pq.read_table(Path(outputs["nested"]) / file).to_pylist()[int(number)]
    assert (written["uid"], lineage["id"], lineage["candidates"]) == ("q1", "q1", 6)
    assert written["candidates"][lineage["candidate"]] == "It is 2."
    assert written["score.total"][lineage["candidate"]] == lineage["score"]
    assert written["score.total"][lineage["rejected_candidate"]] == lineage["rejected_score"]
    assert lineage["score_name"] == "score.total"
    assert len(lineage["job"]) == 16


def test_sft_takes_what_the_job_kept(outputs: dict[str, str], rmbatch: Command, tmp_path: Path) -> None:
    ended = rmbatch("export", outputs["nested"], "--to", "sft", "--out", "made", "--json")
    told = json.loads(ended.out)
    assert [row["messages"][-1]["content"] for row in read(tmp_path / "made")] == ["a"]  # the reference was chosen
    assert told["prompts_left_out"] == {"kept_not_usable": 6}
    assert told["candidates_left_out"]["is_reference"] == 5


def test_llama_factory_finds_its_dataset_info(outputs: dict[str, str], rmbatch: Command, tmp_path: Path) -> None:
    assert rmbatch("export", outputs["nested"], "--to", "dpo_llama_factory", "--out", "made").code == 0
    entry = json.loads((tmp_path / "made/dataset_info.json").read_text())["made"]
    row = read(tmp_path / "made" / ".")[0]
    assert entry["ranking"] is True
    assert sorted(row) == sorted([*entry["columns"].values(), "lineage"])
    assert row["conversations"] == [{"from": "human", "value": "What is 0 and 0?"}]
    assert row["chosen"] == {"from": "gpt", "value": "It is 0."}
    assert os.listdir(tmp_path / "made" / entry["file_name"]) == ["train-00000.parquet"]


def test_labels_of_kto_are_the_same_in_all_forms(outputs: dict[str, str], rmbatch: Command, tmp_path: Path) -> None:
    for to in ("kto", "kto_llama_factory", "kto_ms_swift"):
        assert rmbatch("export", outputs["nested"], "--to", to, "--out", to, *NEEDED.get(to, ())).code == 0
    rows, theirs, swift = (read(tmp_path / to) for to in ("kto", "kto_llama_factory", "kto_ms_swift"))
    said = [(row["prompt"][-1]["content"], row["completion"][0]["content"], row["label"]) for row in rows]
    assert {label for *_, label in said} == {True, False}
    assert [(*(turn["value"] for turn in row["conversations"]), row["kto_tag"]) for row in theirs] == said
    assert [(*(turn["content"] for turn in row["messages"]), row["label"]) for row in swift] == said
    assert [turn["from"] for turn in theirs[0]["conversations"]] == ["human", "gpt"]
    entry = json.loads((tmp_path / "kto_llama_factory/dataset_info.json").read_text())["kto_llama_factory"]
    assert entry["columns"] == {"messages": "conversations", "kto_tag": "kto_tag"}


def test_verl_reads_prompts_with_their_ground_truth(outputs: dict[str, str], rmbatch: Command, tmp_path: Path) -> None:
    ended = rmbatch("export", outputs["flat"], "--to", "verl", "--out", "made", "--data-source", "sums")
    assert ended.code == 0, ended.err
    rows = read(tmp_path / "made")
    assert [row["extra_info"]["index"] for row in rows] == list(range(6))
    row = next(row for row in rows if row["prompt"][0]["content"] == "What is 1 and 1?")
    assert (row["data_source"], row["reward_model"]) == ("sums", {"style": "rule", "ground_truth": "The sum is 2."})


def test_listwise_ranks_candidates_from_best_to_worst(
    outputs: dict[str, str], rmbatch: Command, tmp_path: Path
) -> None:
    assert rmbatch("export", outputs["nested"], "--to", "listwise", "--out", "made").code == 0
    for row in read(tmp_path / "made"):
        assert len(row["completions"]) == len(row["scores"]) == 3
        assert row["scores"] == sorted(row["scores"], reverse=True)
        assert row["ranks"] == [1 + sorted(set(row["scores"]), reverse=True).index(score) for score in row["scores"]]


def test_card_tells_source_counts_and_what_was_left_out(
    outputs: dict[str, str], rmbatch: Command, tmp_path: Path
) -> None:
    assert rmbatch("export", outputs["nested"], "--to", "kto", "--out", "made", *THRESHOLDS).code == 0
    card = (tmp_path / "made/README.md").read_text()
    for told in (
        "f1_score",
        "score.total",
        "good at or above 0.4",
        "| 5 | is_reference |",
        "| 5 | cut_off |",
        "best_of_n",
    ):
        assert told in card


def test_same_command_again_does_nothing_and_another_is_refused(
    outputs: dict[str, str], rmbatch: Command, tmp_path: Path
) -> None:
    first = rmbatch("export", outputs["nested"], "--to", "dpo", "--out", "made", "--json")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("*")}
    again = rmbatch("export", outputs["nested"], "--to", "dpo", "--out", "made", "--json")
    assert first.out == again.out
    assert "nothing to do" in again.err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("*")} == before
    other = rmbatch("export", outputs["nested"], "--to", "sft", "--out", "made")
    assert "holds another export (other format)" in mistake_of(other)
    assert os.listdir(tmp_path) == ["made"]


def test_two_exports_of_one_output_are_equal_to_the_byte(
    outputs: dict[str, str], rmbatch: Command, tmp_path: Path
) -> None:
    for name in ("a/made", "b/made"):
        assert rmbatch("export", outputs["nested"], "--to", "dpo", "--pairs", "random", "--out", name).code == 0
    a, b = ({p.name: p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in ("a", "b"))
    assert a == b


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_a_disk_that_is_full_is_told_and_nothing_stays(
    outputs: dict[str, str], rmbatch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str
) -> None:
    def full(writer: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"connectors.formats.{file_format}.Writer.finish", full)
    ended = rmbatch("export", outputs["nested"], "--to", "dpo", "--as", file_format, "--out", str(tmp_path / "dpo"))
    assert ended.code == 1
    assert f"{tmp_path}/dpo: no space is left on the disk; free some" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_removed(outputs: dict[str, str], rmbatch: Command, tmp_path: Path) -> None:
    (tmp_path / ".made.partial-dead/data").mkdir(parents=True)
    assert rmbatch("export", outputs["nested"], "--to", "dpo", "--out", "made").code == 0
    assert os.listdir(tmp_path) == ["made"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--to", "dpo_trl"], "there is no export called 'dpo_trl'; "),
        (["--to", "kto"], "kto needs two thresholds, above and below"),
        (["--to", "kto", "--above", "1", "--below", "2"], "above, 1, has to be higher than below, 2"),
        (["--to", "sft", "--above", "1"], "above: 1.0 changes nothing here (this format makes no pairs); leave it out"),
        (["--to", "sft", "--pairs", "adjacent"], "pairs: adjacent changes nothing here"),
        (["--to", "dpo", "--below", "0"], "below: 0.0 changes nothing here (pairs: best_worst)"),
        (["--to", "dpo", "--pairs", "threshold"], "pairs: threshold needs two thresholds"),
        (["--to", "dpo", "--pairs", "best"], "best_worst"),
        (["--to", "dpo", "--min-margin", "9"], "no row to write: 7 prompts no_pair"),
        (["--to", "dpo", "--by", "nea"], "by nea: there is no such score; name one as by: near"),
        (["--to", "dpo", "--as", "csv"], "not as csv"),
        (["--to", "edit"], "no correct.history"),
        (["--to", "dpo", "--out", "nothing://bucket/x"], "cannot open nothing://"),
    ],
)
def test_mistake_is_one_line_and_writes_nothing(
    options: list[str], told: str, outputs: dict[str, str], rmbatch: Command, tmp_path: Path
) -> None:
    ended = rmbatch("export", outputs["nested"], *options, *([] if "--out" in options else ["--out", "made"]))
    assert told in mistake_of(ended)
    assert os.listdir(tmp_path) == []


def test_other_things_are_refused_and_stay(outputs: dict[str, str], rmbatch: Command, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.txt").write_text("a")
    assert "holds something else" in mistake_of(rmbatch("export", outputs["nested"], "--to", "dpo", "--out", "mine"))
    assert "is no output of rmbatch" in mistake_of(rmbatch("export", "mine", "--to", "dpo"))
    inside = f"{outputs['nested']}/data/dpo"
    assert "lies inside the output" in mistake_of(rmbatch("export", outputs["nested"], "--to", "dpo", "--out", inside))
    assert os.listdir(tmp_path / "mine") == ["a.txt"]


def test_corrections_become_pairs_critiques_and_edits(here: None, rmbatch: Command, tmp_path: Path) -> None:
    """Of ten rows five are wrong; four of these are mended, in one or two rounds."""
    rows = [
        {"id": n, "prompt": f"Row {n}: 1 + {n}?", "response": f"It is {n + 1 + n % 2}", "answer": str(n + 1)}
        for n in range(10)
    ]
    write_jsonl(tmp_path / "in/a.jsonl", rows)
    asked: list[int] = []

    def mend(told: Any) -> str:
        number = int(told.prompt.split("Row ")[1].split(":")[0])
        asked.append(number)
        if number == 9 or (number == 7 and asked.count(7) == 1):
            return f"It is {100 + len(asked)}"
        return f"It is {number + 1}"

    with editor_server(mend) as server:
        correct_by_math(tmp_path / "in", tmp_path / "out", server, rounds=2, stop={"patience": 2})
    for to in ("dpo", "sft", "edit", "critique"):
        ended = rmbatch("export", str(tmp_path / "out"), "--to", to, "--out", to)
        assert ended.code == 0, ended.err
    better = {row["lineage"]["id"]: row for row in read(tmp_path / "dpo")}
    assert {key: row["chosen"][0]["content"] for key, row in better.items()} == {
        str(n): f"It is {n + 1}" for n in (1, 3, 5, 7)
    }
    assert better["3"]["rejected"] == [{"role": "assistant", "content": "It is 5"}]
    assert better["3"]["lineage"]["score_name"] == "correct.score"
    assert {row["lineage"]["id"] for row in read(tmp_path / "sft")} == {str(n) for n in range(9)}
    edits = {row["lineage"]["id"]: row for row in read(tmp_path / "edit")}
    assert set(edits) == set(better)
    assert (edits["7"]["response"], edits["7"]["edit"]) == ("It is 9", "It is 8")
    assert edits["7"]["lineage"]["round"] == 2
    assert edits["3"]["critique"]
    assert "edit" not in read(tmp_path / "critique")[0]
    assert None not in leaves([*edits.values(), *better.values()])


def test_every_format_is_listed_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs/exports.md").read_text()
    assert [name for name in FORMATS if f"| `{name}` |" not in page] == []


def test_manifest_without_rows_is_refused(rmbatch: Command, tmp_path: Path) -> None:
    (tmp_path / "out/_rmbatch").mkdir(parents=True)
    (tmp_path / "out/_rmbatch/plan.json").write_text("{}")
    assert "has not finished" in mistake_of(rmbatch("export", "out", "--to", "dpo"))
    (tmp_path / "out/_rmbatch/manifest.json").write_bytes(orjson.dumps({"figures": 1}))
    assert "holds no rows" in mistake_of(rmbatch("export", "out", "--to", "dpo"))


def test_generated_candidates_without_scores_are_refused(rmbatch: Command, here: None, tmp_path: Path) -> None:
    """A job that only generates has nothing to choose by."""
    details = pa.struct([("error", pa.string()), ("finish_reason", pa.string())])
    table = pa.table({"prompt": ["a"], "responses": [["b"]], "generation": pa.array([[{}]], pa.list_(details))})
    (tmp_path / "out/data").mkdir(parents=True)
    pq.write_table(table, tmp_path / "out/data/a.parquet")
    manifest = {"job": {"job": "generate"}, "files": [{"path": "data/a.parquet", "part": "data"}]}
    (tmp_path / "out/_rmbatch").mkdir()
    (tmp_path / "out/_rmbatch/manifest.json").write_bytes(orjson.dumps(manifest))
    assert "the rows have no scores" in mistake_of(rmbatch("export", "out", "--to", "dpo"))


def test_flat_rows_of_which_none_was_kept_are_refused(rmbatch: Command, here: None, tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a", "a"], "response": ["b", "c"], "score.x": [0.0, 1.0], "key": ["k", "k"]})
    (tmp_path / "out/rejected").mkdir(parents=True)
    rank = pa.array([None, None], pa.int32())
    pq.write_table(table.append_column("select.rank", rank), tmp_path / "out/rejected/a.parquet")
    job = {"job": "select", "input": {"group": {"by": "key"}}}
    manifest = {"job": job, "files": [{"path": "rejected/a.parquet", "part": "rejected"}]}
    (tmp_path / "out/_rmbatch").mkdir()
    (tmp_path / "out/_rmbatch/manifest.json").write_bytes(orjson.dumps(manifest))
    assert "the job kept no row" in mistake_of(rmbatch("export", "out", "--to", "dpo"))


def test_output_in_a_bucket_gives_the_same_export(
    outputs: dict[str, str], s3: S3Server, rmbatch: Command, tmp_path: Path
) -> None:
    place = Folder.open(f"s3://bucket/{tmp_path.name}", StorageOptions(endpoint=s3.endpoint))
    for file in Path(outputs["flat"]).rglob("*"):
        if file.is_file():
            place.write(str(file.relative_to(outputs["flat"])), file.read_bytes())
    there = rmbatch("export", place.url, "--to", "dpo", "--out", "there", "--endpoint", s3.endpoint)
    assert there.code == 0, there.err
    assert rmbatch("export", outputs["flat"], "--to", "dpo", "--out", "here").code == 0
    assert read(tmp_path / "there") == read(tmp_path / "here")
    assert rmbatch("export", place.url, "--to", "dpo", "--endpoint", s3.endpoint).code == 0
    beside = Folder.open(f"{place.url}.dpo", place.options)
    assert beside.read("data/train-00000.parquet") == (tmp_path / "here/data/train-00000.parquet").read_bytes()


def test_export_in_a_bucket_is_begun_anew_after_a_crash(
    outputs: dict[str, str], s3: S3Server, rmbatch: Command, tmp_path: Path
) -> None:
    there = Folder.open(f"s3://bucket/{tmp_path.name}/made", StorageOptions(endpoint=s3.endpoint))
    command = ("export", outputs["flat"], "--to", "dpo", "--endpoint", s3.endpoint)
    assert rmbatch(*command, "--out", there.url).code == 0
    files = {entry.name: there.read(entry.name) for entry in there.entries()}
    assert {"README.md", "export.json", "data/train-00000.parquet"} == {*files}
    assert "nothing to do" in rmbatch(*command, "--out", there.url).err
    assert "another export (other format)" in mistake_of(rmbatch(*command, "--to", "sft", "--out", there.url))
    made_from = orjson.dumps({"made_from": orjson.loads(files["export.json"])["made_from"]})
    there.delete(["export.json"])
    assert "something else than an export" in mistake_of(rmbatch(*command, "--out", there.url))
    there.write("export.begun.json", made_from)
    there.write("data/train-00007.parquet", b"of the killed one")
    assert rmbatch(*command, "--out", there.url).code == 0
    assert {entry.name: there.read(entry.name) for entry in there.entries()} == files
