"""What a store's errors come to: a condition that failed, a fault that passes, one line with the cure."""

import errno
import re
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from s3fs.errors import translate_boto_error

from connectors.errors import JobError, UserError
from connectors.faults import explain, is_conflict, is_transient
from connectors.listing import list_input
from connectors.local import LocalStore
from connectors.storage import Folder, StorageOptions
from tests.connectors.inputs import plan, write_files
from tests.connectors.outputs import small_input, spec_of, whole, work


def answered(code: str, message: str = "", status: int = 412) -> BaseException:
    """What s3fs makes of an error answer."""
    error = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(ClientError(error, "PutObject"))


def test_radosgw_s_refusal_of_a_conditional_put_is_one():
    """It says no word beside the code, and s3fs makes "[Errno 22] Invalid argument" of it."""
    error = answered("PreconditionFailed")
    assert "PreconditionFailed" not in str(error)
    assert is_conflict(error)
    assert not is_transient(error)


def test_create_believes_a_refusal_without_words(s3, monkeypatch: pytest.MonkeyPatch):
    folder = Folder.open("s3://bucket/radosgw", StorageOptions(endpoint=s3.endpoint, max_attempts=2))
    folder.write("record", b"first")
    put = folder.store.fs.pipe_file

    def pipe_file(path: str, data: bytes, mode: str = "overwrite") -> None:
        if mode == "create":
            raise answered("PreconditionFailed")
        put(path, data)

    monkeypatch.setattr(folder.store.fs, "pipe_file", pipe_file)
    monkeypatch.setattr(type(folder.store), "stat", lambda self, path: None)
    assert not folder.create("record", b"second")
    assert folder.store.honours_conditions(folder.path("probe"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/out/data/x"),
            "/out/data/x: no space is left on the disk; free",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/out"),
            "/out: permission denied; let this user read and write",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/out"), "/out: permission denied"),
        (
            answered("NoSuchBucket", "The specified bucket does not exist", 404),
            "s3://b/o: the bucket does not exist; create",
        ),
        (answered("AccessDenied", "Access Denied", 403), "s3://b/o: permission denied"),
        (NoCredentialsError(), "s3://b/o: the machine .* has no valid credentials .* on every node of the cluster"),
        (answered("InvalidAccessKeyId", "no such key", 403), "s3://b/o: the machine .* has no valid credentials"),
    ],
)
def test_what_the_user_can_mend_is_one_line_with_path_and_cure(error: BaseException, told: str):
    (line,) = str(explain(error, "s3://b/o")).splitlines()
    assert re.match(told, line), line
    assert not is_transient(error)


def test_other_errors_are_left_alone():
    assert explain(OSError("503 SlowDown")) is None


@pytest.mark.parametrize("broken", ["walk", "read"])
def test_an_input_that_is_denied_is_named_and_not_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
):
    write_files(tmp_path, {"in/a.jsonl": b'{"id": 1}\n'})

    def denied(self: LocalStore, path: str, *part: int) -> Any:
        raise PermissionError("Access Denied")  # as s3fs says it, without a path

    monkeypatch.setattr(LocalStore, broken, denied)
    with pytest.raises(JobError, match=f"^{tmp_path}/in.*: permission denied"):
        plan(tmp_path / "in")


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    dataset = small_input(tmp_path / "in")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(JobError, match=r"out/data/u000000-\S+: no space is left on the disk; free some"):
        work(dataset, whole(dataset), spec_of(Folder.open(str(tmp_path / "out")), dataset), "run")
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_a_missing_bucket_is_named(s3, tmp_path: Path):
    dataset = small_input(tmp_path / "in")
    folder = Folder.open("s3://no-such-bucket/out", StorageOptions(endpoint=s3.endpoint))
    with pytest.raises(JobError, match=r"s3://no-such-bucket/out: the bucket does not exist; create it"):
        work(dataset, whole(dataset), spec_of(folder, dataset), "run")


@pytest.mark.parametrize("name", ["a::b.jsonl", "x[0].jsonl", "what?.jsonl", "k?versionId=3.jsonl", "s*.jsonl"])
def test_files_with_odd_names_are_read(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b'{"a": 1}\n')
    assert [file.uri for file in list_input([str(tmp_path / name)], StorageOptions()).files] == [str(tmp_path / name)]
    assert Folder.open(str(tmp_path / f"out of {name}")).url == str(tmp_path / f"out of {name}")


def test_keys_with_brackets_are_read(s3):
    folder = Folder.open("s3://bucket/odd[0]", StorageOptions(endpoint=s3.endpoint))
    folder.write("x[0].jsonl", b"{}\n")
    assert folder.create("record", b"x")
    assert [entry.name for entry in folder.entries()] == ["record", "x[0].jsonl"]
    (file,) = list_input(["s3://bucket/odd[0]/x[0].jsonl"], folder.options).files
    assert file.uri == "s3://bucket/odd[0]/x[0].jsonl"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("zip://a.jsonl::s3://bucket/x.zip", r"zip://a.jsonl::s3://bucket/x.zip opens one store inside another"),
        ("s3://bucket/a.jsonl?versionId=3", r"s3://bucket/a.jsonl\?versionId=3 names a version of an object"),
    ],
)
def test_paths_that_are_not_read_are_refused_by_name(url: str, told: str):
    with pytest.raises(UserError, match=told):
        list_input([url], StorageOptions())
    with pytest.raises(UserError, match=told):
        Folder.open(url)
