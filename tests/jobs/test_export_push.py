"""Exports are put on a Hugging Face hub on loopback, by the library itself in another process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.exports import write_output
from tests.jobs.commands import Command, mistake_of
from tests.servers.hub import HubServer
from tests.servers.s3 import REPOSITORY

pytest.importorskip("huggingface_hub")
TOKEN = "hf_secretsecretsecret"
ADDRESS = "hf://datasets/org/set"


@pytest.fixture
def output(tmp_path: Path) -> str:
    write_output(tmp_path / "out", 50, words=10)
    (tmp_path / "hub").mkdir()
    return str(tmp_path / "out")


def export(output: str, endpoint: str, *options: str, token: str | None = TOKEN) -> "subprocess.CompletedProcess[str]":
    place = Path(output).parent
    named = {"HF_ENDPOINT": endpoint, "HF_HOME": str(place / "home"), "HF_HUB_DISABLE_XET": "1"}
    environment = {**os.environ, **named, **({"HF_TOKEN": token} if token else {}), "COLUMNS": "200"}
    if token is None:
        environment.pop("HF_TOKEN", None)
    return subprocess.run(
        [sys.executable, "-m", "jobs", "export", output, *options, "--push", ADDRESS],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_export_is_uploaded_and_private(output: str, tmp_path: Path) -> None:
    with HubServer(tmp_path / "hub", TOKEN) as hub:
        ended = export(output, hub.endpoint, "--to", "dpo")
        assert ended.returncode == 0, ended.stderr
        assert f"{hub.endpoint}/datasets/org/set" in ended.stdout
        assert [(asked["name"], asked["visibility"]) for asked in hub.created] == [("set", "private")]
        uploaded = {str(path.relative_to(tmp_path / "hub")): path.read_bytes() for path in files(tmp_path / "hub")}
        made = {str(path.relative_to(tmp_path / "out.dpo")): path.read_bytes() for path in files(tmp_path / "out.dpo")}
        assert uploaded == made
        assert {"README.md", "export.json", "data/train-00000.parquet"} == {*made}
        (tmp_path / "hub/data/train-00001.parquet").write_bytes(b"of an earlier, larger export")
        again = export(output, hub.endpoint, "--to", "sft", "--public")
        assert again.returncode == 0, again.stderr
        assert hub.created[-1]["visibility"] == "public"
        assert len(hub.commits) == 2
        assert not (tmp_path / "hub/data/train-00001.parquet").exists()
        assert (tmp_path / "hub/README.md").read_bytes() == (tmp_path / "out.sft/README.md").read_bytes()
        assert TOKEN not in "".join(str(each) for run in (ended, again) for each in (run.stdout, run.stderr))


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_refused_token_is_one_line_without_the_token(output: str, tmp_path: Path) -> None:
    with HubServer(tmp_path / "hub", TOKEN) as hub:
        wrong = export(output, hub.endpoint, "--to", "dpo", token="hf_wrongwrongwrong")
        none = export(output, hub.endpoint, "--to", "dpo", token=None)
    assert (wrong.returncode, none.returncode) == (2, 2)
    assert "the hub refuses the token (401)" in wrong.stderr
    assert "hf_wrong" not in wrong.stderr + wrong.stdout
    assert "set HF_TOKEN, or run" in none.stderr
    assert "Traceback" not in wrong.stderr + none.stderr
    assert (tmp_path / "out.dpo/export.json").exists()


def test_hub_that_is_away_leaves_a_whole_export(output: str, tmp_path: Path) -> None:
    ended = export(output, "http://127.0.0.1:9", "--to", "dpo")
    assert ended.returncode == 1
    assert "stopped: --push hf://datasets/org/set: " in ended.stderr
    assert "the export itself is whole" in ended.stderr
    assert TOKEN not in ended.stderr
    assert (tmp_path / "out.dpo/export.json").exists()


@pytest.mark.parametrize("address", ["org/set", "hf://org/set", "hf://datasets/set", "hf://datasets/org/set/data"])
def test_wrong_address_is_refused_before_work(address: str, output: str, rmbatch: Command, tmp_path: Path) -> None:
    ended = rmbatch("export", output, "--to", "dpo", "--push", address)
    assert mistake_of(ended) == f"--push {address}: write hf://datasets/USER/NAME"
    assert not (tmp_path / "out.dpo").exists()
