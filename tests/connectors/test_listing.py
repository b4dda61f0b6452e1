"""What an input path names: one contract on every store."""

import os
from pathlib import Path

import orjson
import pytest

from connectors.errors import UserError
from connectors.formats.base import find_codec, find_format
from connectors.formats.lines import CODECS
from connectors.listing import includes, list_input
from connectors.storage import Folder, StorageOptions
from tests.connectors.inputs import write_files


@pytest.fixture
def filled(folder: Folder) -> Folder:
    for name in ("b.parquet", "a.parquet", "deep/c.pq", "_hidden/d.parquet", ".e.parquet", "_SUCCESS", "notes.txt"):
        folder.write(f"mixed/{name}", name.encode())
    for name in ("day=1/a.jsonl", "day=2/b.jsonl.gz", "day=2/c.ndjson", "day=3/d.jsonl.zst"):
        folder.write(f"lines/{name}", b"{}")
    return folder


def names(folder: Folder, *paths: str, chosen: str = "auto") -> list[str]:
    listing = list_input([f"{folder.url}/{path}" for path in paths], folder.options, chosen)  # type: ignore[arg-type]
    return [file.uri.removeprefix(f"{folder.url}/") for file in listing.files]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["mixed"], ["mixed/a.parquet", "mixed/b.parquet", "mixed/deep/c.pq"]),
        (["mixed/"], ["mixed/a.parquet", "mixed/b.parquet", "mixed/deep/c.pq"]),
        (["mixed/b.parquet"], ["mixed/b.parquet"]),
        (["mixed/.e.parquet"], ["mixed/.e.parquet"]),  # named, so wanted
        (["mixed/*.parquet", "mixed/b.parquet"], ["mixed/a.parquet", "mixed/b.parquet"]),  # once
        (["lines/day=2"], ["lines/day=2/b.jsonl.gz", "lines/day=2/c.ndjson"]),
        (["lines/day=[13]"], ["lines/day=1/a.jsonl", "lines/day=3/d.jsonl.zst"]),  # folders that a glob names
        (["lines/day=[13]/"], ["lines/day=1/a.jsonl", "lines/day=3/d.jsonl.zst"]),
        (["lines/*/*.jsonl"], ["lines/day=1/a.jsonl"]),
        (["*/**/*.parquet"], ["mixed/a.parquet", "mixed/b.parquet"]),
        (["mixed/_*/*.parquet"], ["mixed/_hidden/d.parquet"]),
        (["mixed/.*.parquet"], ["mixed/.e.parquet"]),
    ],
)
def test_files_folders_and_globs(filled: Folder, paths: list[str], expected: list[str]):
    assert names(filled, *paths) == expected


def test_a_file_is_known_by_its_size_and_etag(filled: Folder):
    before = list_input([f"{filled.url}/mixed"], filled.options).files
    filled.write("mixed/a.parquet", b"a.PARQUET")
    after = list_input([f"{filled.url}/mixed"], filled.options).files
    assert [file.size for file in before] == [9, 9, 9]
    assert [a.etag == b.etag for a, b in zip(before, after)] == [False, True, True]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent", "no such file or folder"),
        ("absent/*.parquet", "no file matches"),
        ("mixed/notes.txt", r"no input file found at .*; 1 files of another format, such as .*notes\.txt"),
        ("unfinished", "has not finished; run that job's command again"),
    ],
)
def test_nothing_found_says_why(filled: Folder, path: str, message: str):
    filled.write("unfinished/_rmbatch/plan.json", b"{}")
    filled.write("unfinished/data/a.parquet", b"x")
    with pytest.raises(UserError, match=message):
        names(filled, path)


def test_formats_are_not_mixed_unless_one_is_chosen(filled: Folder):
    with pytest.raises(UserError, match=r"mixes .* set input\.format"):
        names(filled, "mixed/*", "lines")
    assert names(filled, "mixed", "lines", chosen="parquet") == names(filled, "mixed")
    filled.write("odd/rows.txt", b"{}")
    assert names(filled, "odd/rows.txt", chosen="jsonl") == ["odd/rows.txt"]  # named, and its format said


def test_what_was_skipped_is_told(filled: Folder):
    listing = list_input([f"{filled.url}/mixed"], filled.options)
    assert [uri.rsplit("/", 1)[-1] for uri in listing.skipped] == ["notes.txt"]


def test_a_finished_output_is_read_by_its_manifest(filled: Folder):
    files = [{"path": "data/a.parquet", "part": "data"}, {"path": "rejected/a.parquet", "part": "rejected"}]
    for name in ("data/a.parquet", "data/stray.parquet", "rejected/a.parquet"):
        filled.write(f"out/{name}", b"x")
    filled.write("out/_rmbatch/manifest.json", orjson.dumps({"files": files}))
    assert names(filled, "out") == ["out/data/a.parquet"]


def test_hive_partitions_are_decoded(folder: Folder):
    folder.write("in/day=2026-11-24/lang=a%20b%2Fc/none=__HIVE_DEFAULT_PARTITION__/x.parquet", b"x")
    (file,) = list_input([f"{folder.url}/in"], folder.options).files
    assert file.partition == (("day", "2026-11-24"), ("lang", "a b/c"), ("none", None))


@pytest.mark.parametrize(
    ("name", "kind", "codec"),
    [
        ("a.parquet", "parquet", ""),
        ("A.PARQ", "parquet", ""),
        ("a.jsonl", "jsonl", ""),
        ("a.ndjson.GZ", "jsonl", "gzip"),
        ("a.jsonl.gzip", "jsonl", "gzip"),
        ("a.jsonl.zstd", "jsonl", "zstd"),
        ("a.json", None, ""),  # one document, not lines
        ("a.parquet.gz", None, "gzip"),
        ("jsonl", None, ""),
    ],
)
def test_names_tell_format_and_codec(name: str, kind: str | None, codec: str):
    assert (find_format(name), find_codec(name, CODECS)) == (kind, codec)


def test_a_damaged_manifest_is_one_line_with_the_cure(tmp_path: Path):
    for text in (b"{half", b"[]", b"{}", b'{"files": [{"part": "data"}]}', b'{"files": null}'):
        write_files(tmp_path, {"_rmbatch/manifest.json": text, "data/a.jsonl": b"{}"})
        with pytest.raises(UserError, match=r"manifest\.json is damaged .* name them yourself: .*/data/\*") as told:
            list_input([str(tmp_path)], StorageOptions())
        assert "\n" not in str(told.value)


def test_a_link_to_itself_is_one_line(tmp_path: Path):
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    for path in (tmp_path, tmp_path / "loop.jsonl", f"{tmp_path}/*.jsonl"):
        with pytest.raises(UserError, match=r"loop\.jsonl is a link that leads to itself; remove it"):
            list_input([str(path)], StorageOptions())


def test_link_to_a_parent_folder_is_refused(tmp_path: Path):
    write_files(tmp_path, {"in/a/x.jsonl": b"{}"})
    (tmp_path / "in/a/up").symlink_to(tmp_path / "in")
    with pytest.raises(UserError, match="in/a/up is a link to a folder that it lies in"):
        list_input([f"{tmp_path}/in/**/*.jsonl"], StorageOptions())
    assert len(list_input([f"{tmp_path}/in"], StorageOptions()).files) == 1


def test_a_name_that_is_not_utf8_is_one_line(tmp_path: Path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    Path(os.fsdecode(folder), "x.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"caf\\udce9/x\.jsonl' is not UTF-8, so no plan can hold it; rename"):
        list_input([str(tmp_path)], StorageOptions())


@pytest.mark.parametrize(
    ("path", "folder", "inside"),
    [
        ("in", "in/out", True),
        ("in/", "in", True),
        ("in", "input", False),
        ("in", "out/in", False),
        ("in/x.jsonl", "in/out", False),  # a file holds nothing else
        ("in/*.jsonl", "in/out", False),
        ("in/*", "in/out", True),
        ("in/*", "in/out/deeper", True),  # out is matched, and searched through
        ("in/**", "in/a/b", True),
        ("in/**/*.parquet", "in/a", True),
        ("in/*/data/*.parquet", "in/out", True),
        ("in/2026-*/", "in/scored", False),
        ("link", "in/out", True),
        ("link/*", "in/out", True),
    ],
)
def test_an_output_inside_the_input_is_known_by_its_place(tmp_path: Path, path: str, folder: str, inside: bool):
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    assert includes(f"{tmp_path}/{path}", f"{tmp_path}/{folder}", StorageOptions()) == inside
    if "link" not in path:
        assert includes(f"memory://{path}", f"memory:///{folder}", StorageOptions()) == inside
