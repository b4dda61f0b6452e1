"""Lines that are parsed many at once come to what they come to one by one: plan, blocks, rows, bad lines and why."""

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.dataset import InputDataset
from connectors.errors import UserError
from connectors.formats import jsonl_runs, lines
from connectors.formats.base import JsonlOptions
from connectors.formats.jsonl_runs import RunParser
from connectors.formats.jsonl_tables import build_array
from connectors.formats.lines import Line, Lines, Run
from connectors.schema import add_twins
from connectors.storage import StorageOptions, open_url
from connectors.units import Range
from tests.connectors.inputs import plan, write_files

BIG = 2**53 + 1
LEAVES = st.sampled_from(
    [None, True, False, 0, -1, 7, BIG, 2**63, 2**64, 10**30, 0.5, -0.0, 1e300, "", "x", "\u2028é😀"]
)
TEXTS = st.sampled_from(
    ['say "hi": you', "a : b", ': x"', "back\\", '\\": {"a": 1}', "null", "\x00\x1f", "http://a:1/b", "é:"]
)
VALUES = st.recursive(
    LEAVES | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c\\", '"', ""]), inner, max_size=3)
    ),
    max_leaves=5,
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "tool"]), "content": TEXTS}), max_size=3)
DUMPS: list[Callable[[Any], str]] = [
    json.dumps,
    lambda row: json.dumps(row, separators=(",", ":")),
    lambda row: json.dumps(row, ensure_ascii=False),
    lambda row: json.dumps(row, separators=(" , ", " : ")),
    lambda row: json.dumps(row, separators=(",\t", "\r:")),
]
NASTY = [
    b"",
    b"  ",
    b"\r",
    b"{}",
    b"{broken",
    b"null",
    b"[1, 2]",
    b'{"a": 1} {"a": 2}',  # two values in one line
    b'{"a": 1},{"a": 2}',
    b'{"a":',  # with the next, an object in two lines
    b"1}",
    b'{"a": {"b": 1}',
    b'{"c": 2}}',
    b'{"m": [{"a": 1}',
    b'{"a": 2}]}',
    b'{"a": 1, "a": 2}',
    b'{"a": 1, "\\u0061": 2}',
    b'{"\\u0061": 1}',
    b'{"a": 1, "b": 2, "a": null}',
    b'{"m": [{"role": "user", "role": "tool"}]}',
    b'{"m": [{"role": "user"}, {"content": "x", "content": "y"}]}',
    b'{"a": {"c\\\\": 1, "c\\\\": 2}}',  # a key that ends with a backslash, twice
    b'{"a": {"c\\\\": 1}, "b": "\\\\\\": x"}',
    b'{"a": "\\": ", "a": 1}',  # what looks like a key makes up for one that comes twice
    b'{"a": [":", 1, ": x"]}',
    b' {"a": 1}',
    b'{"a": 1} ',
    b'{"a": 1}\t\r',
    b'{"a" : 1, "a"\t:2}',
    b'{"a": NaN}',
    b'{"a": -Infinity, "b": "x"}',
    b'{"a": nan}',
    b'{"a": 1e400}',
    b'{"a": -0}',
    b'{"a": 1.0}',
    b'{"a": 1E2}',
    b'{"a": 01}',
    b'{"a": "\xff"}',
    b'{"a": "\\ud800"}',
    b'{"a": "\\ud83d\\ude00"}',
    b'{"a": "tab\there"}',
    b'{"a": 1}\x00',
    b'{"a": 1,}',
    b'{"new": 1, "newer": {"b": []}}',
    b'{"odd.a": 1}',
    b'{"": 1}',
    b'{"\\"": 1, "b": 2}',
    b'{"a": ' + b"[" * 60 + b"]" * 60 + b"}",
    b'{"a": ' + b"9" * 5000 + b"}",
    b'{"a": "2024-01-01T00:00:00Z"}',
    b'{"a": {}}',
    b'{"m": null}',
    b'{"a": ' + json.dumps("x" * 300).encode() + b"}",
]
ROW = st.fixed_dictionaries({}, optional={"a": VALUES, "b": LEAVES, "m": MESSAGES})
PLAIN = st.fixed_dictionaries({"a": st.integers(0, 9), "b": st.text(max_size=5), "m": MESSAGES})
LINE = st.builds(lambda row, dump: dump(row).encode(), PLAIN | ROW, st.sampled_from(DUMPS)) | st.sampled_from(NASTY)
OPTIONS = st.builds(
    JsonlOptions,
    as_json=st.sampled_from([(), ("a",), ("m", "b")]),
    odd_values=st.sampled_from(["json_twin", "dead_letter", "json_column"]),
    join_keys=st.sampled_from([(), ("a",)]),
    max_line_bytes=st.sampled_from([250, 1 << 20]),
)


@contextmanager
def one_by_one(run_bytes: int, few_lines: int = 1, max_keys: int = -1) -> Iterator[None]:
    """Lines come in small runs; ``max_keys=-1``: no run is parsed at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "RUN_BYTES", run_bytes)
        patch.setattr(jsonl_runs, "FEW_LINES", few_lines)
        patch.setattr(jsonl_runs, "MAX_KEYS", max_keys)
        yield


def described(dataset: InputDataset) -> Any:
    schema = [(item, item.metadata) for item in dataset.schema]
    return schema, dict(dataset.files), dict(dataset.units), dataset.mixed


def blocks(dataset: InputDataset, block_rows: int, cut: int) -> list[Any]:
    """All blocks of all units, read in two pieces each."""
    found = []
    for unit in dataset.units.values():
        half = min(cut, unit.num_rows)
        for piece in (Range(unit.index, 0, half), Range(unit.index, half, unit.num_rows)):
            for table in dataset.read(piece, block_rows):
                table.validate(full=True)
                assert all(column.num_chunks <= 1 for column in table.columns)
                found.append((table.schema, repr(table.to_pylist())))  # by repr, NaN is itself and -0.0 is not 0.0
    return found


def planned(folder: Path, **options: Any) -> Any:
    try:
        return plan(folder, **options)
    except UserError as error:
        return str(error)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    texts=st.lists(LINE, min_size=1, max_size=30),
    copies=st.sampled_from([1, 1, 60]),
    newline=st.sampled_from([b"\n", b"\r\n"]),
    ends=st.booleans(),
    packed=st.booleans(),
    unit_bytes=st.sampled_from([100, 1000, 1 << 20]),
    run_bytes=st.sampled_from([60, 500, 1 << 18]),
    options=OPTIONS,
    key=st.sampled_from([None, None, "b"]),
    limit=st.sampled_from([None, None, 7]),
    block_rows=st.integers(1, 50),
    cut=st.integers(0, 40),
    columns=st.sampled_from([None, ["a"], ["m", "b"]]),
)
def test_many_lines_at_once_come_to_what_they_come_to_one_by_one(
    tmp_path_factory,
    texts,
    copies,
    newline,
    ends,
    packed,
    unit_bytes,
    run_bytes,
    options,
    key,
    limit,
    block_rows,
    cut,
    columns,
):
    folder = tmp_path_factory.mktemp("runs")
    data = newline.join(texts[:1] + texts[1:] * copies) + (newline if ends else b"")
    write_files(folder, {"in.jsonl.gz": gzip.compress(data, 1)} if packed else {"in.jsonl": data})
    results = []
    for max_keys in (-1, 256):
        with one_by_one(run_bytes, max_keys=max_keys):
            dataset = planned(folder, unit_bytes=unit_bytes, jsonl=options, group_key=key, limit=limit)
            if isinstance(dataset, str):
                results.append(dataset)
                continue
            results.append(described(dataset))
            if columns is not None:
                dataset = dataset.project(
                    add_twins(
                        [name for name in columns if name in dataset.schema.names] or dataset.schema.names[:1],
                        dataset.schema,
                    )
                )
            results.append(blocks(dataset, block_rows, cut))
    half = len(results) // 2
    assert results[half:] == results[:half]


def runs_of(path: Path) -> list[Line | Run]:
    store, place = open_url(str(path), StorageOptions())
    return list(Lines(store, place, ""))


def test_ordinary_lines_are_parsed_at_once(tmp_path: Path):
    """Else all of the above would hold without anything having been parsed at once."""
    rows = [{"a": row, "b": 'text "with": colons', "m": [{"role": "user", "content": "x: y\n"}]} for row in range(5000)]
    write_files(tmp_path, {"in.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in rows)})
    first, *runs = runs_of(tmp_path / "in.jsonl")
    assert isinstance(first, Line)
    parsed = [RunParser(["a", "b", "m"]).parse(run) for run in runs]
    assert sum(len(columns["a"]) for columns in parsed if columns) == len(rows) - 1


@pytest.mark.parametrize("text", NASTY)
def test_run_with_a_nasty_line_is_parsed_exactly_or_not_at_all(tmp_path: Path, text: bytes):
    good = b'{"a": 5, "b": "y"}'
    write_files(tmp_path, {"in.jsonl": b"\n".join([good, good, text, good]) + b"\n"})
    _, run = runs_of(tmp_path / "in.jsonl")
    columns = RunParser(["a", "b", "m"]).parse(run)
    if columns is not None:
        row = json.loads(text)
        assert columns["a"] == [5, row.get("a"), 5]
        assert columns["m"] == [None, row.get("m"), None]
        assert len(json.loads(text, object_pairs_hook=list)) == len(row)  # no key is there twice


@settings(deadline=None)
@given(st.lists(VALUES, max_size=8))
def test_arrays_of_lists_and_objects_are_those_that_arrow_makes(values):
    known = []
    for value in values:
        try:
            kind = pa.array([*known, value]).type
            array = pa.array([*known, value], kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
            continue
        known.append(value)
        assert build_array(known, kind).to_pylist() == array.to_pylist()
        assert build_array(known, kind).type == kind
