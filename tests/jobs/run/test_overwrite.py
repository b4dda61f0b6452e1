"""``rmbatch run --overwrite``: what it deletes, and when it deletes nothing."""

from pathlib import Path
from typing import Any

import pytest

from connectors.local import LocalStore
from tests.jobs.commands import Command, mistake_of
from tests.jobs.running import rows


def test_overwrite_asks_and_begins_anew(rmbatch: Command, three_files: str, tmp_path: Path) -> None:
    assert rmbatch("run", three_files).code == 0
    answers = tmp_path / "out/_rmbatch/answers/of-a-judge"
    answers.parent.mkdir()
    answers.write_text("paid for")
    refused = mistake_of(rmbatch("run", three_files, "--overwrite", "select.keep=2"))
    assert refused.startswith(f"{tmp_path}/out holds 9 finished rows. Delete them and begin anew? Nobody is here")
    assert len(rows("out")) == 6
    outcome = rmbatch("run", three_files, "--overwrite", "--yes", "select.keep=2")
    assert (outcome.code, f"deleted 9 finished rows in {tmp_path}/out" in outcome.err) == (0, True)
    assert len(rows("out")) == 6
    assert answers.read_text() == "paid for"  # nothing is paid for twice


@pytest.mark.parametrize(
    ("mistake", "why"),
    [
        ("input.path=typo/", "no such file or folder: typo/"),
        ("input.path=out/", "output.path: out/ lies inside the input out/"),
        ("input.path=out/data", "output.path: out/ would hold the input"),
        ("input.columns.reference=typo", "typo"),
    ],
)
def test_mistake_in_job_overwrites_nothing(rmbatch: Command, three_files: str, mistake: str, why: str) -> None:
    assert rmbatch("run", three_files).code == 0
    assert why in mistake_of(rmbatch("run", three_files, "--overwrite", "--yes", mistake))
    assert len(rows("out")) == 6


@pytest.mark.parametrize("plan", [b'{"version": 1}', b"{"])
def test_damaged_output_is_overwritten(rmbatch: Command, three_files: str, tmp_path: Path, plan: bytes) -> None:
    old = tmp_path / "out/rejected/u000000-0000000000-0badcafe.parquet"  # where version 1 wrote
    old.parent.mkdir(parents=True)
    old.write_bytes(b"x")
    (tmp_path / "out/_rmbatch").mkdir()
    (tmp_path / "out/_rmbatch/plan.json").write_bytes(plan)
    assert rmbatch("run", three_files).code != 0
    assert rmbatch("run", three_files, "--overwrite", "--yes").code == 0
    assert (len(rows("out")), old.exists()) == (6, False)


def test_killed_overwrite_leaves_job_that_continues(
    rmbatch: Command, three_files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removals = 0
    for allowed in range(1, 6):
        assert rmbatch("run", three_files).code == 0
        removals = 0

        def counted(self: LocalStore, path: str, real: Any = LocalStore.remove_folder, allowed: int = allowed) -> None:
            nonlocal removals
            removals += 1
            if removals > allowed:
                raise KeyboardInterrupt
            real(self, path)

        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, "remove_folder", counted)
            rmbatch("run", three_files, "--overwrite", "--yes")
        assert rmbatch("run", three_files).code == 0
        assert len(rows("out")) == 6
