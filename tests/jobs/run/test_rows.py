"""Jobs over rows that run, stop on their way, and continue."""

import json
from pathlib import Path

import pytest

from connectors.ledger import Ledger
from connectors.storage import Folder
from tests.jobs.commands import FLAT, NESTED, Command, mistake_of, write_jsonl
from tests.jobs.running import by, rows


def stop_halfway(output: Path) -> None:
    """Make a finished output one that was interrupted: without its manifest and one of its commit records."""
    (output / "_rmbatch/manifest.json").unlink()
    min((output / "_rmbatch/commits").iterdir()).unlink()


def test_run_then_run_again(rmbatch: Command, three_files: str, tmp_path: Path) -> None:
    outcome = rmbatch("run", three_files)
    assert outcome.code == 0
    assert "9" in outcome.out  # rows in
    assert "rows are finished" not in outcome.err  # nothing to go on from
    found = by("uid", rows("out"))
    assert [row["uid"] for row in found] == ["aa", "ab", "ba", "bb", "ca", "cb"]
    assert [row["select.response"] for row in found] == ["4", "3"] * 3
    assert len(rows("out", "rejected")) == 3

    again = rmbatch("run", three_files)
    assert again.code == 0
    assert "is finished; nothing to do" in again.err
    assert rmbatch("run", three_files, "run.cpus=1", "run.unit_mb=1").code == 0  # how it runs may change
    status = rmbatch("status", "out")
    assert (status.code, "finished" in status.out, "9 of 9 (100.0%)" in status.out) == (0, True, True)

    changed = mistake_of(rmbatch("run", three_files, "select.keep=2"))
    assert changed.startswith(f"{tmp_path}/out belongs to another job: select.keep: 1 -> 2 (planned -> now)")
    changed = mistake_of(rmbatch("run", three_files, "rewards.exact.reward=f1_score"))
    assert "rewards.exact.reward: 'accuracy' -> 'f1_score'" in changed
    assert by("uid", rows("out")) == found


def test_run_and_status_as_json(rmbatch: Command, three_files: str) -> None:
    outcome = rmbatch("run", three_files, "--json")
    summary = json.loads(outcome.out)
    assert summary["rows"] == {"data": 6, "rejected": 3, "dead_letters": 0}
    assert 0 < summary["work_seconds"] <= summary["seconds"]
    assert summary["rows_per_s"] == pytest.approx(9 / summary["work_seconds"])
    status = json.loads(rmbatch("status", "out", "--json").out)
    assert (status["state"], status["rows"], status["planned_rows"]) == ("finished", 9, 9)
    assert status["tally"]["scored.exact"] == summary["tally"]["scored.exact"]


def test_rate_leaves_out_files_beyond_limit(rmbatch: Command, three_files: str, tmp_path: Path) -> None:
    summary = json.loads(rmbatch("run", three_files, "--limit", "1", "--json").out)
    read = (tmp_path / "in/a.jsonl").stat().st_size / 2  # one of its two rows
    assert summary["bytes_per_s"] * summary["work_seconds"] == pytest.approx(read)


def test_interrupted_job_names_changes(rmbatch: Command, three_files: str, tmp_path: Path) -> None:
    assert rmbatch("run", three_files).code == 0
    stop_halfway(tmp_path / "out")
    assert "not finished" in rmbatch("status", "out").out or "running" in rmbatch("status", "out").out
    assert "select.keep: 1 -> 2" in mistake_of(rmbatch("run", three_files, "select.keep=2"))
    assert mistake_of(rmbatch("run", "best.yaml", "input.path=out", "output.path=next")).endswith(
        "out is the output of a job that has not finished; run that job's command again first"
    )

    first = tmp_path / "in/a.jsonl"
    text = first.read_text()
    first.unlink()
    gone = rmbatch("run", three_files)
    assert gone.code == 1
    assert f"stopped: the input is not what was planned: {first} is gone" in gone.err

    first.write_text(text + text)
    changed = rmbatch("run", three_files)
    assert changed.code == 1
    assert f"{first} has changed ({len(text)} bytes when planned, {2 * len(text)} now)" in changed.err


def test_interrupted_job_continues(rmbatch: Command, three_files: str, tmp_path: Path) -> None:
    assert rmbatch("run", three_files).code == 0
    finished = by("uid", rows("out"))
    stop_halfway(tmp_path / "out")
    write_jsonl(tmp_path / "in/d.jsonl", NESTED)  # came later
    outcome = rmbatch("run", three_files)
    assert outcome.code == 0
    assert "resuming: 7 of 9 rows are finished" in outcome.err
    assert f"warning: {tmp_path}/in/d.jsonl is new, and not part of this job's plan" in outcome.err
    assert by("uid", rows("out")) == finished


RAISES = """
import pyarrow as pa

def picky(response):
    if "boom" in response.to_pylist():
        raise KIND("cannot read\\n  boom")
    return pa.array([1.0] * len(response))
"""


@pytest.mark.parametrize("kind", ["ValueError", "SystemExit"])  # sys.exit() of a script that became a reward
@pytest.mark.usefixtures("here")
def test_raising_reward_stops_job_or_gives_null(rmbatch: Command, tmp_path: Path, kind: str) -> None:
    write_jsonl(tmp_path / "flat.jsonl", FLAT)
    (tmp_path / "mine.py").write_text(RAISES.replace("KIND", kind))
    (tmp_path / "score.yaml").write_text(
        "job: score\ninput: {path: flat.jsonl}\nrewards: {nice: mine.py:picky}\noutput: {path: out}\n"
    )
    stopped = rmbatch("run", "score.yaml")
    assert stopped.code == 1
    message, cure = stopped.err.splitlines()
    assert message == (
        f"stopped: reward 'nice' raised {kind}: cannot read boom on row 1 of {tmp_path}/flat.jsonl; "
        "mend it, or set run.on_error: null to go on"
    )
    assert cure == "what is finished stays; the same command goes on from there"

    assert rmbatch("run", "score.yaml", "run.on_error=null").code == 0  # on the same output
    assert [(row["score.nice"], row["error.nice"]) for row in rows("out")] == [
        (1.0, None),
        (None, f"reward_raised: {kind}: cannot read boom"),
        (1.0, None),
    ]


def test_too_many_nulls_stop_job(rmbatch: Command, three_files: str) -> None:
    write_jsonl(Path("in/a.jsonl"), [row | {"answer": None} for row in NESTED])
    outcome = rmbatch("run", three_files, "run.max_null_share=0.3")
    assert outcome.code == 1
    assert "score.exact is null for 53% of 17 responses, mostly missing_reference; " in outcome.err
    assert "run.max_null_share allows 30%" in outcome.err
    assert Ledger(Folder.open("out")).manifest() is None


def test_too_many_nulls_stop_finished_job_again(rmbatch: Command, three_files: str) -> None:
    write_jsonl(Path("in/a.jsonl"), [row | {"answer": None} for row in NESTED])
    limited = ["run", three_files, "run.max_null_share=0.3"]
    assert (rmbatch(*limited).code, rmbatch(*limited).code) == (1, 1)  # the same command, all rows committed
    assert rmbatch("run", three_files, "run.max_null_share=0.6").code == 0


@pytest.mark.usefixtures("here")
def test_column_of_later_rows_is_found(rmbatch: Command, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", [{"response": str(number)} for number in range(1200)])
    write_jsonl(tmp_path / "in/b.jsonl", [{"response": "4", "gold": "4"}])
    (tmp_path / "score.yaml").write_text(
        "job: score\ninput: {path: in, columns: {reference: gold}}\nrewards: {exact: accuracy}\noutput: {path: out}\n"
    )
    outcome = rmbatch("run", "score.yaml")
    assert outcome.code == 0
    assert "warning: by the first 1,000 rows, columns: reference: no column 'gold'" in outcome.err
    assert [row["score.exact"] for row in rows("out") if row["gold"]] == [1.0]
    never = rmbatch("run", "score.yaml", "input.columns.reference=goldd", "output.path=never")
    assert never.code == 2
    assert never.err.splitlines()[-1].startswith("error: columns: reference: no column 'goldd'; did you mean 'gold'?")
    assert not (tmp_path / "never/_rmbatch/plan.json").exists()


@pytest.mark.usefixtures("here")
def test_changed_reward_file_warns(rmbatch: Command, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "flat.jsonl", FLAT)
    (tmp_path / "mine.py").write_text(
        "import pyarrow as pa\ndef one(response):\n    return pa.array([1.0] * len(response))\n"
    )
    (tmp_path / "score.yaml").write_text(
        "job: score\ninput: {path: flat.jsonl}\nrewards: {one: mine.py:one}\noutput: {path: out}\n"
    )
    assert rmbatch("run", "score.yaml").code == 0
    (tmp_path / "mine.py").write_text(
        "import pyarrow as pa\ndef one(response):\n    return pa.array([2.0] * len(response))\n"
    )
    again = rmbatch("run", "score.yaml")
    assert again.code == 0
    assert "warning: mine.py has changed; finished rows keep the scores of its former version" in again.err
