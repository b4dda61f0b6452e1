"""JSONL as it comes: what is read exactly, and what becomes a dead letter."""

import gzip
import io
import json
import math
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.errors import UserError
from connectors.formats import jsonl
from connectors.formats.base import JsonlOptions
from connectors.formats.jsonl_read import parse
from connectors.formats.lines import BadLineError
from connectors.local import LocalStore
from connectors.schema import DEAD, UNIT, is_json
from tests.connectors.inputs import plan, read_all, read_rows, write_files

BIG = 2**53 + 1


def lines(*rows: object) -> bytes:
    return b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"{broken", "invalid_json"),
        (b'{"a": 1', "invalid_json"),  # a truncated last line
        (b'{"a": 1} x', "invalid_json"),
        (b'{"a": "\xff"}', "invalid_utf8"),
        (b'{"a": "\\ud800"}', "invalid_json"),  # half of a surrogate pair is no text
        (b"[1, 2]", "not_an_object"),
        (b"null", "not_an_object"),  # crashes pyarrow.json 26
        (b'"text"', "not_an_object"),
        (b'{"a": 1, "a": 2}', "duplicate_key"),
        (b'{"a": {"b": 1, "b": 2}, "b": 3}', "duplicate_key"),
        (b'{"a": {"b": 1, "b": 2}}', "duplicate_key"),
        (b'{"a": [1, [{"b": 1}, {"c": 1, "c": 2}]]}', "duplicate_key"),
        (b'{"a" : 1, "a"\t :2}', "duplicate_key"),
        (b'{"a": 1, "\\u0061": 2}', "duplicate_key"),
        (b'{"a" :1, "b":1, "b":2}', "duplicate_key"),
        (b"[" * 5000 + b"]" * 5000, "too_deep"),
        (b'{"a":' * 990 + b"1" + b"}" * 990, "too_deep"),  # orjson and msgspec read it, Python's json does not
        (b'{"a": %s}' % (b"1" * 5000), "invalid_json"),  # more digits than Python turns into a number
        (b'{"a": NaN, "b": %s}' % (b"1" * 5000), "invalid_json"),
        (b'{"a": NaN, "b": "\\ud800"}', "invalid_json"),
        (b'{"a": 1e400}', "invalid_json"),  # no float64 holds it
        (b'{"a": nan}', "invalid_json"),  # Python writes NaN
    ],
)
def test_a_bad_line_is_one_dead_letter(tmp_path: Path, text: bytes, code: str):
    write_files(tmp_path, {"in.jsonl": lines({"a": 1}) + text + b"\n" + lines({"a": 2})})
    table = read_all(plan(tmp_path))
    assert table["a"].to_pylist() == [1, None, 2]
    before, letter, after = table[DEAD].to_pylist()
    assert (before, after) == (None, None)
    assert (letter["code"], letter["line"], letter["raw"]) == (code, 2, text)
    assert letter["offset"] == len(lines({"a": 1}))


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (b'\xef\xbb\xbf{"a": 1}\n', [{"a": 1}]),  # a BOM
        (b'{"a": 1}\r\n{"a": 2}\r\n', [{"a": 1}, {"a": 2}]),
        (b'\n{"a": 1}\n\n  \n{"a": 2}\n\n', [{"a": 1}, {"a": 2}]),
        (b'{"a": 1}', [{"a": 1}]),  # no newline at the end
        (b'{"a": 9007199254740993}\n', [{"a": BIG}]),
        (b'{"a": 18446744073709551615}\n{"a": 1}\n', [{"a": 2**64 - 1}, {"a": 1}]),
        (b'{"a": "007"}\n{"a": "2024-01-01"}\n', [{"a": "007"}, {"a": "2024-01-01"}]),  # text stays text
        (b'{"a": 1}\n{"a": 2.5}\n', [{"a": 1.0}, {"a": 2.5}]),
        (b'{"a": 0.12345678901234567}\n', [{"a": 0.12345678901234567}]),
        (b'{"a": null}\n{"a": "x"}\n', [{"a": None}, {"a": "x"}]),
        (b'{"a": {"b": 1}}\n{"a": {"c": "x"}}\n', [{"a": {"b": 1, "c": None}}, {"a": {"b": None, "c": "x"}}]),
        (b'{"a": []}\n{"a": [1]}\n', [{"a": []}, {"a": [1]}]),
        (b'{"a": "\\u0000\\u202e"}\n', [{"a": "\u0000\u202e"}]),
        (b'{"a": "\\":\\" :", "b": "a\\": 1"}\n', [{"a": '":" :', "b": 'a": 1'}]),  # nothing here is a key twice
        (b'{"a": [{"b": 1}, {"b": 2}], "b": 3}\n', [{"a": [{"b": 1}, {"b": 2}], "b": 3}]),
        (b'{"a": [[1], [], [2]], "b": [[{"c": ": "}], null]}\n', [{"a": [[1], [], [2]], "b": [[{"c": ": "}], None]}]),
        (b'{"a": {"b": [%d, null]}}\n' % BIG, [{"a": {"b": [BIG, None]}}]),
        ('{"a": "\u2028\x85"}\n'.encode(), [{"a": "\u2028\x85"}]),  # ends of lines to some, not in JSONL
    ],
)
def test_values_are_read_exactly(tmp_path: Path, text: bytes, rows: list[dict]):
    write_files(tmp_path, {"in.jsonl": text})
    assert read_rows(plan(tmp_path)).to_pylist() == rows


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('"text"', "1"),
        ("true", "1"),
        ('{"b": 1}', "[1]"),
        ('{"b": 1}', '{"b": "x"}'),
        ('{"b": false}', '{"b": 0.5}'),  # pyarrow makes 0.0 and 0.5 of them
        ("[true]", "[0.5]"),
        ('{"b": [-1]}', '{"b": [18446744073709551615]}'),
        (str(BIG), "0.5"),  # float64 does not hold the integer
        (str(2**64), "1"),  # neither does any integer type
        ('[[":"],2,null]', '[{"b":1},"x",true]'),
        ("{}", "{}"),  # Parquet has no struct without fields
    ],
)
@pytest.mark.parametrize("apart", ["one block", "two files"])
def test_values_of_different_kinds_are_kept_as_json_text(tmp_path: Path, first: str, second: str, apart: str):
    a, b = f'{{"a": {first}}}\n'.encode(), f'{{"a": {second}}}\n'.encode()
    write_files(tmp_path, {"1.jsonl": a + b} if apart == "one block" else {"1.jsonl": a, "2.jsonl": b})
    dataset = plan(tmp_path)
    table = read_rows(dataset)
    assert is_json(table.schema.field("a"))
    assert table["a"].to_pylist() == [first, second]
    assert jsonl.write(table) == f'{{"a":{first}}}\n{{"a":{second}}}\n'.encode()


def test_nan_and_infinity_are_read_as_python_wrote_them(tmp_path: Path):
    write_files(tmp_path, {"in.jsonl": b'{"a": NaN}\n{"a": -Infinity}\n{"a": 1.5}\n'})
    nan, infinite, number = read_rows(plan(tmp_path))["a"].to_pylist()
    assert math.isnan(nan)
    assert (infinite, number) == (-math.inf, 1.5)


def test_a_column_that_only_the_last_file_has_is_there(tmp_path: Path):
    files = {f"{number:02}.jsonl": lines({"a": number}) for number in range(20)}
    write_files(tmp_path, {**files, "99.jsonl": lines({"a": 99, "late": "x"})})
    table = read_rows(plan(tmp_path))
    assert table["late"].to_pylist() == [None] * 20 + ["x"]


def test_a_type_that_changes_late_loses_nothing(tmp_path: Path):
    rows = [{"a": index} for index in range(50)] + [{"a": "late"}]
    write_files(tmp_path, {"in.jsonl": lines(*rows)})
    assert read_rows(plan(tmp_path, unit_bytes=100))["a"].to_pylist() == [str(i) for i in range(50)] + ['"late"']


def test_nested_big_integer_beside_a_fraction_becomes_json_text(tmp_path: Path):
    write_files(tmp_path, {"1.jsonl": lines({"a": {"b": BIG}}), "2.jsonl": lines({"a": {"b": 0.5}})})
    assert read_rows(plan(tmp_path))["a"].to_pylist() == [f'{{"b": {BIG}}}', '{"b": 0.5}']


@pytest.mark.parametrize("name", ["in.jsonl.gz", "in.jsonl.zst"])
@pytest.mark.parametrize("members", [1, 2])
def test_compressed_files(tmp_path: Path, name: str, members: int):
    text = lines(*({"a": index} for index in range(1000)))
    packed = gzip.compress(text) if name.endswith("gz") else pa.compress(text, "zstd", asbytes=True)
    write_files(tmp_path, {name: packed * members})
    assert read_rows(plan(tmp_path))["a"].to_pylist() == list(range(1000)) * members


@pytest.mark.parametrize("name", ["in.jsonl.gz", "in.jsonl.zst"])
def test_truncated_gzip_gives_its_rows_and_a_dead_letter(tmp_path: Path, name: str):
    text = lines(*({"a": index, "b": f"{index * 7919 % 1000003}"} for index in range(50_000)))
    packed = gzip.compress(text) if name.endswith("gz") else pa.compress(text, "zstd", asbytes=True)
    write_files(tmp_path, {name: packed[: len(packed) * 2 // 3]})
    dataset = plan(tmp_path)
    table = read_all(dataset, block_rows=10_000)
    codes = [letter["code"] for letter in table[DEAD].to_pylist() if letter]
    assert codes[-1] == "damaged_file"
    assert table.num_rows == dataset.num_rows > 20_000


def test_a_damaged_file_tells_the_line_that_it_breaks_off_in(tmp_path: Path):
    whole = gzip.compress(lines({"a": 1}), 0) + gzip.compress(b'{"a": 2, "b": "so f', 0)
    write_files(tmp_path, {"in.jsonl.gz": whole + gzip.compress(b"ar", 0)[:-12]})
    table = read_all(plan(tmp_path))
    assert table["a"].to_pylist() == [1, None]
    letter = table[DEAD].to_pylist()[1]
    assert (letter["code"], letter["line"], letter["offset"]) == ("damaged_file", 2, len(lines({"a": 1})))
    assert letter["raw"].startswith(b'{"a": 2, "b": "so f')


def test_a_store_that_fails_is_no_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Else every row behind the failure would be a dead letter for ever."""
    text = lines(*({"a": index, "b": f"{index * 7919 % 1000003}"} for index in range(50_000)))
    write_files(tmp_path, {"in.jsonl.gz": gzip.compress(text, 0)})
    dataset = plan(tmp_path)

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() >= 1 << 20:  # behind the first buffer
                raise PermissionError("the credentials have expired")
            return super().read(size)

    monkeypatch.setattr(LocalStore, "open", lambda self, path: Failing(Path(path).read_bytes()))
    with pytest.raises(PermissionError, match="expired"):
        read_all(dataset, block_rows=10_000)


def test_too_deep_nesting_becomes_json_text(tmp_path: Path):
    text = b'{"a": ' + b'{"b": [' * 40 + b"1" + b"]}" * 40 + b"}\n"
    write_files(tmp_path, {"in.jsonl": text})
    table = read_rows(plan(tmp_path))
    pq.write_table(table, tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["a"][0].as_py() == text[6:-2].decode()


def test_utf16_is_refused_with_the_cure(tmp_path: Path):
    write_files(tmp_path, {"in.jsonl": '{"a": 1}\n'.encode("utf-16")})
    with pytest.raises(UserError, match="UTF-8"):
        plan(tmp_path)


VALUES = [
    1,
    -1,
    BIG,
    10**30,
    0.5,
    -0.0,
    1e300,
    math.nan,
    math.inf,
    "",
    "x",
    "\u2028",
    None,
    True,
    [],
    [1, None],
    {"b": 1},
]
PIECES = [b"{", b"}", b'"a"', b":", b"1", b",", b" ", b"\r", b"\t", b"\xef\xbb\xbf", b"\x00", b"\xc3", b"[", b"NaN"]
LINE = st.one_of(
    st.builds(lambda name, value: json.dumps({name: value}).encode(), st.sampled_from("ab"), st.sampled_from(VALUES)),
    st.lists(st.sampled_from(PIECES), max_size=6).map(b"".join),
)


@settings(deadline=None)
@given(st.lists(LINE, min_size=1, max_size=20), st.integers(1, 100), st.booleans())
def test_each_line_is_a_row_or_dead_letter_however_units_are_cut(tmp_path_factory, texts, unit_bytes, newline):
    folder = tmp_path_factory.mktemp("jsonl")
    write_files(folder, {"in.jsonl": b'{"a": 1}\n' + b"\n".join(texts) + (b"\n" if newline else b"")})
    whole, cut = plan(folder), plan(folder, unit_bytes=unit_bytes)
    expected = 1 + sum(1 for text in texts if text.strip(b" \t\r"))
    a, b = read_all(whole), read_all(cut)
    assert whole.num_rows == cut.num_rows == a.num_rows == b.num_rows == expected
    assert [x and (x["line"], x["offset"], x["raw"]) for x in a[DEAD].to_pylist()] == [
        x and (x["line"], x["offset"], x["raw"]) for x in b[DEAD].to_pylist()
    ]
    assert set(whole.schema.names) == set(cut.schema.names)
    names = whole.schema.names
    assert repr(a.select(names).to_pylist()) == repr(b.select(names).to_pylist())
    assert b[UNIT].to_pylist() == sorted(b[UNIT].to_pylist())


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz"])
def test_too_long_line_is_a_dead_letter_that_names_the_limit(tmp_path: Path, name: str):
    long = b'{"a": "' + b"x" * (3 << 20) + b'"}'
    text = lines({"a": "first"}) + long + b"\n" + lines({"a": "last"})
    write_files(tmp_path, {name: gzip.compress(text) if name.endswith("gz") else text})
    table = read_all(plan(tmp_path, jsonl=JsonlOptions(max_line_bytes=2 << 20)))
    assert table["a"].to_pylist() == ["first", None, "last"]
    letter = table[DEAD][1].as_py()
    assert (letter["code"], letter["line"], letter["offset"]) == ("line_too_long", 2, len(lines({"a": "first"})))
    assert letter["message"].startswith(f"the line has {len(long):,} bytes; to read it, set input.max_line_mb to 4 or")
    assert long.startswith(letter["raw"])
    assert len(letter["raw"]) == 1 << 20
    assert read_rows(plan(tmp_path))["a"].to_pylist()[1] == "x" * (3 << 20)


def test_a_line_of_many_pieces_takes_time_in_its_length_only(tmp_path: Path):
    """It came in 64 KiB pieces, and all that had come was copied for each."""
    write_files(tmp_path, {"in.jsonl.gz": gzip.compress(b'{"a": "' + b"x" * (100 << 20) + b'"}', 1)})
    began = time.process_time()
    assert plan(tmp_path).num_rows == 1
    assert time.process_time() - began < 10


def test_finds_a_duplicate_key_in_linear_time(tmp_path: Path):
    keys = ",".join(f'"k{number}":1' for number in range(100_000))
    began = time.process_time()
    with pytest.raises(BadLineError, match="key 'k99999' occurs twice"):
        parse(f'{{{keys},"k99999":2}}'.encode())
    assert time.process_time() - began < 5


def test_many_columns_are_refused_or_read_in_linear_time(tmp_path: Path):
    rows = [{f"c{row * 50 + column}": column for column in range(50)} for row in range(400)]
    write_files(tmp_path, {"in.jsonl": lines(*rows)})
    with pytest.raises(
        UserError, match=r"more than 10,000 different keys, the next one is 'c10000'.*input\.max_columns"
    ):
        plan(tmp_path)
    began = time.process_time()
    dataset = plan(tmp_path, jsonl=JsonlOptions(max_columns=20_000))
    assert time.process_time() - began < 3
    table = read_all(dataset, block_rows=400)
    assert table.select(["c0", "c19999"]).slice(398).to_pylist() == [
        {"c0": None, "c19999": None},
        {"c0": None, "c19999": 49},
    ]


def test_write_keeps_every_digit():
    table = pa.table({"f": [0.1 + 0.2, None], "i": [BIG, -BIG], "t": ["\u2028\n", ""], "l": [[1.5, None], None]})
    assert [json.loads(line) for line in jsonl.write(table).splitlines()] == table.to_pylist()
