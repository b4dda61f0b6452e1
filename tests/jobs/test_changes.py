"""What a job does when somebody changes its input or its output while it runs, or after it is finished."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from connectors.errors import DeadEndError, JobError, UserError
from connectors.lease import Lease
from connectors.storage import Folder
from tests.jobs.running import run

MEDDLER = """
import os
from contextlib import suppress
import pyarrow as pa
from rmbatch.rewards.contract import reward

@reward("meddler")
def meddler(response, *, old: str, new: str):
    with suppress(OSError):  # once, by the first block of any task
        os.replace(new, old)
    return pa.array([1.0] * len(response))
"""


def lines(value: str, num_rows: int = 4000) -> bytes:
    return b"".join(
        json.dumps({"prompt": "q", "response": value, "id": row}).encode() + b"\n" for row in range(num_rows)
    )


def job(folder: Path, **rewards: Any) -> dict[str, Any]:
    return {
        "job": "score",
        "input": {"path": str(folder / "in")},
        "rewards": rewards or {"length": {"reward": "length_penalty"}},
        "output": {"path": str(folder / "out")},
        "run": {"block_rows": 100},
    }


def test_input_replaced_during_run_stops_job(tmp_path: Path, here: None) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/1.jsonl").write_bytes(lines("old"))
    (tmp_path / "new.jsonl").write_bytes(lines("new"))
    (tmp_path / "meddler.py").write_text(MEDDLER)
    meddler = {
        "reward": f"{tmp_path}/meddler.py:meddler",
        "old": str(tmp_path / "in/1.jsonl"),
        "new": str(tmp_path / "new.jsonl"),
    }
    with pytest.raises(JobError, match=r"1.jsonl has changed .* restore it and run the same command"):
        run(job(tmp_path, meddler=meddler))
    assert not (tmp_path / "out/_rmbatch/manifest.json").exists()


def test_stray_file_in_finished_output_is_removed(tmp_path: Path, here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task of a killed run may have left it; what is not named as we name files is somebody else's."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/1.jsonl").write_bytes(lines("text", 10))
    summary = run(job(tmp_path))
    (own,) = (tmp_path / "out/data").iterdir()
    for name in ("data/u000000-0000000000-0123abcd.parquet", "_rejected/u000000-0000000000-0123abcd.pq"):
        (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
        shutil.copy(own, tmp_path / "out" / name)
    (tmp_path / "out/data/notes.txt").write_text("mine")
    heard = io.StringIO()
    monkeypatch.setattr("connectors.lease.BEAT_S", 0.1)
    with Lease.take(Folder.open(str(tmp_path / "out/_rmbatch/lease"))), pytest.raises(JobError, match="another run"):
        run(job(tmp_path))
    assert len([*(tmp_path / "out/data").iterdir()]) == 3  # they stay while another run holds the output
    assert run(job(tmp_path), heard).rows == summary.rows
    left = {path.name for part in ("data", "_rejected") for path in (tmp_path / "out" / part).iterdir()}
    assert left == {own.name, "notes.txt"}
    assert "removed data/u000000-0000000000-0123abcd.parquet" in " ".join(heard.getvalue().split())


def test_output_in_memory_is_refused(tmp_path: Path) -> None:
    mapping = job(tmp_path) | {"output": {"path": "memory://out"}}
    with pytest.raises(UserError, match=r"output.path memory://\S*out is the memory of one process"):
        run(mapping)


def test_output_deleted_during_run_stops_job(tmp_path: Path, here: None) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/1.jsonl").write_bytes(lines("old"))
    (tmp_path / "meddler.py").write_text(MEDDLER)
    meddler = {
        "reward": f"{tmp_path}/meddler.py:meddler",
        "old": str(tmp_path / "elsewhere"),
        "new": str(tmp_path / "out"),
    }
    with pytest.raises(DeadEndError, match=r"out was deleted while the job ran: .* run the same command to begin anew"):
        run(job(tmp_path, meddler=meddler))
