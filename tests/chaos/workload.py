"""What the chaos jobs work on, and where: rows, input files, job files, places, and what a finished output must be.

The rows have what resuming could get wrong: units of several output files, null and empty candidates, scattered groups,
malformed lines. Two inputs of the same kind hold the same rows in the same files, wherever they stand.

    place = LocalPlace(tmp_path)
    case = Case("best_of_n", "jsonl")
    case.write_input(place)
    run(case.job(place, "out"))
    rows = check_finished(place, "out")
"""

import base64
import gzip
import io
import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from tests.servers.s3 import S3Server

REWARDS = Path(__file__).with_name("rewards.py")
CANDIDATES = 4
FILES = (16, 16, 16, 160, 16, 16, 160, 16)
"""Prompts in each input file; the large ones are one unit each, of several output files."""
SMALL_FILES = (10, 60, 10)
KINDS = ("score", "best_of_n", "scattered")
Rows = dict[str, Counter[str]]
"""The rows of each part, as text that shows every bit, and how often each occurs."""


class Place(Protocol):
    """A folder that tests look into past the storage layer that they test."""

    url: str
    storage: dict[str, Any]
    """For the job file."""

    def names(self, below: str) -> list[str]: ...
    def read(self, name: str) -> bytes: ...
    def write(self, name: str, data: bytes) -> None: ...


class LocalPlace:
    """On this machine's disk."""

    storage: dict[str, Any] = {}  # noqa: RUF012 - never changed

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder)

    def names(self, below: str) -> list[str]:
        found = (os.path.join(folder, name) for folder, _, names in os.walk(self.folder / below) for name in names)
        return sorted(os.path.relpath(path, self.folder) for path in found)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


class S3Place:
    """In a bucket; the job may come through another endpoint (a proxy) than this test does."""

    def __init__(self, server: S3Server, prefix: str, endpoint: str | None = None) -> None:
        self.bucket, self.prefix = server.buckets[0], prefix
        self.client = server.client()
        self.url = f"s3://{self.bucket}/{prefix}"
        self.storage = {"endpoint": endpoint or server.endpoint}

    def names(self, below: str) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=f"{self.prefix}/{below}/"
        )
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return [key.removeprefix(f"{self.prefix}/") for key in keys]

    def read(self, name: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")["Body"].read()
        return content

    def write(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}", Body=data)


@dataclass(frozen=True)
class Case:
    """A job and its input."""

    kind: str
    """score: flat rows; best_of_n: nested rows; scattered: best_of_n over flat rows whose groups are scattered;
    adjacent: the same, groups standing together."""
    format: Literal["parquet", "jsonl"]
    """Of the input and of the output."""
    ms: float = 8.0
    """How long the reward takes for each response."""
    files: tuple[int, ...] = FILES
    poison: tuple[tuple[int, str], ...] = ()
    """Prompt numbers whose second response kills the process that scores it, and how (a key of rewards.DEATHS)."""
    cpus: int = 3

    def prompts(self) -> list[dict[str, Any]]:
        """The prompts of all files, in order; the same for every kind and format."""
        chance, deaths, made = random.Random(7), dict(self.poison), []
        for number in range(sum(self.files)):
            candidates: list[str | None] = [
                base64.b64encode(chance.randbytes(chance.randint(1200, 3200))).decode() for _ in range(CANDIDATES)
            ]
            candidates[1] = deaths.get(number, "") + (candidates[1] or "")
            candidates[2] = candidates[0] if number % 5 == 0 else candidates[2]
            candidates[3] = {3: None, 4: ""}.get(number % 13, candidates[3])
            messages = [{"role": "user", "content": f"question {number}"}]
            made.append({"uid": f"p{number:05}", "messages": messages, "candidates": candidates, "big": 2**53 + number})
        return made

    def file_rows(self) -> list[list[dict[str, Any]]]:
        """The rows of each input file."""
        prompts, files, start = self.prompts(), [], 0
        for count in self.files:
            files.append(prompts[start : start + count])
            start += count
        if self.kind == "best_of_n":
            return files
        flat = [[_flat(prompt, place) for prompt in file for place in range(CANDIDATES)] for file in files]
        if self.kind == "scattered":
            rows = [row for file in flat for row in file]
            random.Random(8).shuffle(rows)
            sizes = [len(file) for file in flat]
            flat = [rows[sum(sizes[:index]) : sum(sizes[: index + 1])] for index in range(len(sizes))]
        return flat

    def write_input(self, place: Place) -> None:
        """The files, below ``in``."""
        for index, rows in enumerate(self.file_rows()):
            if self.format == "parquet":
                sink = io.BytesIO()
                pq.write_table(pa.Table.from_pylist(rows), sink)  # one row group, hence one unit
                place.write(f"in/{index:02}.parquet", sink.getvalue())
                continue
            lines = [json.dumps(row).encode() for row in rows]
            lines.insert(len(lines) // 2, b'{"uid": "broken in file %d' % index)
            text = b"\n".join(lines) + b"\n"
            if len(rows) >= 70:  # a compressed file is one unit
                place.write(f"in/{index:02}.jsonl.gz", gzip.compress(text, 1))
            else:
                place.write(f"in/{index:02}.jsonl", text)

    def job(self, place: Place, output: str, source: Place | None = None) -> dict[str, Any]:
        """The job file's content."""
        nested = {"id": "uid", "prompt": "messages", "responses": "candidates"}
        flat = {"id": "uid", "prompt": "messages", "response": "completion"}
        source = source or place
        made: dict[str, Any] = {
            "job": "score" if self.kind == "score" else "best_of_n",
            "input": {
                "path": f"{source.url}/in",
                "columns": nested if self.kind == "best_of_n" else flat,
                "storage": source.storage,
            },
            "rewards": {
                "slow": {"reward": f"{REWARDS}:slow", "ms": self.ms},
                "length": {"reward": "length_penalty", "max_length": 3000},
            },
            "combine": {"slow": 1.0, "length": 0.001, "on_null": None},
            "output": {
                "path": f"{place.url}/{output}",
                "format": self.format,
                "file_mb": 1,
                "row_group_rows": 32,
                "storage": place.storage,
            },
            "run": {"on": "ray", "cpus": self.cpus, "block_rows": 10 if self.kind == "best_of_n" else 40},
        }
        if self.kind in ("scattered", "adjacent"):
            made["input"]["group"] = {"by": "prompt_id", "rows": self.kind}
        if self.kind != "score":
            made["select"] = {"keep": 1, "min_score": 0.2, "ties": "hash", "seed": 3}
        return made


def _flat(prompt: dict[str, Any], place: int) -> dict[str, Any]:
    return {
        "uid": f"{prompt['uid']}-{place}",
        "prompt_id": prompt["uid"],
        "messages": prompt["messages"],
        "completion": prompt["candidates"][place],
        "big": prompt["big"] * 10 + place,
    }


PARTS = ("data", "rejected", "dead_letters")
LEFT_BY_DESIGN = re.compile(r"(plan|grouped|manifest|summary)\.json|(lease|commits)/[^/.]+\.json|segments/[^/]+\.zst")


def check_finished(place: Place, output: str) -> Rows:
    """The rows of a finished output, after its files, counts and checksums agreed with the manifest."""
    names = [name.removeprefix(f"{output}/") for name in place.names(output)]
    manifest = json.loads(place.read(f"{output}/_rmbatch/manifest.json"))
    listed = {file["path"] for file in manifest["files"]}
    assert len(listed) == len(manifest["files"]), "the manifest names a file twice"
    private = [name.removeprefix("_rmbatch/") for name in names if name.startswith("_rmbatch/")]
    assert {name for name in names if not name.startswith("_rmbatch/")} == listed | {".huggingface.yaml"}
    assert [name for name in private if not LEFT_BY_DESIGN.fullmatch(name)] == [], "leftovers"
    assert "summary.json" in private
    rows: Rows = {part: Counter() for part in PARTS}
    for file in manifest["files"]:
        data = place.read(f"{output}/{file['path']}")
        assert xxhash.xxh3_128_hexdigest(data) == file["xxh3"], file["path"]
        found = _rows_of(file["path"], data)
        assert len(found) == file["num_rows"], file["path"]
        rows[file["part"]].update(found)
    assert {part: rows[part].total() for part in PARTS} == {part: manifest["rows"].get(part, 0) for part in PARTS}
    assert manifest["planned_rows"] == sum(rows[part].total() for part in PARTS)
    doubled = [row for part in PARTS for row, count in rows[part].items() if count > 1]
    assert not doubled, f"{len(doubled)} rows occur more than once, such as {doubled[0][:200]}"
    return rows


def tally(place: Place, output: str) -> dict[str, int]:
    """What the manifest counted."""
    counted: dict[str, int] = json.loads(place.read(f"{output}/_rmbatch/manifest.json"))["tally"]
    return counted


def _rows_of(path: str, data: bytes) -> list[str]:
    """Each row as text; a dead letter without the folder that its input file stands in."""
    if not path.endswith((".parquet", ".pq")):
        return [line.decode() for line in data.splitlines()]
    rows = pq.read_table(io.BytesIO(data)).to_pylist()
    if path.startswith("_dead_letters/"):
        rows = [row | {"uri": row["uri"].rsplit("/", 1)[-1]} for row in rows]
    return [repr(row) for row in rows]


def assert_same(found: Rows, clean: Rows) -> None:
    """Row for row, to the bit."""
    for part in PARTS:
        missing, added = clean[part] - found[part], found[part] - clean[part]
        told = f"{part}: {missing.total()} rows are missing, {added.total()} are too many"
        assert missing == added, f"{told}\n{_first_difference(missing, added)}"


def _first_difference(missing: Counter[str], added: Counter[str]) -> str:
    """A missing row and the added one that begins like it, from a little before where they part."""
    row = min(missing or added)
    other = max(added, key=lambda text: _alike(text, row), default="")
    start = max(0, _alike(row, other) - 80)
    told = "missing" if missing else "added"
    return f"{told}: ...{row[start : start + 300]}\nagainst: ...{other[start : start + 300]}"


def _alike(row: str, other: str) -> int:
    """How many characters two rows have in common at their beginning."""
    return next((index for index, (a, b) in enumerate(zip(row, other)) if a != b), min(len(row), len(other)))


def assert_same_but_dead(found: Rows, clean: Rows, dead: Mapping[str, str]) -> None:
    """As the clean run's, but the rows with these uids are dead letters that killed their worker.

    ``dead``: uid -> a text that the dead letter's content holds.
    """
    letters = [row for row in found["dead_letters"] - clean["dead_letters"] if "'killed_worker'" in row]
    for uid, text in dead.items():
        own = [row for row in letters if re.search(rf"'uid': \\?'{uid}\\?'", row)]
        assert len(own) == 1, f"{uid}: {len(own)} dead letters"
        assert text in own[0], own[0][:500]
    assert len(letters) == len(dead), f"{len(letters)} rows were given up, not {len(dead)}: {letters[0][:300]}"
    others = {part: Counter({row: n for row, n in clean[part].items() if not _is_one_of(row, dead)}) for part in PARTS}
    alive = {**found, "dead_letters": found["dead_letters"] - Counter(letters)}
    assert_same(alive, others)


def _is_one_of(row: str, uids: Iterable[str]) -> bool:
    return any(f"'uid': '{uid}'" in row or f'"uid":"{uid}"' in row for uid in uids)
