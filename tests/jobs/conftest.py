"""Fixtures: the command line in this process, and small jobs for it."""

from pathlib import Path
from typing import Any

import pytest
import ray

from jobs.cli import main
from tests.jobs.commands import BEST, NESTED, Command, Outcome, write_jsonl


@pytest.fixture
def rmbatch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """``rmbatch …`` in this process, in an empty folder of its own, on a wide terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: str) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ending:
            main(list(arguments))
        out, err = capsys.readouterr()
        assert isinstance(ending.value.code, int)
        return Outcome(ending.value.code, out, err)

    return command


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting Ray, or working on a Ray that is there, fails the test."""

    def refused(*args: Any, **options: Any) -> None:
        raise AssertionError("this command needs no Ray")

    for name in ("init", "remote", "get", "put"):
        monkeypatch.setattr(ray, name, refused)


@pytest.fixture
def best(tmp_path: Path) -> str:
    """A best-of-N job on four prompts, and an empty place for its output."""
    write_jsonl(tmp_path / "in/a.jsonl", NESTED)
    (tmp_path / "best.yaml").write_text(BEST)
    return "best.yaml"


@pytest.fixture
def three_files(tmp_path: Path, here: None) -> str:
    """A best-of-N job on three files, so that it has three tasks and three commit records."""
    for number, name in enumerate("abc"):
        write_jsonl(
            tmp_path / f"in/{name}.jsonl", [row | {"uid": f"{name}{row['uid']}"} for row in NESTED[: number + 2]]
        )
    (tmp_path / "best.yaml").write_text(BEST)
    return "best.yaml"
