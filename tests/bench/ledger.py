"""What reading and finishing a ledger of many records costs, on disk and on S3 where each request takes 10 ms.

A ledger of N records, with one data file each, is made on disk by the real classes, gathered as the driver of a job
does, and loaded into moto, without running a job. A fresh process then does what a restart, ``rmbatch status`` and the
end of a job do, through a proxy that holds each request for 10 ms and counts it. moto goes through all keys for each
page of a listing, so the last columns say how much processor time is our process's and how much is moto's.

    python -m tests.bench.ledger --records 100000 --loose 2000
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil

from connectors.commit import Commit, DataFile, pack_outcomes
from connectors.compaction import Compactor
from connectors.dataset import InputDataset
from connectors.finish import finish
from connectors.ledger import Ledger, Plan
from connectors.storage import Folder, StorageOptions
from connectors.units import InputFile, Range, Unit
from connectors.writer import OutputSpec
from tests.bench.measuring import ROOT, print_table
from tests.bench.restart_cost import SCHEMA, peak_rss
from tests.chaos.faulty_proxy import FaultyProxy
from tests.servers.s3 import S3Server, ServerProcess, free_port

LATENCY_S = 0.01
ROWS = 1000
"""Of each record."""
BUCKET = "bench"


def build(output: Path, records: int, *, gather: bool) -> float:
    """A ledger of so many records that cover every planned row; seconds of gathering them."""
    ledger = Ledger(Folder.open(str(output)))
    files = {index: InputFile(f"/nowhere/{index}.parquet", 64 << 20, "0-0", ROWS) for index in range(records)}
    units = {index: Unit(index, index, 0, ROWS, 64 << 20) for index in range(records)}
    ledger.begin(Plan({"job": "score"}, InputDataset("parquet", SCHEMA, files, units)))
    outcomes = np.random.default_rng(1).integers(0, 2, ROWS).astype(np.int8)
    packed, kept = pack_outcomes(outcomes), int((outcomes == 0).sum())
    rows, tally = {"data": kept, "rejected": ROWS - kept, "dead_letters": 0}, {"scored.f1": ROWS}
    (output / "data").mkdir()
    (output / "_rmbatch/commits").mkdir()
    for index in range(records):
        file = DataFile(f"data/u{index:06d}-0000000000-00000000.parquet", "data", kept, 0, f"{index:032x}")
        (output / file.path).touch()
        record = Commit([Range(index, 0, ROWS)], [file], rows, tally, "run", packed=packed)
        (output / "_rmbatch/commits" / record.name).write_bytes(record.to_json())
    began = time.monotonic()
    if gather:
        Compactor(ledger, 1, lambda: None).compact()
    return time.monotonic() - began


def serve(output: str, port: int) -> None:
    """moto with the files of a folder, put straight into its memory."""
    from moto.s3.models import s3_backends
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    backend = s3_backends["123456789012"]["aws"]
    backend.create_bucket(BUCKET, "us-east-1")
    for folder, _, names in os.walk(output):
        for name in names:
            path = Path(folder, name)
            backend.put_object(BUCKET, f"out/{path.relative_to(output)}", path.read_bytes())
    print("loaded", flush=True)
    threading.Event().wait()


def measure(url: str, endpoint: str, server: int) -> list[list[Any]]:
    """What a fresh process does with the ledger, step by step.

    The step, its seconds, the growth of the peak RSS in MB, requests, processor seconds of this process and of
    ``server``.
    """
    ledger = Ledger(Folder.open(url, StorageOptions(endpoint=endpoint or None)))
    ledger.has_begun()  # the client is made, the first connection stands
    found: list[list[Any]] = []
    plan: Plan | None = None

    def step(name: str, run: Callable[[], Any]) -> Any:
        before, requests, server_s = peak_rss(reset=True), _requests(endpoint), _cpu_s(server)
        own_s, began = time.process_time(), time.monotonic()
        answer = run()
        seconds, own_s, server_s = time.monotonic() - began, time.process_time() - own_s, _cpu_s(server) - server_s
        grown_mb = (peak_rss() - before) / 1e6
        found.append([name, seconds, grown_mb, _requests(endpoint) - requests, own_s, server_s])
        return answer

    plan = step("plan", ledger.plan)
    assert plan is not None
    dataset = plan.dataset
    assert step("resume", lambda: ledger.missing(dataset, ledger.commits())) == []
    assert step("status", ledger.progress).finished_rows == dataset.num_rows
    spec = OutputSpec(ledger.output, SCHEMA, keep_rejected=False)
    manifest = step("finish", lambda: finish(ledger, plan, spec, run="bench"))
    assert len(manifest["files"]) == len(dataset.units)
    return found


def _requests(endpoint: str) -> int:
    if not endpoint:
        return 0
    with urllib.request.urlopen(f"{endpoint}/__faults__", timeout=60) as answer:
        return int(orjson.loads(answer.read())["requests"])


def _cpu_s(pid: int) -> float:
    return sum(psutil.Process(pid).cpu_times()[:2]) if pid else 0.0


def in_fresh_process(url: str, endpoint: str = "", server: int = 0) -> list[list[Any]]:
    """``measure`` in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.ledger", "--measure", url, "--endpoint", endpoint]
    command += ["--server", str(server)]
    environment = {**os.environ, **S3Server().environment()}
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, env=environment)
    steps: list[list[Any]] = orjson.loads(ended.stdout.splitlines()[-1])
    return steps


def rows_of(records: int, *, gather: bool) -> list[list[Any]]:
    """The lines of the table for a ledger of so many records."""
    how = "segments" if gather else "a file each"
    rows: list[list[Any]] = []
    with tempfile.TemporaryDirectory(prefix="rmbatch-bench-") as name:
        output, port = Path(name) / "out", free_port()
        gathered_s = build(output, records, gather=gather)
        if gather:
            print(f"gathering {records:,} records on disk: {gathered_s:.1f} s", flush=True)
        server = ServerProcess("tests.bench.ledger", ["--serve", str(output), "--port", str(port)], stdout=-1)
        assert server.popen.stdout is not None
        assert "loaded\n" in iter(server.popen.stdout.readline, "")
        with FaultyProxy(f"http://127.0.0.1:{port}") as proxy:
            proxy.configure(latency_s=LATENCY_S)
            stored = in_fresh_process(f"s3://{BUCKET}/out", proxy.endpoint, server.popen.pid)
        server.kill()
        on_disk = in_fresh_process(str(output))
    for disk, (_, *s3) in zip(on_disk, stored, strict=True):
        rows.append([records, how, *disk[:3], *s3])
    return rows


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[100_000])
    parser.add_argument("--loose", type=int, default=2000, help="records of the ledger that is not gathered")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--measure", metavar="OUTPUT", help="only this, for a ledger that is there")
    parser.add_argument("--endpoint", default="")
    parser.add_argument("--server", type=int, default=0, help="process id of the store behind the endpoint")
    parser.add_argument("--serve", metavar="OUTPUT", help="only this: moto with the files of a folder")
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.port)
        return
    if given.measure:
        print(orjson.dumps(measure(given.measure, given.endpoint, given.server)).decode())
        return
    if given.quick:
        given.records, given.loose = [2000], 500
    rows = rows_of(given.loose, gather=False)
    for records in given.records:
        rows += rows_of(records, gather=True)
    header = ["records", "kept in", "step", "disk, s", "disk, + MB", "S3, s", "S3, + MB", "S3, requests"]
    header += ["S3, our CPU, s", "moto's CPU, s"]
    print_table("a ledger read and finished", header, rows)


if __name__ == "__main__":
    main()
