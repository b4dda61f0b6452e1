"""The command line: exit codes, one line for a mistake, and commands that run no job."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.jobs.commands import BEST, FLAT, Command, mistake_of, write_jsonl, write_parquet
from tests.servers.s3 import REPOSITORY


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
        (["input.format=parquet"], "no input file found at in/; 1 files of another format, such as IN/a.jsonl: write"),
        (["input.columns.reference=anwser"], "columns: reference: no column 'anwser'; did you mean 'answer'?"),
        (["input.columns.refrence=question"], "columns: refrence: no role, and nothing reads it; did"),
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
def test_mistake_is_one_line(
    rmbatch: Command, best: str, tmp_path: Path, verb: list[str], overrides: list[str], message: str
) -> None:
    write_jsonl(tmp_path / "flat.jsonl", FLAT)
    write_parquet(tmp_path / "flat.parquet", FLAT)
    (tmp_path / "junk.parquet").write_bytes(b"no parquet")
    (tmp_path / "junk.jsonl").write_bytes(b"no json\n")
    line = mistake_of(rmbatch(*verb, best, *overrides))
    assert line.startswith(message.replace("IN", f"{tmp_path}/in").replace("HERE", str(tmp_path)))
    assert not (tmp_path / "out").exists()


def test_missing_job_file_is_refused(rmbatch: Command) -> None:
    assert mistake_of(rmbatch("run", "nowhere.yaml")) == "no job file nowhere.yaml"


def test_yaml_mistake_names_its_line(rmbatch: Command, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("job: score\nrewards: {a: [}\n")
    assert mistake_of(rmbatch("run", "job.yaml")).startswith("job.yaml:2:")


HOSTILE = {
    "reward: os:system": "os is a part of Python and has no reward",
    "reward: accuracy, path: &a [*a]": "unconstructable recursive",
    "reward: " + "[" * 3000: "nested more than 64 deep",
    "reward: 's3://token@host/rewards.py:polite'": "secrets do not belong into a job file",
}


@pytest.mark.parametrize("reward", HOSTILE)
def test_hostile_job_file_is_one_line(rmbatch: Command, no_ray: None, tmp_path: Path, reward: str) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", FLAT)
    text = f"job: score\ninput: {{path: in/}}\nrewards: {{exact: {{{reward}}}}}\noutput: {{path: out/}}\n"
    (tmp_path / "job.yaml").write_text(text)
    outcome = rmbatch("run", "job.yaml")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert HOSTILE[reward] in outcome.err
    assert not (tmp_path / "out").exists()


def test_broken_input_is_one_line(rmbatch: Command, no_ray: None, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", FLAT)
    (tmp_path / "job.yaml").write_text(BEST)
    (tmp_path / "in/loop.jsonl").symlink_to("loop.jsonl")
    outcome = rmbatch("run", "job.yaml")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    (tmp_path / "in/_rmbatch").mkdir()
    (tmp_path / "in/_rmbatch/manifest.json").write_text("[1]")
    outcome = rmbatch("run", "job.yaml")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "manifest.json is damaged" in outcome.err
    assert not (tmp_path / "out").exists()


def test_output_around_its_input_is_refused(rmbatch: Command, three_files: str, tmp_path: Path) -> None:
    (tmp_path / "in").rename(tmp_path / "data")
    for path in ("data/", "data", "data/*.parquet", f"data/{min((tmp_path / 'data').iterdir()).name}"):
        assert "output.path" in mistake_of(rmbatch("run", three_files, f"input.path={path}", "output.path=."))
    assert any((tmp_path / "data").iterdir())


def test_status_of_no_output_is_refused(rmbatch: Command, tmp_path: Path) -> None:
    message = "nowhere is no output of rmbatch: it has no _rmbatch/plan.json"
    assert mistake_of(rmbatch("status", "nowhere")) == message
    (tmp_path / "some").mkdir()
    assert mistake_of(rmbatch("status", "some")) == message.replace("nowhere", "some")


@pytest.mark.parametrize("arguments", [["run"], ["rn"], ["run", "--limit", "x", "job.yaml"], ["plan", "--no-such"], []])
def test_wrong_command_exits_2(rmbatch: Command, arguments: list[str]) -> None:
    outcome = rmbatch(*arguments)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("command", "work", "is_resumed"),
    [("run", "jobs.run.job.run_job", True), ("plan", "jobs.run.rows.plan_job", False)],
)
def test_interrupt_exits_130(
    rmbatch: Command, best: str, monkeypatch: pytest.MonkeyPatch, command: str, work: str, is_resumed: bool
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(work, interrupted)
    outcome = rmbatch(command, best)
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1 - is_resumed] == "interrupted"
    assert ("the same command goes on from there" in outcome.err) == is_resumed


@pytest.mark.parametrize("target", ["local", "ray"])
def test_submit_show_masks_secrets(rmbatch: Command, best: str, target: str) -> None:
    given = [
        "JUDGE_URL=http://judge",
        "JUDGE_API_KEY=sk-it's-private",
        "HF_TOKEN=short",
        "MAX_TOKENS_PER_ROW=sk-it's-private",
    ]
    variables = [each for variable in given for each in ("--env", variable)]
    shown = rmbatch("submit", best, "--to", target, "--show", *variables, "run.block_rows=7").out
    assert "http://judge" in shown
    assert "run.block_rows=7" in shown
    assert not any(secret in shown for secret in ("private", "short"))


def test_version_is_installed_version(rmbatch: Command) -> None:
    outcome = rmbatch("--version")
    assert (outcome.code, outcome.out) == (0, f"rmbatch {version('rmbatch')}\n")


def test_completion(rmbatch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_RMBATCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "rmbatch pl")
    monkeypatch.setenv("COMP_CWORD", "1")
    command = [sys.executable, "-c", "import sys; sys.argv = ['rmbatch']; from jobs.cli import main; main()"]
    outcome = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert outcome.stdout.split() == ["plan"]


def test_help(rmbatch: Command) -> None:
    outcome = rmbatch("--help")
    assert outcome.code == 0
    for command in ("run", "plan", "status", "rewards"):
        assert command in outcome.out
