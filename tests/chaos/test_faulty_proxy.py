"""The proxy is transparent at rate 0, injects what it says, and real clients get through it with enough retries.

How the clients behave under each fault is pinned here where the storage layer rests on it.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import SplitResult, urlsplit

import boto3
import botocore.exceptions
import pyarrow.fs
import pytest
import s3fs
from botocore.config import Config

from tests.chaos.faulty_proxy import KINDS, FaultyProxy
from tests.servers.s3 import ACCESS_KEY, REGION, REPOSITORY, SECRET_KEY, S3Server

QUICK = [kind for kind in KINDS if kind != "delay"]
CONTENT = os.urandom(100_000)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server("bucket") as running:
        yield running


@pytest.fixture(scope="module")
def running_proxy(server: S3Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(server.endpoint, seed=7) as running:
        yield running


@pytest.fixture
def proxy(running_proxy: FaultyProxy) -> Iterator[FaultyProxy]:
    """The proxy, harmless until the test configures it and again afterwards."""
    calm = {"rate": 0.0, "kinds": ",".join(KINDS), "match": "", "at_most": -1}
    running_proxy.configure(**calm)
    yield running_proxy
    running_proxy.configure(**calm)


@pytest.fixture(autouse=True)
def _environment(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)


def open_s3fs(proxy: FaultyProxy, **retries: object) -> s3fs.S3FileSystem:
    config = {"config_kwargs": {"retries": retries}} if retries else {}
    return s3fs.S3FileSystem(endpoint_url=proxy.endpoint, use_listings_cache=False, skip_instance_cache=True, **config)


def open_arrow(proxy: FaultyProxy, max_attempts: int = 3) -> pyarrow.fs.S3FileSystem:
    strategy = pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=max_attempts)
    return pyarrow.fs.S3FileSystem(endpoint_override=proxy.endpoint, region=REGION, retry_strategy=strategy)


def one_shot_client(proxy: FaultyProxy) -> Any:
    """boto3 without any retry: what one request meets."""
    return boto3.client(
        "s3",
        endpoint_url=proxy.endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name=REGION,
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )


@pytest.mark.parametrize(
    ("key", "content"),
    [
        ("plain.bin", CONTENT),
        ("empty.bin", b""),  # a HEAD and a GET with Content-Length: 0
        ("a folder/é+%20&=.bin", b"the key's escapes must pass as they are"),
        ("text.gz", b"\x1f\x8b not really gzip"),  # nobody on the way may decompress
    ],
)
def test_s3fs_and_arrow_see_the_same_bytes(server: S3Server, proxy: FaultyProxy, key: str, content: bytes) -> None:
    fsspec_fs, arrow_fs = open_s3fs(proxy), open_arrow(proxy)
    fsspec_fs.pipe_file(f"bucket/s3fs/{key}", content)
    # By default Arrow compresses what is written to a name that ends in .gz.
    with arrow_fs.open_output_stream(f"bucket/arrow/{key}", compression=None) as sink:
        sink.write(content)
    assert server.objects("bucket", "s3fs/" + key) == {"s3fs/" + key: content}
    assert server.objects("bucket", "arrow/" + key) == {"arrow/" + key: content}
    for path in (f"bucket/s3fs/{key}", f"bucket/arrow/{key}"):
        assert fsspec_fs.cat_file(path) == content
        assert fsspec_fs.info(path)["size"] == len(content)
        with arrow_fs.open_input_file(path) as source:
            assert (source.size(), source.read()) == (len(content), content)


def test_ranges_listing_delete(proxy: FaultyProxy) -> None:
    fsspec_fs, arrow_fs = open_s3fs(proxy), open_arrow(proxy)
    paths = [f"bucket/listed/{i}" for i in range(3)]
    for path in paths:
        fsspec_fs.pipe_file(path, CONTENT)
    assert fsspec_fs.cat_file(paths[0], start=10, end=20) == CONTENT[10:20]
    assert fsspec_fs.cat_file(paths[0], start=-5) == CONTENT[-5:]
    with arrow_fs.open_input_file(paths[0]) as source:
        assert source.read_at(10, 10) == CONTENT[10:20]
    listing = arrow_fs.get_file_info(pyarrow.fs.FileSelector("bucket/listed"))
    assert fsspec_fs.find("bucket/listed") == sorted(info.path for info in listing) == paths
    fsspec_fs.rm_file(paths[0])
    arrow_fs.delete_file(paths[1])
    # Arrow leaves a marker object for the folder it deleted from: the ledger's store deletes through s3fs.
    assert fsspec_fs.find("bucket/listed") == ["bucket/listed/", paths[2]]


def test_multipart_upload(server: S3Server, proxy: FaultyProxy) -> None:
    content = CONTENT * 120  # 12 MB: more than one part
    with open_s3fs(proxy).open("bucket/multipart", "wb", block_size=5 << 20) as sink:
        sink.write(content)
    assert server.objects("bucket", "multipart") == {"multipart": content}


def test_create_is_exclusive(proxy: FaultyProxy) -> None:
    fs = open_s3fs(proxy)
    fs.pipe_file("bucket/once", b"first", mode="create")
    with pytest.raises(FileExistsError):
        fs.pipe_file("bucket/once", b"second", mode="create")
    assert fs.cat_file("bucket/once") == b"first"


def test_expect_continue_head_and_keep_alive_on_the_wire(proxy: FaultyProxy) -> None:
    address = urlsplit(proxy.endpoint)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    signed = {"Authorization": f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20260101/{REGION}/s3/aws4_request"}
    chunked = signed | {"Transfer-Encoding": "chunked", "Expect": "100-continue"}
    body = iter([b"one ", b"two"])
    connection.request("PUT", "/bucket/chunked", body=body, headers=chunked, encode_chunked=True)
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b"")
    local_address = connection.sock.getsockname()
    connection.request("HEAD", "/bucket/chunked", headers=signed)
    response = connection.getresponse()
    assert (response.status, response.headers["Content-Length"], response.read()) == (200, "7", b"")
    connection.request("GET", "/bucket/chunked", headers=signed)
    assert connection.getresponse().read() == b"one two"
    assert connection.sock.getsockname() == local_address
    connection.close()


@pytest.mark.parametrize(
    ("kind", "error", "written"),
    [
        ("reset", botocore.exceptions.ConnectionClosedError, False),
        ("503", botocore.exceptions.ClientError, False),
        ("500", botocore.exceptions.ClientError, False),
        ("truncate", None, True),  # an empty body cannot be cut: the headers said it all
        ("delay", None, True),
        ("lost_ack", botocore.exceptions.ConnectionClosedError, True),
    ],
)
def test_one_fault_on_a_write(
    server: S3Server, proxy: FaultyProxy, kind: str, error: type[Exception] | None, written: bool
) -> None:
    key, before = f"fault/{kind}", proxy.counts()
    proxy.configure(rate=1.0, kinds=kind, match=f"PUT /bucket/{key}")
    client = one_shot_client(proxy)
    if error:
        with pytest.raises(error):
            client.put_object(Bucket="bucket", Key=key, Body=b"content")
    else:
        client.put_object(Bucket="bucket", Key=key, Body=b"content")
    assert proxy.counts() == before | {kind: before[kind] + 1}
    assert server.objects("bucket", key) == ({key: b"content"} if written else {})


def test_truncated_read_is_an_error(proxy: FaultyProxy) -> None:
    client = one_shot_client(proxy)
    client.put_object(Bucket="bucket", Key="long", Body=CONTENT)
    proxy.configure(rate=1.0, kinds="truncate", at_most=1)
    response = client.get_object(Bucket="bucket", Key="long")
    assert response["ContentLength"] == len(CONTENT)
    with pytest.raises(botocore.exceptions.ResponseStreamingError):
        response["Body"].read()


def test_lost_ack_makes_a_create_deny_its_own_write(server: S3Server, proxy: FaultyProxy) -> None:
    """Who gets FileExistsError from a create must read the object before believing that another writer was first."""
    fs = open_s3fs(proxy)
    proxy.configure(rate=1.0, kinds="lost_ack", match="PUT /bucket/record", at_most=1)
    with pytest.raises(FileExistsError):
        fs.pipe_file("bucket/record", b"mine", mode="create")
    assert server.objects("bucket", "record") == {"record": b"mine"}


@pytest.mark.parametrize("kind", ["503", "500"])
def test_arrow_gives_up_at_once_on_a_small_range(proxy: FaultyProxy, kind: str) -> None:
    """Arrow reads into a buffer of the range's size; S3's error text does not fit, and that error is not retried."""
    fs = open_arrow(proxy, max_attempts=10)
    open_s3fs(proxy).pipe_file("bucket/ranged", CONTENT)
    with fs.open_input_file("bucket/ranged") as source:
        proxy.configure(rate=1.0, kinds=kind, at_most=1)
        with pytest.raises(OSError, match="Failed to flush response stream"):
            source.read_at(8, 0)
        proxy.configure(rate=1.0, kinds=kind, at_most=1)
        assert source.read_at(1000, 0) == CONTENT[:1000]


def test_s3fs_gets_through_a_quarter_of_faults(
    proxy: FaultyProxy, record_property: Callable[[str, object], None]
) -> None:
    fs = open_s3fs(proxy, mode="standard", max_attempts=10)
    fs.pipe_file("bucket/read", CONTENT)
    before = proxy.counts()
    proxy.configure(rate=0.25, kinds=",".join(QUICK))

    def operate(i: int) -> Exception | None:
        try:
            match i % 4:
                case 0:
                    fs.pipe_file(f"bucket/quarter/{i}", CONTENT)
                case 1:
                    assert fs.cat_file("bucket/read") == CONTENT
                case 2:
                    assert fs.cat_file("bucket/read", start=i, end=5 * i) == CONTENT[i : 5 * i]
                case 3:
                    assert fs.find("bucket/read") == ["bucket/read"]
        except (OSError, botocore.exceptions.BotoCoreError) as error:
            return error
        return None

    with ThreadPoolExecutor(32) as pool:
        errors = [error for error in pool.map(operate, range(200)) if error]
    print(f"{len(errors)} of 200 operations failed: {errors}")
    record_property("failed_of_200", len(errors))
    after = proxy.counts()
    assert all(after[kind] > before[kind] for kind in QUICK)
    assert len(errors) <= 4


def test_wrong_settings_are_refused(proxy: FaultyProxy) -> None:
    with pytest.raises(ValueError, match="probability"):
        FaultyProxy(proxy.endpoint, rate=2.0)
    with pytest.raises(ValueError, match="unknown kinds"):
        FaultyProxy(proxy.endpoint, kinds=["flood"])
    with pytest.raises(OSError, match="400"):
        proxy.configure(rat=0.5)
    proxy.configure(rate=0.5)  # and it still serves


def test_servers_die_with_a_killed_test_run() -> None:
    program = """
from tests.chaos.faulty_proxy import FaultyProxy
from tests.servers.s3 import S3Server
with S3Server("bucket") as server, FaultyProxy(server.endpoint) as proxy:
    print(server.endpoint, proxy.endpoint, flush=True)
    input()
"""
    run = subprocess.Popen(
        [sys.executable, "-c", program], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with run:
        assert run.stdout is not None
        addresses = [urlsplit(endpoint) for endpoint in run.stdout.readline().split()]
        run.kill()
    assert len(addresses) == 2
    deadline = time.monotonic() + 10
    while any(map(listens, addresses)):
        assert time.monotonic() < deadline, "a server outlived the process that started it"
        time.sleep(0.05)


def listens(address: SplitResult) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address.hostname or "", address.port or 0)) == 0
