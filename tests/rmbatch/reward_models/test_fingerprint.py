"""Whatever changes a score changes the fingerprint, and nothing else does; on real files and a real hub's answers."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from connectors.errors import UserError
from rmbatch.reward_models.fingerprint import (
    READ_BYTES,
    compute_fingerprint,
    resolve_commit,
)
from rmbatch.reward_models.spec import RewardModelSpec

ROOT = Path(__file__).parents[3]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40
FILES = {
    "model-00001-of-00002.safetensors": b"weights one",
    "model-00002-of-00002.safetensors": b"weights two",
    "pytorch_model.bin": b"weights three",
    "consolidated.pt": b"weights four",
    "config.json": b'{"model_type": "qwen2"}',
    "modeling_mine.py": b"class Mine: ...",
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "spiece.model": b"pieces",
    "merges.txt": b"a b",
    "modules.json": b'[{"path": ""}, {"path": "1_Pooling"}]',
    "1_Pooling/config.json": b'{"pooling": "last"}',
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return made(tmp_path / "model")


def made(folder: Path) -> Path:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def named(folder: Path | str, template: str = "{{ messages }}", **settings: Any) -> str:
    return compute_fingerprint(RewardModelSpec(model=str(folder), **settings), template).hex


@pytest.mark.parametrize("name", FILES)
def test_another_content_of_the_same_size(model: Path, name: str) -> None:
    before, stat = named(model), (model / name).stat()
    content = bytearray(FILES[name])
    content[-2] ^= 1
    (model / name).write_bytes(content)
    os.utime(model / name, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as copying tools leave it
    assert named(model) != before


def test_a_change_behind_the_first_read(model: Path) -> None:
    path = model / "model-00001-of-00002.safetensors"
    path.write_bytes(bytes(READ_BYTES + 2))
    before = named(model)
    path.write_bytes(bytes(READ_BYTES + 1) + b"\1")
    assert named(model) != before


def test_a_file_more_or_less(model: Path) -> None:
    before = named(model)
    (model / "model-00002-of-00002.safetensors").rename(model / "model-00003-of-00003.safetensors")
    renamed = named(model)
    (model / "model-00003-of-00003.safetensors").unlink()
    assert len({before, renamed, named(model)}) == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"template": "{{ messages | reverse }}"},
        {"dtype": "bfloat16"},
        {"quantization": "fp8"},
        {"max_length": 1024},
        {"truncation": "truncate_prompt"},
        {"system": "Be brief."},
        {"system": ""},  # an empty message is a message
        {"steps": {}},
        {"steps": {"tag": "<step>"}},
        {"steps": {"split": "lines"}},
        {"engine": "transformers"},
        {"engine_args": {"rope_scaling": None}},
        {"engine_args": {"hf_overrides": {"rope_theta": 1.0}}},
        {"trust_remote_code": True},
        {"tensor_parallel": 2},  # sums in another order
    ],
    ids=str,
)
def test_a_setting_that_changes_scores(model: Path, changed: dict[str, Any]) -> None:
    assert named(model, **changed) != named(model)
    if changed.get("steps"):
        assert named(model, **changed) != named(model, steps={})


@pytest.mark.parametrize(
    "changed",
    [
        {"replicas": 4},
        {"replicas": (1, 8)},
        {"gpus": 0.5},
        {"cpus": 4},
        {"store": "memory://scores"},
        {"activation": "sigmoid"},  # what is kept are raw outputs
        {"outputs": ["good"]},
        {"output": 0},
        {"startup_timeout_s": 5},
        {"hang_timeout_s": 5},
        {"engine": "transformers", "batch_tokens": 1024},
        {"engine": "endpoint", "endpoints": ["http://a"], "revision": "mine", "in_flight": 1},
        {"engine": "endpoint", "endpoints": ["http://b"], "revision": "mine"},
        {"golden": [{"prompt": "2 + 2?", "response": "4", "score": 1.0}]},
        {"chat_template": "{{ messages }}"},  # the text in use is what counts, wherever it comes from
        {"revision": "main"},  # a folder has none
    ],
    ids=str,
)
def test_a_setting_that_changes_no_score(model: Path, changed: dict[str, Any]) -> None:
    other = {"engine": changed.get("engine", "vllm")}
    if other["engine"] == "endpoint":
        other |= {"endpoints": ["http://localhost"], "revision": "mine"}
    assert named(model, **changed) == named(model, **other)


def test_how_steps_become_one_score_is_free(model: Path) -> None:
    assert named(model, steps={"aggregate": "mean"}) == named(model, steps={"aggregate": "min"})


@pytest.mark.parametrize(
    "name", ["README.md", "optimizer.pt", "training_args.bin", "trainer_state.json", ".hidden.json"]
)
def test_what_lies_beside_a_model_is_no_part_of_it(model: Path, name: str) -> None:
    before = named(model)
    (model / name).write_bytes(b"anything")
    (model / "checkpoint-100").mkdir()
    (model / "checkpoint-100" / "model.safetensors").write_bytes(b"earlier weights")
    assert named(model) == before


def test_a_moved_model_is_the_same_scorer(model: Path, tmp_path: Path) -> None:
    before = named(model)
    model.rename(tmp_path / "elsewhere")
    assert named(tmp_path / "elsewhere") == before


def test_an_adapter_is_of_its_base(model: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"difference")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model)}))
    before = named(adapter)
    (model / "pytorch_model.bin").write_bytes(b"weights five!")
    assert named(adapter) != before


def test_details_are_for_people_and_decide_the_name(model: Path) -> None:
    found = compute_fingerprint(RewardModelSpec(model=str(model), dtype="bfloat16"), "{{ messages }}")
    read = json.loads(json.dumps(found.details))
    assert read == found.details
    assert (read["called"], read["dtype"], read["chat_template"]) == (str(model), "bfloat16", "{{ messages }}")
    assert set(read["weights"]["files"]) == set(FILES)
    assert len(found.hex) == 32
    assert int(found.hex, 16)


def test_an_endpoint_needs_a_name_for_its_weights(model: Path) -> None:
    served = {"engine": "endpoint", "endpoints": ["http://localhost:1"]}
    with pytest.raises(UserError, match="revision: NAME"):
        named("rm", **served)
    first = named("rm", **served, revision="first")
    assert first != named("rm", **served, revision="second")
    assert first != named("rm2", **served, revision="first")  # one server may serve several
    assert first != named("rm", **served, revision="first", api="sglang")
    assert first == named("rm", engine="endpoint", endpoints=["http://other:1", "http://localhost:2"], revision="first")
    with_tokenizer = named(model, **served, revision="first")
    (model / "tokenizer.json").write_bytes(b"[]")
    changed = named(model, **served, revision="first")
    (model / "pytorch_model.bin").unlink()  # weights there are not those that the server has
    assert with_tokenizer != changed == named(model, **served, revision="first")


def test_a_commit_is_taken_at_its_word() -> None:
    assert resolve_commit("org/rm", COMMIT) == COMMIT
    assert named("org/rm", revision=COMMIT) != named("org/rm", revision=OTHER)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local cache of the hub, as its client writes it, and no network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    cached = tmp_path / "hub" / "models--org--rm"
    for commit, ref in ((COMMIT, "main"), (OTHER, "v2")):
        (cached / "snapshots" / commit).mkdir(parents=True)
        (cached / "snapshots" / commit / "config.json").write_text("{}")
        (cached / "refs").mkdir(exist_ok=True)
        (cached / "refs" / ref).write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cached


def test_offline_the_cache_knows_the_commit(cache: Path) -> None:
    assert resolve_commit("org/rm", None) == COMMIT
    assert resolve_commit("org/rm", "v2") == OTHER
    assert named("org/rm") == named("org/rm", revision=COMMIT) != named("org/rm", revision="v2")


@pytest.mark.parametrize(
    ("model", "revision", "said"),
    [("org/other", None, "'org/other' is no folder"), ("org/rm", "v9", "'v9'"), ("/no/such/folder", None, "no folder")],
)
def test_a_model_that_nobody_has(cache: Path, model: str, revision: str | None, said: str) -> None:
    spec = RewardModelSpec(model=model, revision=revision)
    with pytest.raises(UserError, match=said):
        compute_fingerprint(spec, "")


@pytest.fixture
def hub() -> Iterator[tuple[str, Callable[[str], None]]]:
    """A server that answers as the hub does when asked for the commit of org/rm, and a way to push to it."""
    commits = {"main": COMMIT}

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            found = self.path == "/org/rm/resolve/main/config.json"
            self.send_response(200 if found else 404)
            if found:
                headers = {"X-Repo-Commit": commits["main"], "ETag": '"1"', "Content-Length": "2"}
                for name, value in headers.items():
                    self.send_header(name, value)
            else:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", lambda commit: commits.update(main=commit)
        server.shutdown()
        thread.join()


def test_online_the_hub_knows_better_than_the_cache(
    hub: tuple[str, Callable[[str], None]], cache: Path, tmp_path: Path
) -> None:
    endpoint, push = hub
    script = (
        "import sys; from rmbatch.reward_models.fingerprint import resolve_commit as commit\n"
        "print(commit(sys.argv[1], None))"
    )
    here = {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(tmp_path / "hub"), "PYTHONPATH": str(ROOT)}

    def asked(model: str) -> "subprocess.CompletedProcess[str]":
        # A process of its own, because the client reads its address when it is imported.
        command = [sys.executable, "-c", script, model]
        return subprocess.run(command, env={**os.environ, **here}, capture_output=True, text=True, timeout=60)

    assert asked("org/rm").stdout.strip() == COMMIT
    push("a" * 40)
    assert asked("org/rm").stdout.strip() == "a" * 40
    assert (cache / "refs" / "main").read_text() == COMMIT  # asking changes nothing
    assert "'org/other' is no folder" in asked("org/other").stderr
