"""verl's checkpoints: the last complete one."""

from pathlib import Path

import pytest

from rmbatch.training.checkpoints import TRACKER, last_step, step_folder


@pytest.mark.parametrize(
    ("tracker", "folders", "step"),
    [
        (None, [20], None),  # written, but not complete
        ("20", [20], 20),
        ("20", [20, 40], 20),  # 40 was being written
        ("20", [], None),  # deleted by somebody
        ("", [20], None),
    ],
)
def test_last_complete_checkpoint(tmp_path: Path, tracker: str | None, folders: list[int], step: int | None) -> None:
    for each in folders:
        Path(step_folder(tmp_path, each)).mkdir()
    if tracker is not None:
        (tmp_path / TRACKER).write_text(tracker)
    assert last_step(tmp_path) == step
