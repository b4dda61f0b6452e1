"""The command line as a person meets it: exit codes, one line for a mistake, and jobs that stop, go on and are done."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from connectors.ledger import Ledger
from connectors.local import LocalStore
from connectors.storage import Folder
from jobs.cli import main
from tests.jobs.running import by, rows
from tests.servers.s3 import REPOSITORY

NESTED = [
    {"uid": "a", "question": "2+2", "candidates": ["4", "5"], "answer": "4"},
    {"uid": "b", "question": "1+2", "candidates": ["1", None, "3"], "answer": "3"},
    {"uid": "c", "question": "1+1", "candidates": [], "answer": "2"},
    {"uid": "d", "question": "0+0", "candidates": ["0"], "answer": None},
]
FLAT = [
    {"uid": "a", "question": "2+2", "response": "4", "answer": "4"},
    {"uid": "a", "question": "2+2", "response": "boom", "answer": "4"},
    {"uid": "b", "question": "1+2", "response": "3", "answer": "3"},
]

BEST = """
job: best_of_n
input: {path: in/}
rewards: {exact: {reward: accuracy}}
output: {path: out/}
"""


@dataclass(frozen=True)
class Ended:
    """What a command came to."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def rmbatch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """``rmbatch …`` in this process, in an empty folder of its own, on a wide terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: str) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ending:
            main(list(arguments))
        out, err = capsys.readouterr()
        assert isinstance(ending.value.code, int)
        return Ended(ending.value.code, out, err)

    return command


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting Ray, or working on a Ray that is there, fails the test."""

    def refused(*args: Any, **options: Any) -> None:
        raise AssertionError("this command needs no Ray")

    for name in ("init", "remote", "get", "put"):
        monkeypatch.setattr(ray, name, refused)


def write_jsonl(path: Path, records: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_parquet(path: Path, records: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(records)), path)


@pytest.fixture
def best(tmp_path: Path) -> str:
    """A best-of-N job on four prompts, and an empty place for its output."""
    write_jsonl(tmp_path / "in/a.jsonl", NESTED)
    (tmp_path / "best.yaml").write_text(BEST)
    return "best.yaml"


def told(ended: Ended) -> str:
    """The one line of a user's mistake: exit code 2, no traceback, nothing on stdout."""
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    return line.removeprefix("error: ")


# --- a user's mistake: one line, exit code 2, nothing written ---------------------------------------------------------


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("verb", [["run"], ["run", "--dry-run"], ["plan"]])
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["select.kep=2"], "best.yaml: select.kep: unknown key; did you mean 'keep'?"),
        (["select.keep=two"], "best.yaml: select.keep: got 'two'; write a whole number"),
        (["select.keep"], "'select.keep' is no override; write key.sub=value, such as select.keep=2"),
        (["input.path=${NO_SUCH}"], "best.yaml: input.path: the environment variable NO_SUCH is not set"),
        (["--limit", "0"], "best.yaml: input.limit: got 0; write 1 or more"),
        (["input.path=nowhere/"], "no such file or folder: nowhere/"),
        (["input.path='nowhere/*'"], "no file matches nowhere/*"),
        (["input.path=nowhere://x"], "cannot open nowhere:// (Protocol not known: nowhere)"),
        (["input.format=parquet"], "no input file found at in/; 1 files of another format, such as IN/a.jsonl"),
        (["input.columns.reference=anwser"], "columns: reference: no column 'anwser'; did you mean 'answer'?"),
        (["input.columns.reference=null"], "reward 'exact' reads 'reference', and no column plays that role"),
        (["output.columns=[uidd]"], "output.columns names 'uidd', which the input does not have; did you mean 'uid'?"),
        (["rewards.exact.reward=acuracy"], "no reward 'acuracy': did you mean 'accuracy'"),
        (["rewards.exact.reward=mine.py:f"], "no reward file mine.py"),
        (["rewards.exact.reward=no.such:f"], "reward 'no.such:f': no module 'no.such'; is it on PYTHONPATH?"),
        (["rewards.exact.strict=true"], "reward 'accuracy': strict: unknown knob"),
        (["rewards.exact={reward: f1_score, tokenizer: wrds}"], "reward 'f1_score': tokenizer: got 'wrds'"),
        (["combine.exat=1"], "combine.exat: no reward has this name; did you mean 'exact'?"),
        (["rewards.exact.api_key=private"], "best.yaml: rewards.exact.api_key: secrets do not belong into a job file"),
        (["input.path=flat.jsonl"], "the input has one response per row; name the column that tells"),
        (
            ["input.path=flat.jsonl", "input.group.by=uit"],
            "input.group.by names 'uit', which the input does not have; did you mean 'uid'?",
        ),
        (["input.path=[in, flat.parquet]"], "the input mixes "),
        (["input.path=junk.parquet"], "HERE/junk.parquet is not a readable Parquet file"),
        (["input.path=junk.jsonl"], "no line of the input holds a JSON object; the first file is HERE/junk.jsonl"),
    ],
)
def test_a_mistake_is_one_line(
    rmbatch: Command, best: str, tmp_path: Path, verb: list[str], overrides: list[str], message: str
) -> None:
    write_jsonl(tmp_path / "flat.jsonl", FLAT)
    write_parquet(tmp_path / "flat.parquet", FLAT)
    (tmp_path / "junk.parquet").write_bytes(b"no parquet")
    (tmp_path / "junk.jsonl").write_bytes(b"no json\n")
    line = told(rmbatch(*verb, best, *overrides))
    assert line.startswith(message.replace("IN", f"{tmp_path}/in").replace("HERE", str(tmp_path)))
    assert not (tmp_path / "out").exists()


def test_a_job_file_that_is_not_there(rmbatch: Command) -> None:
    assert told(rmbatch("run", "nowhere.yaml")) == "no job file nowhere.yaml"


def test_a_mistake_in_yaml_is_told_with_its_place(rmbatch: Command, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("job: score\nrewards: {a: [}\n")
    assert told(rmbatch("run", "job.yaml")).startswith("job.yaml:2:")


# --- commands that only look ------------------------------------------------------------------------------------------


def test_rewards(rmbatch: Command) -> None:
    ended = rmbatch("rewards")
    assert ended.code == 0
    assert "f1_score" in ended.out
    assert "F1 of the sets of tokens" in ended.out


def test_one_reward(rmbatch: Command, tmp_path: Path) -> None:
    ended = rmbatch("rewards", "f1_score")
    assert ended.code == 0
    assert "knob     tokenizer: 'words' | 'jieba' | 'tiktoken' = 'words'" in ended.out
    assert "Null response or reference: null." in ended.out
    (tmp_path / "mine.py").write_text('def kind(response, *, word="please"):\n    "Says the word."\n')
    assert "Says the word." in rmbatch("rewards", "mine.py:kind").out
    assert told(rmbatch("rewards", "f1scor")).startswith("no reward or judge 'f1scor': did you mean 'f1_score'?")


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
@pytest.mark.parametrize("verb", [["plan"], ["run", "--dry-run"]])
def test_a_plan_shows_everything_and_writes_nothing(
    rmbatch: Command, best: str, tmp_path: Path, verb: list[str], write: Callable[..., None]
) -> None:
    suffix = write.__name__.removeprefix("write_")
    write(tmp_path / f"nested.{suffix}", NESTED)
    before = sorted(tmp_path.rglob("*"))
    ended = rmbatch(*verb, best, f"input.path=nested.{suffix}")
    shown = ended.out + ended.err
    assert ended.code == 0
    for told in (
        *("question", "candidates", "answer"),  # the roles that were guessed
        *("score.exact", "select.rank", "outranked", "missing_reference: reference is null"),  # the first rows
        f"1 {suffix} files",
    ):
        assert told in shown
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("no_ray")
def test_a_plan_of_flat_rows(rmbatch: Command, best: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "flat.parquet", FLAT)
    ended = rmbatch("plan", best, "input.path=flat.parquet", "input.group.by=uid", "--limit", "2")
    assert ended.code == 0
    assert "outranked" in ended.out
    assert "uid" in ended.out
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_ray")
def test_a_plan_of_no_rows(rmbatch: Command, best: str, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(NESTED).slice(0, 0), tmp_path / "empty.parquet")
    assert rmbatch("plan", best, "input.path=empty.parquet").code == 0


def test_the_status_of_no_output(rmbatch: Command, tmp_path: Path) -> None:
    message = "nowhere is no output of rmbatch: it has no _rmbatch/plan.json"
    assert told(rmbatch("status", "nowhere")) == message
    (tmp_path / "some").mkdir()
    assert told(rmbatch("status", "some")) == message.replace("nowhere", "some")


@pytest.mark.parametrize("arguments", [["run"], ["rn"], ["run", "--limit", "x", "job.yaml"], ["plan", "--no-such"], []])
def test_a_wrong_command_exits_2(rmbatch: Command, arguments: list[str]) -> None:
    ended = rmbatch(*arguments)
    assert ended.code == 2
    assert "Traceback" not in ended.err


def test_an_interrupt_exits_130(rmbatch: Command, best: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jobs.run.rows.look_ahead", interrupted)
    ended = rmbatch("plan", best)
    assert ended.code == 130
    assert "the same command goes on from there" in ended.err


def test_version_is_the_installed_one(rmbatch: Command) -> None:
    ended = rmbatch("--version")
    assert (ended.code, ended.out) == (0, f"rmbatch {version('rmbatch')}\n")


def test_completion_is_offered(rmbatch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_RMBATCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "rmbatch pl")
    monkeypatch.setenv("COMP_CWORD", "1")
    command = [sys.executable, "-c", "import sys; sys.argv = ['rmbatch']; from jobs.cli import main; main()"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert ended.stdout.split() == ["plan"]


def test_rewards_stand_under_topics(rmbatch: Command) -> None:
    out = rmbatch("rewards").out
    assert out.index("mathematics") < out.index("math_verify_reward") < out.index("programs") < out.index("code_execut")


def test_rewards_as_json(rmbatch: Command) -> None:
    ended = rmbatch("rewards", "--json")
    found = json.loads(ended.out)
    assert {"name": "pairwise", "kind": "pairwise"}.items() <= found["judges"][1].items()
    (f1,) = (each for each in found["rewards"] if each["name"] == "f1_score")
    assert (f1["topic"], f1["columns"]) == ("answers", ["response", "reference"])
    assert json.loads(rmbatch("rewards", "math_verify", "--json").out)["rewards"][0]["topic"] == "mathematics"


@pytest.mark.usefixtures("no_ray")
def test_a_plan_as_json(rmbatch: Command, best: str) -> None:
    ended = rmbatch("plan", best, "--json")
    found = json.loads(ended.out)
    assert (found["num_rows"], found["estimated"], found["format"]) == (4, True, "jsonl")
    assert found["roles"] == {"id": "uid", "prompt": "question", "responses": "candidates", "reference": "answer"}
    assert found["reads"] == {"exact": ["response", "reference"]}
    assert [row["score.exact"] for row in found["first_rows"]] == [[1.0, 0.0], [0.0, None, 1.0], [], [None]]


def test_help(rmbatch: Command) -> None:
    ended = rmbatch("--help")
    assert ended.code == 0
    for command in ("run", "plan", "status", "rewards"):
        assert command in ended.out


# --- jobs that run ----------------------------------------------------------------------------------------------------


@pytest.fixture
def three_files(tmp_path: Path, here: None) -> str:
    """A best-of-N job on three files, so that it has three tasks and three commit records."""
    for number, name in enumerate("abc"):
        write_jsonl(
            tmp_path / f"in/{name}.jsonl", [row | {"uid": f"{name}{row['uid']}"} for row in NESTED[: number + 2]]
        )
    (tmp_path / "best.yaml").write_text(BEST)
    return "best.yaml"


def stop_halfway(output: Path) -> None:
    """Make a finished output one that was interrupted: without its manifest and one of its commit records."""
    (output / "_rmbatch/manifest.json").unlink()
    min((output / "_rmbatch/commits").iterdir()).unlink()


def test_a_job_from_its_beginning_to_its_end(rmbatch: Command, three_files: str, tmp_path: Path) -> None:
    ended = rmbatch("run", three_files)
    assert ended.code == 0
    assert "9" in ended.out  # rows in
    assert "rows are finished" not in ended.err  # nothing to go on from
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

    changed = told(rmbatch("run", three_files, "select.keep=2"))
    assert changed.startswith(f"{tmp_path}/out belongs to another job: select.keep: 1 -> 2 (planned -> now)")
    changed = told(rmbatch("run", three_files, "rewards.exact.reward=f1_score"))
    assert "rewards.exact.reward: 'accuracy' -> 'f1_score'" in changed
    assert by("uid", rows("out")) == found


def test_run_and_status_as_json(rmbatch: Command, three_files: str) -> None:
    ended = rmbatch("run", three_files, "--json")
    summary = json.loads(ended.out)
    assert summary["rows"] == {"data": 6, "rejected": 3, "dead_letters": 0}
    assert 0 < summary["work_seconds"] <= summary["seconds"]
    assert summary["rows_per_s"] == pytest.approx(9 / summary["work_seconds"])
    status = json.loads(rmbatch("status", "out", "--json").out)
    assert (status["state"], status["rows"], status["planned_rows"]) == ("finished", 9, 9)
    assert status["tally"]["scored.exact"] == summary["tally"]["scored.exact"]


def test_a_limit_leaves_unread_files_out_of_the_rate(rmbatch: Command, three_files: str, tmp_path: Path) -> None:
    summary = json.loads(rmbatch("run", three_files, "--limit", "1", "--json").out)
    read = (tmp_path / "in/a.jsonl").stat().st_size / 2  # one of its two rows
    assert summary["bytes_per_s"] * summary["work_seconds"] == pytest.approx(read)


def test_overwriting_asks_and_begins_anew(rmbatch: Command, three_files: str, tmp_path: Path) -> None:
    assert rmbatch("run", three_files).code == 0
    answers = tmp_path / "out/_rmbatch/answers/of-a-judge"
    answers.parent.mkdir()
    answers.write_text("paid for")
    refused = told(rmbatch("run", three_files, "--overwrite", "select.keep=2"))
    assert refused.startswith(f"{tmp_path}/out holds 9 finished rows. Delete them and begin anew? Nobody is here")
    assert len(rows("out")) == 6
    ended = rmbatch("run", three_files, "--overwrite", "--yes", "select.keep=2")
    assert (ended.code, f"deleted 9 finished rows in {tmp_path}/out" in ended.err) == (0, True)
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
def test_a_mistake_in_the_job_overwrites_nothing(rmbatch: Command, three_files: str, mistake: str, why: str) -> None:
    assert rmbatch("run", three_files).code == 0
    assert why in told(rmbatch("run", three_files, "--overwrite", "--yes", mistake))
    assert len(rows("out")) == 6


def test_an_output_around_its_input_is_refused(rmbatch: Command, three_files: str, tmp_path: Path) -> None:
    (tmp_path / "in").rename(tmp_path / "data")
    for path in ("data/", "data", "data/*.parquet", f"data/{min((tmp_path / 'data').iterdir()).name}"):
        assert "output.path" in told(rmbatch("run", three_files, f"input.path={path}", "output.path=."))
    assert any((tmp_path / "data").iterdir())


def test_what_a_reward_prints_is_not_in_the_json(rmbatch: Command, three_files: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def said(response: str) -> float:\n    print(response)\n    return 1.0\n")
    found = json.loads(rmbatch("plan", three_files, "rewards.exact.reward=own.py:said", "--json").out)
    assert found["reads"] == {"exact": ["response"]}


@pytest.mark.parametrize("plan", [b'{"version": 1}', b"{"])
def test_an_output_that_cannot_be_read_is_overwritten(
    rmbatch: Command, three_files: str, tmp_path: Path, plan: bytes
) -> None:
    old = tmp_path / "out/rejected/u000000-0000000000-0badcafe.parquet"  # where version 1 wrote
    old.parent.mkdir(parents=True)
    old.write_bytes(b"x")
    (tmp_path / "out/_rmbatch").mkdir()
    (tmp_path / "out/_rmbatch/plan.json").write_bytes(plan)
    assert rmbatch("run", three_files).code != 0
    assert rmbatch("run", three_files, "--overwrite", "--yes").code == 0
    assert (len(rows("out")), old.exists()) == (6, False)


def test_overwriting_that_is_killed_leaves_a_job_that_goes_on(
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


def test_a_job_that_was_interrupted_names_what_has_changed(rmbatch: Command, three_files: str, tmp_path: Path) -> None:
    assert rmbatch("run", three_files).code == 0
    stop_halfway(tmp_path / "out")
    assert "not finished" in rmbatch("status", "out").out or "running" in rmbatch("status", "out").out
    assert "select.keep: 1 -> 2" in told(rmbatch("run", three_files, "select.keep=2"))
    assert told(rmbatch("run", "best.yaml", "input.path=out", "output.path=next")).endswith(
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


def test_a_job_that_was_interrupted_goes_on(rmbatch: Command, three_files: str, tmp_path: Path) -> None:
    assert rmbatch("run", three_files).code == 0
    finished = by("uid", rows("out"))
    stop_halfway(tmp_path / "out")
    write_jsonl(tmp_path / "in/d.jsonl", NESTED)  # came later
    ended = rmbatch("run", three_files)
    assert ended.code == 0
    assert "resuming: 7 of 9 rows are finished" in ended.err
    assert f"warning: {tmp_path}/in/d.jsonl is new, and not part of this job's plan" in ended.err
    assert by("uid", rows("out")) == finished


RAISES = """
import pyarrow as pa

def picky(response):
    if "boom" in response.to_pylist():
        raise ValueError("cannot read\\n  boom")
    return pa.array([1.0] * len(response))
"""


@pytest.mark.usefixtures("here")
def test_a_reward_that_raises(rmbatch: Command, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "flat.jsonl", FLAT)
    (tmp_path / "mine.py").write_text(RAISES)
    (tmp_path / "score.yaml").write_text(
        "job: score\ninput: {path: flat.jsonl}\nrewards: {nice: mine.py:picky}\noutput: {path: out}\n"
    )
    stopped = rmbatch("run", "score.yaml")
    assert stopped.code == 1
    message, cure = stopped.err.splitlines()
    assert message == (
        f"stopped: reward 'nice' raised ValueError: cannot read boom on row 1 of {tmp_path}/flat.jsonl; "
        "mend it, or set run.on_error: null to go on"
    )
    assert cure == "what is finished stays; the same command goes on from there"

    assert rmbatch("run", "score.yaml", "run.on_error=null").code == 0  # on the same output
    assert [(row["score.nice"], row["error.nice"]) for row in rows("out")] == [
        (1.0, None),
        (None, "reward_raised: ValueError: cannot read boom"),
        (1.0, None),
    ]


def test_too_many_nulls(rmbatch: Command, three_files: str) -> None:
    write_jsonl(Path("in/a.jsonl"), [row | {"answer": None} for row in NESTED])
    ended = rmbatch("run", three_files, "run.max_null_share=0.3")
    assert ended.code == 1
    assert "score.exact is null for 53% of 17 responses, mostly missing_reference; " in ended.err
    assert "run.max_null_share allows 30%" in ended.err
    assert Ledger(Folder.open("out")).manifest() is None


def test_too_many_nulls_stay_too_many(rmbatch: Command, three_files: str) -> None:
    write_jsonl(Path("in/a.jsonl"), [row | {"answer": None} for row in NESTED])
    limited = ["run", three_files, "run.max_null_share=0.3"]
    assert (rmbatch(*limited).code, rmbatch(*limited).code) == (1, 1)  # the same command, all rows committed
    assert rmbatch("run", three_files, "run.max_null_share=0.6").code == 0


@pytest.mark.usefixtures("here")
def test_a_column_that_comes_only_in_later_rows_is_waited_for(rmbatch: Command, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", [{"response": str(number)} for number in range(1200)])
    write_jsonl(tmp_path / "in/b.jsonl", [{"response": "4", "gold": "4"}])
    (tmp_path / "score.yaml").write_text(
        "job: score\ninput: {path: in, columns: {reference: gold}}\nrewards: {exact: accuracy}\noutput: {path: out}\n"
    )
    ended = rmbatch("run", "score.yaml")
    assert ended.code == 0
    assert "warning: by the first 1,000 rows, columns: reference: no column 'gold'" in ended.err
    assert [row["score.exact"] for row in rows("out") if row["gold"]] == [1.0]
    never = rmbatch("run", "score.yaml", "input.columns.reference=goldd", "output.path=never")
    assert never.code == 2
    assert never.err.splitlines()[-1].startswith("error: columns: reference: no column 'goldd'; did you mean 'gold'?")
    assert not (tmp_path / "never/_rmbatch/plan.json").exists()


@pytest.mark.usefixtures("here")
def test_a_changed_file_of_rewards_is_named(rmbatch: Command, tmp_path: Path) -> None:
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
    assert "warning: mine.py has changed; rows that are finished keep the scores that it gave before" in again.err


@pytest.mark.usefixtures("no_ray")
def test_square_brackets_in_the_data_are_no_markup(rmbatch: Command, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "flat.jsonl", [{"response": "[INST] hi [/INST] [b]", "answer": "[/x]"}])
    (tmp_path / "score.yaml").write_text(
        "job: score\ninput: {path: flat.jsonl}\nrewards: {exact: accuracy}\noutput: {path: out}\n"
    )
    assert "[INST] hi [/INST] [b]" in rmbatch("plan", "score.yaml").out


HOSTILE = {
    "reward: os:system": "os is a part of Python and has no reward",
    "reward: accuracy, path: &a [*a]": "unconstructable recursive",
    "reward: " + "[" * 3000: "nested more than 64 deep",
    "reward: 's3://token@host/rewards.py:polite'": "secrets do not belong into a job file",
}


@pytest.mark.parametrize("reward", HOSTILE)
def test_a_hostile_job_file_is_one_line_and_leaves_no_folder(
    rmbatch: Command, no_ray: None, tmp_path: Path, reward: str
) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", FLAT)
    text = f"job: score\ninput: {{path: in/}}\nrewards: {{exact: {{{reward}}}}}\noutput: {{path: out/}}\n"
    (tmp_path / "job.yaml").write_text(text)
    ended = rmbatch("run", "job.yaml")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert HOSTILE[reward] in ended.err
    assert not (tmp_path / "out").exists()


def test_an_input_with_a_broken_manifest_or_a_link_to_itself_is_one_line(
    rmbatch: Command, no_ray: None, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", FLAT)
    (tmp_path / "job.yaml").write_text(BEST)
    (tmp_path / "in/loop.jsonl").symlink_to("loop.jsonl")
    ended = rmbatch("run", "job.yaml")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    (tmp_path / "in/_rmbatch").mkdir()
    (tmp_path / "in/_rmbatch/manifest.json").write_text("[1]")
    ended = rmbatch("run", "job.yaml")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "manifest.json is damaged" in ended.err
    assert not (tmp_path / "out").exists()
