"""rmbatch retry: which rows are done again, what stays, what a SIGKILL at each change leaves."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from connectors.ledger import Ledger
from connectors.storage import Folder
from tests.jobs.commands import Command, mistake_of, write_jsonl
from tests.jobs.running import by, rows
from tests.servers.hostile import HostileServer, Status
from tests.servers.s3 import REPOSITORY

pytestmark = [pytest.mark.usefixtures("here", "no_client_stays"), pytest.mark.timeout(280)]

REWARD = '''
from pathlib import Path

import pyarrow as pa
from rmbatch import Scores


def fragile(response, *, switch: str) -> float:
    """The response as a number; it fails for odd ones while the switch is there."""
    if Path(switch).exists() and int(response) % 2:
        raise ConnectionError("the service is down")
    return float(response)


def each(response: pa.Array, *, switch: str) -> Scores:
    """The same, but only the odd ones have no score."""
    values = [int(text) for text in response.to_pylist()]
    failed = [Path(switch).exists() and value % 2 == 1 for value in values]
    score = pa.array([None if fails else value for value, fails in zip(values, failed)], pa.float64())
    error = pa.array(["service_down: it was" if fails else None for fails in failed], pa.string())
    return Scores(score, error, pa.nulls(len(values), pa.string()))
'''
KILLER = """
import os, signal, sys
from connectors.local import LocalStore

left, me = int(sys.argv[1]), os.getpid()

def counting(name):
    call = getattr(LocalStore, name)
    def changed(*args, **options):
        global left
        found = call(*args, **options)
        if os.getpid() == me and "/lease/" not in str(args[1]):
            left -= 1
            if left == 0:
                os.killpg(0, signal.SIGKILL)
        return found
    setattr(LocalStore, name, changed)

for name in ("write", "create", "delete", "remove_folder"):
    counting(name)
from jobs.cli import main
main(sys.argv[2:])
"""


@pytest.fixture
def failed(tmp_path: Path, rmbatch: Command) -> str:
    """A job file whose output has nulls: half of the responses failed while a service was down, and one line is bad."""
    write_jsonl(
        tmp_path / "in/a.jsonl",
        [{"id": n, "prompt": "?", "responses": [str(n), str(2 * n)] if n % 3 else [str(4 * n)]} for n in range(12)],
    )
    with (tmp_path / "in/a.jsonl").open("a") as file:
        file.write("{broken\n")
    (tmp_path / "my.py").write_text(REWARD)
    switch = tmp_path / "down"
    switch.touch()
    (tmp_path / "job.yaml").write_text(
        f"job: best_of_n\ninput: {{path: {tmp_path}/in}}\noutput: {{path: {tmp_path}/out, format: jsonl}}\n"
        f"rewards: {{own: {{reward: '{tmp_path}/my.py:fragile', switch: {switch}}}}}\n"
        "select: {keep: 1, min_score: 0}\nrun: {on_error: 'null', on: here}\n"
    )
    outcome = rmbatch("run", "job.yaml")
    assert outcome.code == 0, outcome.err
    switch.unlink()
    return "job.yaml"


def lines(output: Path) -> dict[int, bytes]:
    """The kept and rejected rows as they stand in the files, by id; fails where a row stands twice."""
    found: dict[int, bytes] = {}
    for path in [*(output / "data").iterdir(), *(output / "_rejected").iterdir()]:
        for line in path.read_bytes().splitlines():
            name = json.loads(line)["id"]
            assert name not in found
            found[name] = line
    return found


def test_failed_rows_are_done_again_and_others_stay(tmp_path: Path, rmbatch: Command, failed: str) -> None:
    before = lines(tmp_path / "out")
    again = {n for n in range(12) if n % 3 and n % 2}
    assert {n for n, line in before.items() if b"reward_raised" in line} == again
    outcome = rmbatch("retry", failed, "--where", "reward_raised", "--json")
    assert outcome.code == 0, outcome.err
    assert "4 rows are done again, for reward_raised 8" in outcome.err
    after = lines(tmp_path / "out")
    assert {n for n in before if before[n] != after[n]} == again
    assert before.keys() == after.keys()
    for row in rows(tmp_path / "out"):
        assert row["select.score"] == max(map(float, row["responses"]))
        assert row["error.own"] == [None] * len(row["responses"])
    counts = json.loads(outcome.out)
    assert counts["rows"] == {"data": 12, "rejected": 0, "dead_letters": 1}
    assert not [name for name in counts["tally"] if "reward_raised" in name]
    manifest = Ledger(Folder.open(str(tmp_path / "out"))).manifest()
    assert manifest is not None
    assert manifest["rows"] == counts["rows"]
    present = {f"data/{path.name}" for path in (tmp_path / "out/data").iterdir()}
    assert present == {file["path"] for file in manifest["files"] if file["part"] == "data"}
    assert "nothing to do" in rmbatch("run", failed).err
    again_outcome = rmbatch("retry", failed, "--where", "reward_raised")
    assert "no row has reward_raised, so nothing is done again; there are: " in again_outcome.err


def test_exports_are_made_anew_of_what_was_retried(tmp_path: Path, rmbatch: Command, failed: str) -> None:
    with_exports = (failed, "output.exports=[sft]")
    before = json.loads(rmbatch("run", *with_exports, "--json").out)["exports"]["sft"]["rows"]
    outcome = rmbatch("retry", *with_exports, "--where", "reward_raised", "--json")
    assert outcome.code == 0, outcome.err
    after = json.loads(outcome.out)["exports"]["sft"]["rows"]
    assert (before, after) == (8, 12)
    assert "is finished; nothing to do" in rmbatch("run", *with_exports).err


def test_only_the_named_reward_counts(tmp_path: Path, rmbatch: Command, failed: str) -> None:
    before = lines(tmp_path / "out")
    assert "no row has own=timeout" in rmbatch("retry", failed, "--where", "own=timeout").err
    assert "no row has no_answer" in rmbatch("retry", failed, "--where", "no_answer").err
    assert lines(tmp_path / "out") == before
    assert "4 rows are done again" in rmbatch("retry", failed, "--where", "own=reward_*").err


def test_dead_letters_that_fail_again_stay_dead(tmp_path: Path, rmbatch: Command, failed: str) -> None:
    before = lines(tmp_path / "out")
    outcome = rmbatch("retry", failed, "--where", "dead_letters", "--json")
    assert "1 rows are done again" in outcome.err
    assert json.loads(outcome.out)["rows"]["dead_letters"] == 1
    assert len(rows(tmp_path / "out", "dead_letters")) == 1
    assert lines(tmp_path / "out") == before


def test_mistakes_change_nothing(tmp_path: Path, rmbatch: Command, failed: str) -> None:
    before = lines(tmp_path / "out")
    assert "nothing called 'onw' has errors; did you mean 'own'" in mistake_of(
        rmbatch("retry", failed, "--where", "onw=timeout")
    )
    assert "write CODE" in mistake_of(rmbatch("retry", failed, "--where", "own="))
    assert "belongs to another job" in mistake_of(rmbatch("retry", failed, "select.keep=2", "--where", "reward_raised"))
    other = rmbatch("retry", failed, f"output.path={tmp_path}/new", "--where", "reward_raised")
    assert "holds nothing to retry" in mistake_of(other)
    assert lines(tmp_path / "out") == before


def test_a_whole_group_is_selected_again(tmp_path: Path, rmbatch: Command, failed: str) -> None:
    numbers = {0: (0, 1, 2), 1: (3, 4, 5), 2: (6, 8, 10)}  # the last prompt has no odd response
    flat = [{"id": n, "key": key, "prompt": "?", "response": str(n)} for key, some in numbers.items() for n in some]
    write_jsonl(tmp_path / "flat/a.jsonl", flat)
    settings = [f"input.path={tmp_path}/flat", "input.group.by=key", "input.group.rows=adjacent"]
    settings += [f"output.path={tmp_path}/flat_out", f"rewards.own.reward={tmp_path}/my.py:each"]
    (tmp_path / "down").touch()
    assert rmbatch("run", failed, *settings).code == 0
    (tmp_path / "down").unlink()
    assert sorted(row["id"] for row in rows(tmp_path / "flat_out")) == [2, 4, 10]
    outcome = rmbatch("retry", failed, *settings, "--where", "service_down")
    assert "6 rows are done again, for service_down 3" in outcome.err
    assert sorted(row["id"] for row in rows(tmp_path / "flat_out")) == [2, 5, 10]
    assert sorted(row["id"] for row in rows(tmp_path / "flat_out", "rejected")) == [0, 1, 3, 4, 6, 8]
    scattered = [*settings[:1], "input.group.by=key", f"output.path={tmp_path}/other_out"]
    assert rmbatch("run", failed, *scattered).code == 0
    assert "were shuffled" in mistake_of(rmbatch("retry", failed, *scattered, "--where", "reward_raised"))


def test_good_answers_are_not_asked_for_again(tmp_path: Path, rmbatch: Command) -> None:
    def answer(path: str, body: Any) -> Any:
        if body is None:
            return {"data": [{"id": "m"}]}
        text = body["messages"][-1]["content"]
        if is_down and "bad" in text:
            return Status(500)
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        message = {"role": "assistant", "content": f"answer to {text}"}
        return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}

    is_down = True
    write_jsonl(tmp_path / "in.jsonl", [{"id": n, "prompt": f"{'bad' if n == 3 else 'good'} {n}"} for n in range(6)])
    with HostileServer(answer, lambda path, body: path) as server:
        (tmp_path / "job.yaml").write_text(
            f"job: generate\ninput: {{path: {tmp_path}/in.jsonl}}\noutput: {{path: {tmp_path}/out}}\n"
            f"generate: {{endpoint: '{server.url}', model: m, n: 2, attempts: 1}}\nrun: {{on: here}}\n"
        )
        outcome = rmbatch("run", "job.yaml")
        assert outcome.code == 0, outcome.err
        failed_rows = [row["id"] for row in rows(tmp_path / "out") if None in row["responses"]]
        assert failed_rows == [3]
        is_down = False
        num_asked = len([body for _, body, _ in server.asked if body is not None])
        outcome = rmbatch("retry", "job.yaml", "--where", "no_answer")
        assert outcome.code == 0, outcome.err
        asked = [body["messages"][-1]["content"] for _, body, _ in server.asked if body is not None][num_asked:]
    assert asked == ["bad 3", "bad 3"]
    for row in rows(tmp_path / "out"):
        assert row["responses"] == [f"answer to {row['prompt']}"] * 2


@pytest.mark.timeout(900)
def test_a_kill_at_any_change_and_a_resume_equal_one_retry(tmp_path: Path, rmbatch: Command, failed: str) -> None:
    original, killer = lines(tmp_path / "out"), tmp_path / "killer.py"
    killer.write_text(KILLER)
    keep = tmp_path / "finished"
    os.rename(tmp_path / "out", keep)
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    expected: dict[int, bytes] | None = None
    num_killed = 0
    for number in [0, *range(1, 60, 3)]:
        subprocess.run(["cp", "-a", keep, tmp_path / "out"], check=True)
        command = [sys.executable, str(killer), str(number), "retry", failed, "--where", "reward_raised"]
        ended = subprocess.run(command, cwd=tmp_path, env=env, start_new_session=True, capture_output=True, check=False)
        seen = lines(tmp_path / "out")  # no row twice, whatever moment it was
        if number == 0:
            assert ended.returncode == 0, ended.stderr
            expected = seen
            assert expected != original
        elif ended.returncode == 0:
            break
        else:
            assert ended.returncode == -signal.SIGKILL, ended.stderr
            num_killed += 1
            outcome = rmbatch("retry", failed, "--where", "reward_raised")
            assert outcome.code == 0, outcome.err
        assert lines(tmp_path / "out") == expected
        manifest = Ledger(Folder.open(str(tmp_path / "out"))).manifest()
        assert manifest is not None
        assert manifest["rows"] == {"data": 12, "rejected": 0, "dead_letters": 1}
        assert not (tmp_path / "out/_rmbatch/retry.json").exists()
        assert not list((tmp_path / "out/_rmbatch").rglob("*.staged"))
        assert len(by("id", rows(tmp_path / "out"))) == 12
        subprocess.run(["rm", "-r", tmp_path / "out"], check=True)
    assert num_killed >= 4
