"""Jobs over published datasets: ``input.as`` and ``input.split``, from every format, in both shapes, anywhere."""

import gzip
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from connectors.errors import JobError, UserError
from jobs.config.identity import differences, job_identity
from jobs.config.job_types import job_type, parse_job
from jobs.show.display import Display
from rmbatch.adapters.base import adapt
from rmbatch.rows.messages import MESSAGES
from tests.jobs.commands import Command
from tests.jobs.running import by, make_plan, rows, run
from tests.rmbatch.adapters.published import PUBLISHED, STARS, published, said
from tests.servers.hub import HubServer
from tests.servers.s3 import REPOSITORY

LENGTH = {"length": {"reward": "length_penalty", "min_length": 1, "max_length": 3, "penalty_rate": 1.0}}


def helpsteer_rows(number: int = 60) -> list[dict[str, Any]]:
    """Two responses to each of many prompts, not next to each other."""
    texts = ("abc", "abcd")
    return [
        {"prompt": f"q {place % (number // 2)}", "response": texts[place >= number // 2], **STARS, "n": place}
        for place in range(number)
    ]


def write_jsonl(path: Path, found: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return str(path)


def write_parquet(path: Path, found: list[dict[str, Any]]) -> str:
    pq.write_table(pa.Table.from_pylist(found), path, row_group_size=7)
    return str(path)


Write = Callable[[Path, list[dict[str, Any]]], str]
FORMATS = pytest.mark.parametrize(
    ("write", "name"), [(write_jsonl, "in.jsonl"), (write_parquet, "in.parquet")], ids=["jsonl", "parquet"]
)


def job(path: str, output: Path, *, run: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    found = {
        "job": "score",
        "input": {"path": path, **more.pop("input", {})},
        "rewards": LENGTH,
        "output": {"path": str(output)},
        "run": run or {},
    }
    return {**found, **more}


@FORMATS
def test_flat_rows_are_scored_in_standard_columns(anywhere: str, write: Write, name: str, tmp_path: Path) -> None:
    found = [*helpsteer_rows(), {**helpsteer_rows()[0], "response": None, "n": 60}]
    path = write(tmp_path / name, found)
    run(job(path, tmp_path / "out", input={"as": "helpsteer2"}, run={"on": anywhere}))
    written = by("n", rows(tmp_path / "out"))
    assert [row["prompt"] for row in written] == [said(row["prompt"]) for row in found]
    assert [row["label"] for row in written] == [3.0] * 61
    assert [row["score.length"] for row in written] == [0.0] * 30 + [-1.0] * 30 + [None]
    assert written[-1]["error.length"] == "missing_response: response is null"
    assert list(written[0])[:5] == ["prompt", "prompt_id", "response", "label", "helpfulness"]


@FORMATS
def test_nested_rows_are_scored_in_standard_columns(write: Write, name: str, tmp_path: Path, here: None) -> None:
    found = [{**row, "n": place} for place, row in enumerate(PUBLISHED["helpsteer3"])]
    path = write(tmp_path / name, found)
    run(job(path, tmp_path / "out", input={"as": "helpsteer3"}))
    written = by("n", rows(tmp_path / "out"))
    assert [row["score.length"] for row in written] == [[0.0, 0.0], [0.0, None], [0.0, 0.0]]
    assert [row["preference"] for row in written] == [2, 0, -1]


def test_two_columns_of_a_pair_are_two_candidates(tmp_path: Path, here: None) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", PUBLISHED["hh"])
    best = {"job": "best_of_n", "combine": {"length": 1.0, "on_null": None}, "select": {"keep": 1}}
    run(job(path, tmp_path / "out", input={"as": "hh"}, **best))
    kept, rejected = rows(tmp_path / "out"), rows(tmp_path / "out", "rejected")
    assert {row["chosen"]: row["score.length"] for row in kept} == {"hello": [-2.0, -4.0], "two\n\nlines": [-7.0, -1.0]}
    assert {row["chosen"]: row["select.response"] for row in kept} == {"hello": "hello", "two\n\nlines": ""}
    assert len(rejected) == 4  # without a pair there is nothing to select


@FORMATS
def test_scattered_rows_of_one_prompt_are_grouped(anywhere: str, write: Write, name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, helpsteer_rows())
    given = {"as": "helpsteer2", "group": {"by": "prompt_id"}, "split": {"part": "train", "validation": 0.3}}
    best = {"job": "best_of_n", "combine": {"length": 1.0}, "select": {"keep": 1, "by": "length"}}
    run(job(path, tmp_path / "out", input=given, run={"on": anywhere}, **best))
    kept, rejected = rows(tmp_path / "out"), rows(tmp_path / "out", "rejected")
    assert {row["response"] for row in kept} == {"abc"}
    assert {row["split.part"] for row in kept} == {"train"}
    assert len(kept) + len(rejected) == 60
    left = [row for row in rejected if row["split.part"] == "validation"]
    assert left
    assert len(left) + 2 * len(kept) == 60
    assert all(row["score.length"] is None and row["select.rank"] is None for row in left)


def test_parts_of_a_split_share_no_prompt(tmp_path: Path, here: None) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", helpsteer_rows(200))
    prompts = {}
    for part in ("train", "validation"):
        split = {"part": part, "validation": 0.2, "seed": 7}
        summary = run(job(path, tmp_path / part, input={"as": "helpsteer2", "split": split}))
        prompts[part] = [row["prompt"][0]["content"] for row in rows(tmp_path / part)]
        assert summary.tally["part.train"] + summary.tally["part.validation"] == 200
        assert summary.tally["scored.length"] == len(prompts[part])
    assert not set(prompts["train"]) & set(prompts["validation"])
    assert sorted([*prompts["train"], *prompts["validation"]]) == sorted(row["prompt"] for row in helpsteer_rows(200))


def test_split_without_part_only_marks_rows(tmp_path: Path, here: None) -> None:
    found = [{"question": f"q {place}", "response": "abc"} for place in range(40)]
    path = write_jsonl(tmp_path / "in.jsonl", found)
    run(job(path, tmp_path / "out", input={"split": {"validation": 0.5}}))
    written = rows(tmp_path / "out")
    assert len(written) == 40
    assert {row["split.part"] for row in written} == {"train", "validation"}


def test_rows_that_nobody_asked_for_count_in_no_share_of_nulls(tmp_path: Path, here: None) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", helpsteer_rows())
    split = {"part": "train", "validation": 0.5}
    given = job(path, tmp_path / "out", input={"as": "helpsteer2", "split": split}, run={"max_null_share": 0.0})
    summary = run({**given, "output": {**given["output"], "rejected": "drop", "columns": ["n"]}})
    assert list(rows(tmp_path / "out")[0]) == ["n", "split.part", "score.length", "error.length"]
    assert summary.rows["rejected"] > 0
    assert rows(tmp_path / "out", "rejected") == []


def test_stopped_job_goes_on_with_the_same_columns(tmp_path: Path, here: None) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", helpsteer_rows())
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\n"
        "def picky(response: str) -> float:\n"
        f"    if response == 'abcd' and not Path({str(tmp_path / 'go')!r}).exists(): raise ValueError('not yet')\n"
        "    return 1.0\n"
    )
    given = job(path, tmp_path / "out", input={"as": "helpsteer2"}, run={"block_rows": 8})
    given["rewards"] = {"picky": {"reward": f"{tmp_path}/mine.py:picky"}}
    with pytest.raises(JobError, match="not yet"):
        run(given)
    (tmp_path / "go").touch()
    assert run(given).rows["data"] == 60
    assert [row["label"] for row in rows(tmp_path / "out")] == [3.0] * 60


def test_plan_shows_adapted_rows_of_the_part(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", helpsteer_rows())
    split = {"part": "validation", "validation": 0.5}
    plan = make_plan(parse_job(job(path, tmp_path / "out", input={"as": "helpsteer2", "split": split}), "test"))
    assert plan.roles == {"prompt": "prompt", "response": "response"}  # and the label is no reference
    assert "split.part" in plan.writes
    assert (plan.adapter, plan.split) == (
        "helpsteer2",
        "0.5 of the prompts for validation; works on the validation part",
    )
    assert plan.first_rows
    assert all(isinstance(row["prompt"], list) for row in plan.first_rows)


def test_own_adapter_of_a_file(tmp_path: Path, here: None) -> None:
    (tmp_path / "mine.py").write_text(
        "import pyarrow as pa\n"
        "def tickets(table):\n"
        "    return pa.table({'prompt': table['subject'], 'response': table['reply'], 'n': table['n']})\n"
    )
    path = write_jsonl(tmp_path / "in.jsonl", [{"subject": "s", "reply": "abcd", "n": 1}, {"reply": None, "n": 2}])
    given = job(path, tmp_path / "out", input={"as": f"{tmp_path}/mine.py:tickets"})
    run(given)
    assert [row["score.length"] for row in by("n", rows(tmp_path / "out"))] == [-1.0, None]
    identity = job_identity(parse_job(given, "test"))
    assert list(identity["reward_files"]) == [f"{tmp_path}/mine.py"]


def test_adapter_and_split_are_part_of_the_identity() -> None:
    def identity(**given: Any) -> dict[str, Any]:
        return job_identity(parse_job(job("in.jsonl", Path("out"), input=given), "test"))

    assert not {"as", "split", "adapter"} & set(identity()["input"])
    assert differences(identity(), identity(**{"as": "hh"})) == ["input.as: (absent) -> 'hh'"]
    assert differences(identity(split={}), identity(split={"seed": 1})) == ["input.split.seed: 0 -> 1"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"as": "helpster2"}, "no adapter 'helpster2'; did you mean 'helpsteer2'"),
        (
            {"as": "hh"},
            r"reads chosen, rejected, and the input has no 'chosen', 'rejected' .*these columns fit helpsteer2",
        ),
        ({"as": "helpsteer2", "columns": {"prompt": "q"}}, "columns: prompt: no column 'q'; "),
        ({"as": "helpsteer2", "group": {"by": "prompt"}}, r"input.group.by: 'prompt' holds .*a key is a plain value"),
        (
            {"as": "helpsteer2", "group": {"by": "prompt", "rows": "adjacent"}},
            "rows are adjacent by a column of the files, and helpsteer2 makes 'prompt'; write rows: scattered",
        ),
        ({"as": "helpsteer2", "split": {"by": "prompts"}}, "split: no column 'prompts'; did you mean 'prompt'"),
        ({"split": {"part": "test"}}, "input.split.part: got 'test'; write 'train' or 'validation'"),
        ({"split": {"validation": 1}}, "input.split.validation: got 1; write less than 1"),
        ({"split": {"share": 1}}, "input.split.share: unknown key"),
        ({"az": "hh"}, "input.az: unknown key; did you mean 'as'?"),
    ],
)
@FORMATS
def test_mistake_is_one_line_before_any_work(
    here: None, tmp_path: Path, write: Write, name: str, given: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / name, helpsteer_rows())
    with pytest.raises(UserError, match=message) as error:
        run(job(path, tmp_path / "out", input=given))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "_rmbatch" / "plan.json").exists()


def test_column_that_only_late_rows_have_is_found(tmp_path: Path, here: None) -> None:
    """The first 1,000 rows of JSONL decide nothing that the scan may decide otherwise."""
    early = [{"prompt": "q", "response": "abc"}] * 1100
    path = write_jsonl(tmp_path / "in.jsonl", [*early, *helpsteer_rows(2)])
    summary = run(job(path, tmp_path / "out", input={"as": "helpsteer2"}))
    assert summary.rows["data"] == 1102


def test_odd_values_and_broken_lines_stay_accounted_for(tmp_path: Path, here: None) -> None:
    odd = [
        {**row, "n": 200 + place}
        for place, row in enumerate(
            [{**helpsteer_rows()[0], "helpfulness": "2"}, {**helpsteer_rows()[0], "response": ["ab", "c"]}]
        )
    ]
    path = write_jsonl(tmp_path / "in.jsonl", [*({**row, "n": n} for n, row in enumerate(helpsteer_rows(200))), *odd])
    with Path(path).open("a") as file:
        file.write("no row\n")
    summary = run(job(path, tmp_path / "out", input={"as": "helpsteer2"}))
    assert dict(summary.rows) == {"data": 202, "rejected": 0, "dead_letters": 1}
    written = by("n", rows(tmp_path / "out"))
    assert [row["label"] for row in written[-2:]] == [2.0, 3.0]
    assert [row["response"] for row in written[-2:]] == ["abc", "ab\nc"]
    assert not [name for name in written[0] if name.startswith("odd.")]


def test_changed_file_of_an_adapter_is_a_warning(tmp_path: Path, here: None) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("def same(table): return table\n")
    path = write_jsonl(tmp_path / "in.jsonl", helpsteer_rows())
    given = job(path, tmp_path / "out", input={"as": f"{mine}:same"})
    run(given)
    mine.write_text("def same(table): return table  # as it is\n")
    said_so = io.StringIO()
    run(given, said_so)
    assert f"warning: {mine} has changed" in said_so.getvalue().replace("\n", "")


def test_adapter_that_breaks_its_promise_stops_the_job(tmp_path: Path, here: None) -> None:
    (tmp_path / "mine.py").write_text("def half(table): return table.slice(0, table.num_rows // 2)\n")
    path = write_jsonl(tmp_path / "in.jsonl", helpsteer_rows())
    with pytest.raises(JobError, match=r"half gave \d+ rows for \d+; give each row once"):
        run(job(path, tmp_path / "out", input={"as": f"{tmp_path}/mine.py:half"}))


def test_command_line_names_adapter_and_part(rmbatch: Command, tmp_path: Path, here: None) -> None:
    write_jsonl(tmp_path / "in.jsonl", helpsteer_rows())
    Path("job.yaml").write_text(json.dumps(job("in.jsonl", Path("out"))))
    ended = rmbatch("run", "job.yaml", "input.as=helpsteer2", "input.split.part=train", "input.split.validation=0.5")
    assert ended.code == 0, ended.err
    assert "split" in ended.out
    assert rmbatch("run", "job.yaml", "input.as=helpsteer2").code == 2


def test_dataset_is_read_from_the_hub(tmp_path: Path) -> None:
    """By the real client of Hugging Face, from a hub on loopback."""
    pytest.importorskip("huggingface_hub")
    hub = tmp_path / "hub"
    (hub / "data").mkdir(parents=True)
    (hub / "README.md").write_text("a card")
    lines = "".join(json.dumps(row) + "\n" for row in PUBLISHED["hh"])
    (hub / "train.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pq.write_table(published("skywork_preference"), hub / "data" / "train-00000-of-00001.parquet")
    with HubServer(hub) as server:
        for path, name in (("train.jsonl.gz", "hh"), ("data/train-*.parquet", "skywork_preference")):
            given = job(f"hf://datasets/org/set/{path}", tmp_path / name, input={"as": name})
            (tmp_path / "job.yaml").write_text(json.dumps(given))
            ended = subprocess.run(
                [sys.executable, "-m", "jobs", "run", str(tmp_path / "job.yaml"), "run.on=here"],
                cwd=REPOSITORY,
                env={**os.environ, "HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home")},
                capture_output=True,
                text=True,
            )
            assert ended.returncode == 0, ended.stderr
            expected = adapt(published(name), name).to_pylist()
            assert [{key: row[key] for key in expected[0]} for row in rows(tmp_path / name)] == expected


def test_principles_are_looked_for_in_one_part(tmp_path: Path, here: None) -> None:
    found = [
        {"chosen": f"\n\nHuman: q {place}\n\nAssistant: a", "rejected": f"\n\nHuman: q {place}\n\nAssistant: b"}
        for place in range(60)
    ]
    path = write_jsonl(tmp_path / "in.jsonl", found)
    given = {
        "job": "principles",
        "input": {"path": path, "as": "hh", "split": {"part": "train", "validation": 0.5}},
        "about": "Whether it helps.",
        "judge": {"endpoint": "http://host:8000", "model": "m"},
        "output": {"path": str(tmp_path / "out")},
    }
    said_so = io.StringIO()
    job_type("principles")(parse_job(given, "test"), Display(Console(file=said_so))).check()
    usable, read = map(int, re.findall(r"(\d+) of (\d+) rows can be used", said_so.getvalue())[0])
    assert usable == read
    assert 10 < read < 50


def test_real_mistakes_are_read(shared_data: Path, tmp_path: Path, here: None) -> None:
    """BIG-Bench-Mistake: the first wrong step, by the published index, through a job."""
    path = shared_data / "big_bench_mistake" / "multistep_arithmetic.jsonl"
    original = [json.loads(line) for line in path.read_text().splitlines()]
    given = job(str(path), tmp_path / "out", input={"as": "bigbench_mistake"})
    given["rewards"] = {"steps": {"reward": "step_count"}}
    given["input"]["columns"] = {"response": "steps"}
    run(given)
    found = {(row["prompt"][0]["content"], tuple(row["steps"])): row for row in rows(tmp_path / "out")}
    assert len(original) == 300
    for row in original:
        mine = found[row["input"], tuple(row["steps"])]
        assert mine["error_steps"] == ([] if row["mistake_index"] is None else [row["mistake_index"]])
        assert mine["reference"] == row["target"]


def test_real_preferences_by_an_own_function(shared_data: Path, tmp_path: Path, here: None) -> None:
    """open-instruct's completions of several models, which no adapter of ours knows."""
    (tmp_path / "mine.py").write_text(
        "def renamed(table):\n"
        "    named = {'raw_text': 'prompt', 'completions': 'responses', 'aspect': 'subset'}\n"
        "    return table.select(['id', *named]).rename_columns(named)\n"
    )
    path = shared_data / "open_instruct" / "preferences_helpfulness.jsonl"
    original = {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
    run(job(str(path), tmp_path / "out", input={"as": f"{tmp_path}/mine.py:renamed"}))
    written = rows(tmp_path / "out")
    assert len(written) == 2
    for row in written:
        assert row["responses"] == original[row["id"]]["completions"]
        assert row["subset"] == "helpfulness"
        assert len(row["score.length"]) == 4


def test_job_and_notebook_adapt_alike(tmp_path: Path, here: None) -> None:
    for name in ("ultrafeedback", "tulu3_preference", "sharegpt"):
        table = published(name)
        pq.write_table(table, tmp_path / f"{name}.parquet")
        run(job(str(tmp_path / f"{name}.parquet"), tmp_path / name, input={"as": name}))
        adapted = adapt(table, name).to_pylist()
        written = [{key: row[key] for key in adapted[0]} for row in rows(tmp_path / name)]
        assert written == adapted
    assert adapt(table, name).schema.field("prompt").type == MESSAGES
