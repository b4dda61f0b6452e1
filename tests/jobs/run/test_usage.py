"""The file of usage that a run keeps: on each store, while the run goes on, after a lost board or a failed write."""

from collections.abc import Mapping
from pathlib import Path

import pytest

import rmbatch
from connectors.storage import Folder
from jobs.run.services import Services
from jobs.run.usage import UsageLog, read_usage
from rmbatch.judges.reward import JudgeReward
from rmbatch.pipeline.here import HereServices
from rmbatch.stages.base import Needs


def judge(**settings: object) -> JudgeReward:
    """A judge whose price is 1 dollar for 1,000 prompt tokens."""
    price = {"input": 1000.0, "output": 0.0}
    found = rmbatch.judge("pointwise", endpoint="http://127.0.0.1:9", model="m", price=price, **settings)
    assert isinstance(found, JudgeReward)
    return found


KIND, STYLE = judge(), judge(temperature=0.5)


def services(folder: Folder, askers: Mapping[str, JudgeReward]) -> Services:
    needs = Needs(askers=askers)
    return Services(needs, HereServices(needs, folder))


def open_log(output: Folder, told: list[str] | None = None, **askers: JudgeReward) -> UsageLog:
    private = output.folder("_rmbatch")
    say = (told if told is not None else []).append
    return UsageLog(private, services(private, askers or {"kind": KIND}), say)


def counts(reward: JudgeReward, answers: int) -> dict[str, int]:
    return {f"{reward.counted_as}.answers": answers, f"{reward.counted_as}.prompt_tokens": 100 * answers}


def test_each_run_has_a_file_and_they_add_up(folder: Folder) -> None:
    for answers in (3, 4):
        log = open_log(folder)
        log.save(counts(KIND, 1))  # too early to write
        log.close(counts(KIND, answers))
    runs, damaged = read_usage(folder)
    assert [run.last["kind"].counts["answers"] for run in runs] == [3, 4]
    assert [run.last["kind"].usd for run in runs] == pytest.approx([0.3, 0.4])
    assert damaged == 0


def test_file_is_written_anew_while_the_run_goes_on(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.run.usage.SAVE_EVERY_S", 0.0)
    log = open_log(folder)
    log.save({})
    assert read_usage(folder) == ([], 0)  # nothing has been used
    for answers in (1, 2):
        log.save(counts(KIND, answers))
        ((run,), _) = read_usage(folder)  # as a kill now would leave it
        assert run.last["kind"].counts["answers"] == answers


def test_counts_of_a_lost_board_stay(folder: Folder) -> None:
    log = open_log(folder)
    for answers in (5, 2, 3):  # the board's process was lost after 5, and its new one counts from zero
        log.close(counts(KIND, answers))
    ((run,), _) = read_usage(folder)
    assert run.last["kind"].counts["answers"] == 5 + 3
    for later in ({}, counts(KIND, 3), {}):  # it could not be asked for a moment, and then Ray is gone
        log.close(later)
        ((run,), _) = read_usage(folder)
        assert run.last["kind"].counts["answers"] == 5 + 3


def test_rewards_that_are_counted_together_are_one_user(folder: Folder) -> None:
    log = open_log(folder, one=KIND, style=STYLE, same=KIND)
    log.close({**counts(KIND, 2), **counts(STYLE, 1)})
    ((run,), _) = read_usage(folder)
    assert {name: used.counts["answers"] for name, used in run.last.items()} == {"one, same": 2, "style": 1}


def test_failed_write_is_a_warning_and_the_next_one_counts(tmp_path: Path) -> None:
    (tmp_path / "_rmbatch").mkdir()
    (tmp_path / "_rmbatch/usage").write_text("a file where the folder should be")
    told: list[str] = []
    log = open_log(Folder.open(str(tmp_path)), told)
    log.close(counts(KIND, 1))
    log.close(counts(KIND, 2))
    (line,) = told  # not one for each try
    assert line.startswith(f"warning: {tmp_path}/_rmbatch/usage/")
    assert "the job goes on" in line
    (tmp_path / "_rmbatch/usage").unlink()
    log.close(counts(KIND, 2))
    ((run,), _) = read_usage(Folder.open(str(tmp_path)))
    assert run.last["kind"].counts["answers"] == 2


def test_damaged_files_are_counted(folder: Folder) -> None:
    open_log(folder).close(counts(KIND, 1))
    folder.write("_rmbatch/usage/20260101T000000Z-00000000.json", b'{"version": 1')
    runs, damaged = read_usage(folder)
    assert (len(runs), damaged) == (1, 1)
