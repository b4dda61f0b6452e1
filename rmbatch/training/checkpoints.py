"""verl's checkpoints in a folder: which is the last complete one.

last_step("/out/checkpoints"), step_folder("/out/checkpoints", 20)
"""

from pathlib import Path

TRACKER = "latest_checkpointed_iteration.txt"
"""verl writes it when a checkpoint is complete."""


def last_step(folder: str | Path) -> int | None:
    """The step of the last complete checkpoint. None: there is none."""
    try:
        step = int((Path(folder) / TRACKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return step if Path(step_folder(folder, step)).is_dir() else None


def step_folder(folder: str | Path, step: int) -> str:
    """The folder of a step."""
    return f"{folder}/global_step_{step}"
