"""What holds for every job, on a real local Ray: no row lost, doubled or changed, in whatever shape and store."""

import datetime
import decimal
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rmbatch
from connectors.storage import Folder, StorageOptions
from tests.jobs.running import by, rows, run

pytestmark = pytest.mark.usefixtures("anywhere")

REWARDS = {
    "math": {"reward": "math_verify"},
    "f1": {"reward": "f1_score"},
    "length": {"reward": "length_penalty", "max_length": 30, "penalty_rate": 0.001},
    "loops": {"reward": "ngram_repetition_penalty", "n": 2},
    "format": {"reward": "reasoning_format"},
    "exact": {"reward": "accuracy"},
}
COLUMNS = {"id": "uid", "prompt": "messages", "responses": "candidates", "reference": "answer"}
FLAT = {"prompt": "messages", "response": "candidate", "reference": "answer"}


def prompts(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Nested rows with everything that is awkward: no candidates, a null list, null texts, null references."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        answers = [None, "", rf"\boxed{{{number}}}", f"it is {number + 1}", "a b a b a b", "<think>x</think> 3" * 4]
        candidates: list[str | None] | None = chance.choices(answers, k=chance.randint(0, 6))
        if number % 17 == 3:
            candidates = None
        made.append({
            "uid": f"p{number:05}",
            "messages": [{"role": "user", "content": f"what is {number}?"}],
            "candidates": candidates,
            "answer": None if number % 11 == 5 else str(number),
            "big": 2**53 + number,
        })  # fmt: skip
    return made


def flat(nested: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"uid": row["uid"], "place": place, "messages": row["messages"], "candidate": text, "answer": row["answer"]}
        for row in nested
        for place, text in enumerate(row["candidates"] or [])
    ]


def write_jsonl(path: Path, found: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def write_parquet(path: Path, found: list[dict[str, Any]], row_group_size: int = 50) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(found), path, row_group_size=row_group_size)
    return path


def job(kind: str, path: object, target: object, columns: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    made = {
        "job": kind,
        "input": {"path": str(path), "columns": columns or COLUMNS},
        "rewards": REWARDS,
        "output": {"path": str(target)},
        "run": {"block_rows": 64},
    }
    if kind == "best_of_n":
        made |= {"combine": {"math": 1.0, "length": 1.0, "f1": 0.3}, "select": {"keep": 2, "min_score": 0.1, "seed": 5}}
    for key, value in more.items():
        made[key] = {**made[key], **value} if isinstance(made.get(key), dict) else value
    return made


def test_evaluate_batch_and_job_agree_to_the_bit(tmp_path: Path):
    nested = prompts(150)
    run(job("score", write_jsonl(tmp_path / "in.jsonl", nested), tmp_path / "out"))
    scored = by("uid", rows(tmp_path / "out"))
    assert [row["uid"] for row in scored] == [row["uid"] for row in nested]
    for name, config in REWARDS.items():
        knobs = {key: value for key, value in config.items() if key != "reward"}
        reward = rmbatch.reward(config["reward"], **knobs)
        samples = [{"responses": row["candidates"] or [], "reference": row["answer"]} for row in nested]
        batch = reward.evaluate_batch(samples)
        assert batch[:20] == [reward.evaluate(sample) for sample in samples[:20]]
        for row, results in zip(scored, batch, strict=True):
            assert (row[f"score.{name}"] or []) == [result.score for result in results]
            assert (row[f"error.{name}"] or []) == [result.error for result in results]


def kept_texts(found: list[dict[str, Any]]) -> Counter[tuple[str, str, int]]:
    """Prompt, text and rank of everything kept, from rows of either shape."""
    kept: Counter[tuple[str, str, int]] = Counter()
    for row in found:
        if "candidate" in row:
            kept[row["uid"], row["candidate"], row["select.rank"]] += 1
        else:
            for text, rank in zip(row["candidates"], row["select.rank"], strict=True):
                if rank is not None:
                    kept[row["uid"], text, rank] += 1
    return kept


def test_nested_and_flat_rows_keep_same_responses(tmp_path: Path):
    nested = prompts(300, seed=1)
    run(job("best_of_n", write_jsonl(tmp_path / "nested.jsonl", nested), tmp_path / "nested"))
    expected = kept_texts(rows(tmp_path / "nested"))
    assert expected

    adjacent = flat(nested)
    write_parquet(tmp_path / "adjacent" / "a.parquet", adjacent, row_group_size=7)
    group = {"by": "uid", "rows": "adjacent"}
    run(job("best_of_n", tmp_path / "adjacent", tmp_path / "out1", FLAT, input={"group": group}, run={"unit_mb": 1}))
    assert kept_texts(rows(tmp_path / "out1")) == expected

    scattered = random.Random(2).sample(adjacent, len(adjacent))
    for index in range(3):
        write_jsonl(tmp_path / "scattered" / f"{index}.jsonl", scattered[index::3])
    run(job("best_of_n", tmp_path / "scattered", tmp_path / "out2", FLAT, input={"group": {"by": "uid"}}))
    assert kept_texts(rows(tmp_path / "out2")) == expected
    places = [(row["uid"], row["place"]) for part in ("data", "rejected") for row in rows(tmp_path / "out2", part)]
    assert sorted(places) == sorted((row["uid"], row["place"]) for row in adjacent)


def test_scattered_groups_declared_adjacent_are_refused(tmp_path: Path):
    found = flat(prompts(40, seed=1))
    path = write_jsonl(tmp_path / "in.jsonl", random.Random(2).sample(found, len(found)))
    with pytest.raises(Exception, match="not adjacent"):
        run(job("best_of_n", path, tmp_path / "out", FLAT, input={"group": {"by": "uid", "rows": "adjacent"}}))


@pytest.mark.parametrize("kind", ["score", "best_of_n"])
@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_every_row_is_written_rejected_or_dead(tmp_path: Path, kind: str, format: str):
    nested = prompts(200, seed=3)
    path = write_jsonl(tmp_path / "in.jsonl", nested)
    broken = [b"{broken\n", b'{"uid": 1, "uid": 2}\n', b"[]\n", b"\xff\xfe\xfd\n"]
    lines = path.read_bytes().splitlines(keepends=True)
    for index, line in enumerate(broken):
        lines.insert(index * 40, line)
    path.write_bytes(b"".join(lines))
    summary = run(job(kind, path, tmp_path / "out", output={"format": format}))
    data, rejected = rows(tmp_path / "out"), rows(tmp_path / "out", "rejected")
    dead = rows(tmp_path / "out", "dead_letters")
    assert summary.rows == {"data": len(data), "rejected": len(rejected), "dead_letters": len(dead)}
    assert sorted(row["uid"] for row in data + rejected) == [row["uid"] for row in nested]
    assert sorted((row["line"], row["raw"]) for row in dead) == [(1 + 40 * i, b.strip()) for i, b in enumerate(broken)]
    originals = {row["uid"]: row for row in nested}
    for row in data + rejected:
        assert {key: row[key] for key in originals[row["uid"]]} == originals[row["uid"]]


def any_table() -> pa.Table:
    """Every type that Parquet holds, with nulls and the values at the ends."""
    instant = datetime.datetime(2026, 11, 23, 1, 2, 3, 456789)
    columns: dict[str, pa.Array] = {
        "response": pa.array(["a", None, "", "é\u202e\u0000"]),
        "i64": pa.array([2**63 - 1, -(2**63), None, 2**53 + 1], pa.int64()),
        "u64": pa.array([2**64 - 1, 0, None, 1], pa.uint64()),
        "i8": pa.array([-128, 127, None, 0], pa.int8()),
        "f64": pa.array([float("nan"), -0.0, None, 5e-324]),
        "f32": pa.array(np.array([1.1, np.inf, -np.inf, 3e-45], np.float32)),
        "f16": pa.array(np.array([1.5, 0, -2, 3], np.float16)),
        "flag": pa.array([True, None, False, True]),
        "bytes": pa.array([b"\x00\xff", None, b"", b"x"], pa.binary()),
        "fixed": pa.array([b"abcd", None, b"\x00" * 4, b"wxyz"], pa.binary(4)),
        "big_text": pa.array(["x", None, "y", ""], pa.large_string()),
        "day": pa.array([datetime.date(1, 1, 1), None, datetime.date(9999, 12, 31), datetime.date(1970, 1, 1)]),
        "us": pa.array([instant, None, instant, instant], pa.timestamp("us", "Europe/Berlin")),
        "ns": pa.array([1, None, -1, 2**62], pa.timestamp("ns")),
        "time": pa.array([1, None, 2, 3], pa.time64("ns")),
        "span": pa.array([1, None, -1, 2], pa.duration("ms")),
        "dec": pa.array(
            [decimal.Decimal("1.10"), None, decimal.Decimal("-0.01"), decimal.Decimal(0)], pa.decimal128(30, 2)
        ),
        "word": pa.array(["u", None, "v", "u"]).dictionary_encode(),
        "nothing": pa.nulls(4),
        "messages": pa.array(
            [[{"role": "user", "content": None}], None, [], [None]],
            pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
        ),
        "deep": pa.array([{"a": [{"b": 2**60}]}, None, {"a": None}, {"a": []}]),
        "map": pa.array([[("k", 1)], None, [], [("l", None)]], pa.map_(pa.string(), pa.int64())),
        "vector": pa.array([[1.0, 2.0], None, [3.0, None], [5.0, 6.0]], pa.list_(pa.float32(), 2)),
        "a.dotted.name": pa.array([1, 2, 3, None]),
        "": pa.array(["no", "name", None, ""]),
    }
    return pa.table(columns)


@pytest.mark.parametrize("row_group_size", [4, 1])
def test_any_table_comes_out_unchanged(tmp_path: Path, row_group_size: int):
    table = any_table()
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "a.parquet", row_group_size=row_group_size)
    pq.write_table(table.slice(1, 2), tmp_path / "in" / "b.parquet", compression="snappy")
    expected = pq.ParquetFile(tmp_path / "in" / "a.parquet").read()
    config = job("score", tmp_path / "in", tmp_path / "out", {"response": "response"})
    config["rewards"] = {"length": {"reward": "length_penalty"}}
    run(config)
    files = sorted((tmp_path / "out" / "data").iterdir())
    written = pa.concat_tables([pq.ParquetFile(file).read() for file in files])
    order = pa.array(_places(expected, written))
    assert written.schema.names == [*expected.schema.names, "score.length", "error.length"]
    written = written.select(expected.schema.names).take(order)
    assert written.schema.equals(expected.schema)
    for name in expected.schema.names:
        assert repr(written[name].to_pylist()) == repr(expected[name].to_pylist()), name


def _places(expected: pa.Table, written: pa.Table) -> list[int]:
    """Where each expected row stands in what was written."""
    texts = written["response"].to_pylist()
    return [texts.index(text) for text in expected["response"].to_pylist()]


def test_job_on_s3_gives_same_dataset(tmp_path: Path, s3):
    nested = prompts(200, seed=4)
    local = write_parquet(tmp_path / "in" / "a.parquet", nested)
    run(job("best_of_n", local, tmp_path / "out"))
    options = StorageOptions(endpoint=s3.endpoint)
    prefix = f"s3://bucket/{tmp_path.name}"
    Folder.open(prefix, options).write("in/a.parquet", local.read_bytes())
    storage = {"storage": {"endpoint": s3.endpoint}}
    summary = run(job("best_of_n", f"{prefix}/in/*.parquet", f"{prefix}/out", input=storage))
    for part in ("data", "rejected"):
        expected = by("uid", rows(tmp_path / "out", part))
        assert by("uid", rows(f"{prefix}/out", part, options)) == expected
        assert summary.rows[part] == len(expected)


def test_result_is_one_line_of_sql_away(tmp_path: Path):
    run(job("best_of_n", write_jsonl(tmp_path / "in.jsonl", prompts(50)), tmp_path / "out"))
    kept = duckdb.sql(f"""SELECT uid, "select.response" FROM '{tmp_path}/out/data/*.parquet'""").fetchall()
    assert sorted(uid for uid, _ in kept) == sorted(row["uid"] for row in rows(tmp_path / "out"))


def test_output_is_input_of_next_job(tmp_path: Path):
    run(job("best_of_n", write_jsonl(tmp_path / "in.jsonl", prompts(60)), tmp_path / "best"))
    config = job("score", tmp_path / "best", tmp_path / "again", {"response": "select.response", "reference": "answer"})
    config["rewards"] = {"again": {"reward": "accuracy"}}
    summary = run(config)
    assert summary.rows["data"] == len(rows(tmp_path / "best"))


THREADS = """
import polars, pyarrow as pa

def threads(response):
    return pa.array([float(polars.thread_pool_size())] * len(response))
"""


def test_task_takes_only_its_share_of_cores(tmp_path: Path):
    (tmp_path / "mine.py").write_text(THREADS)
    path = write_jsonl(tmp_path / "in.jsonl", [{"response": "a"}] * 3)
    config = job("score", path, tmp_path / "out", {"response": "response"})
    config["rewards"] = {"threads": f"{tmp_path}/mine.py:threads", "format": "reasoning_format"}
    run(config)
    assert [row["score.threads"] for row in rows(tmp_path / "out")] == [1.0] * 3
