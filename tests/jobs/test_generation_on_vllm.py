"""Generation on a real vLLM server: candidates by their seeds, a job that is killed and goes on, solved sums."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import rmbatch
from connectors.storage import StorageOptions
from jobs.examples import solve_rate
from jobs.examples.sums import sums
from rmbatch.stores.answers import ResponseCache, key_of
from tests.chaos.victim import Victim
from tests.jobs.running import by, rows, run
from tests.servers.counting import CountingProxy
from tests.servers.s3 import REPOSITORY
from tests.servers.vllm import vllm_server
from tests.tiny_models import make_model

pytest.importorskip("vllm")
pytestmark = [pytest.mark.served, pytest.mark.timeout(600), pytest.mark.usefixtures("no_client_stays")]

SEEDED = ("--no-enable-chunked-prefill", "--max-num-batched-tokens", "2048", "--max-num-seqs", "64")
"""vLLM 0.32 on CPUs dies of a seeded request whose prompt is read in parts ("CPU Generator does not use offset")."""
IN_FLIGHT = 16
SMOLLM2 = REPOSITORY / "out/demo-llm/model"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model with random weights: what it says has no meaning, but each seed has its own."""
    root: Path = tmp_path_factory.mktemp("generator")
    model = make_model(root / "model", "causal")
    with vllm_server(
        model, "--served-model-name", "tiny", *SEEDED, log=root / "log", runner="generate", max_model_len=1024
    ) as server:
        yield server


def job(tmp_path: Path, url: str, num_rows: int, out: str, **generate: Any) -> dict[str, Any]:
    """A generate job over this many sums; its answers are kept beside its output."""
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in sums(num_rows)))
    return {
        "job": "generate",
        "input": {"path": str(path)},
        "models": {"tiny": {"endpoint": url, "model": "tiny", "in_flight": IN_FLIGHT}},
        "generate": {"by": "tiny", "n": 4, "max_tokens": 32, "seed": 7, **generate},
        "output": {"path": str(tmp_path / out)},
        "run": {"cpus": 2, "on": "here"},
    }


def test_each_candidate_has_its_own_seed_and_repeats_with_it(url: str, tmp_path: Path) -> None:
    for out in ("first", "second"):  # each keeps its own answers, so the server is asked twice
        run(job(tmp_path, url, 12, out))
    run(job(tmp_path, url, 12, "other", seed=8))
    first, second, other = (by("id", rows(tmp_path / out)) for out in ("first", "second", "other"))
    assert first == second
    texts = [text for row in first for text in row["responses"]]
    assert len(set(texts)) > 40
    assert not {text for row in other for text in row["responses"]} & set(texts)
    for row in first:
        for text, told in zip(row["responses"], row["generation"], strict=True):
            assert (told["finish_reason"] == "length") == (told["error"] or "").startswith("cut_off:")
            assert text is None or told["tokens"] > 0
            assert told["prompt_tokens"] > 10


def test_a_notebook_gets_what_a_job_gets(url: str, tmp_path: Path) -> None:
    run(job(tmp_path, url, 6, "out"))
    model = {"endpoint": url, "model": "tiny"}
    found = rmbatch.generate(list(sums(6)), by=model, n=4, max_tokens=32, seed=7)
    written = by("id", rows(tmp_path / "out"))
    assert [row["responses"] for row in found] == [row["responses"] for row in written]


def correcting(tmp_path: Path, url: str, out: str) -> dict[str, Any]:
    """A job that corrects wrong sums in three rounds; the critique is what the check has found."""
    path = tmp_path / "wrong.jsonl"
    path.write_text("".join(json.dumps({**row, "response": "It is 1."}) + "\n" for row in sums(60)))
    editor = {"by": "tiny", "edits": 2, "max_tokens": 64, "template": "{{ prompt }} {{ response }} {{ critique }}"}
    rewards = {"math": {"reward": "math_verify"}, "length": {"reward": "length_penalty", "max_length": 60}}
    base = job(tmp_path, url, 0, out) | {"job": "correct", "input": {"path": str(path)}, "rewards": rewards}
    del base["generate"]
    correct = {"gate": {"below": 2.0}, "critics": ["math"], "editor": editor, "rounds": 3, "stop": {"patience": 3}}
    return base | {"combine": {"math": 1.0, "length": 0.1}, "correct": correct}


@pytest.mark.parametrize("kind", ["generate", "correct"])
def test_killed_job_asks_nothing_again_and_ends_the_same(kind: str, url: str, tmp_path: Path) -> None:
    def make_job(out: str) -> dict[str, Any]:
        return correcting(tmp_path, proxy.url, out) if kind == "correct" else job(tmp_path, proxy.url, 60, out)

    with CountingProxy(url) as proxy:
        run(make_job("whole"))
        num_requests = len({key_of(service_of(proxy.url), body) for body in proxy.asked})
        assert num_requests == len(proxy.asked) >= 200
        forget(proxy)
        file = tmp_path / "job.json"
        file.write_text(json.dumps(make_job("killed")))
        with Victim(file) as victim:
            victim.start()
            deadline = time.monotonic() + 120
            while proxy.num_answered < num_requests // 2 and time.monotonic() < deadline and victim.alive():
                time.sleep(0.02)
            assert victim.kill_driver(), victim.said()
            for process in victim.processes():
                process.kill()
            victim.left_behind_s()
            proxy.wait_for_clients_to_leave()
            kept = find_kept(tmp_path / "killed", proxy)
            assert num_requests // 3 <= len(kept) < num_requests
            assert proxy.num_answered - len(kept) <= IN_FLIGHT  # answered, but the process died before it read them
            forget(proxy)
            victim.start()
            assert victim.wait() == 0, victim.said()
        asked = [key_of(service_of(proxy.url), body) for body in proxy.asked]
        assert not kept.intersection(asked)
        assert len(asked) == len(set(asked)) == num_requests - len(kept)
    assert by("id", rows(tmp_path / "killed")) == by("id", rows(tmp_path / "whole"))


def distill(tmp_path: Path, url: str, out: str) -> list[list[str]]:
    """The commands of a distillation: eight answers scored, the best kept, written for two trainers, reported."""
    root = tmp_path / out
    root.mkdir()
    scoring = job(tmp_path, url, 12, f"{out}/scored", n=8, max_tokens=64, stop=["e", " "])
    rewards = {"short": {"reward": "length_penalty", "max_length": 60}, "words": {"reward": "agreement"}}
    selecting = {
        "job": "select",
        "input": {"path": str(root / "scored"), "columns": {"id": "id", "prompt": "prompt", "responses": "responses"}},
        "select": {"by": {"short": 1.0, "words": 0.1}, "cut_off": "keep", "duplicates": "normalised"},
        "output": {"path": str(root / "selected")},
        "run": {"cpus": 2, "on": "here"},
    }
    for name, written in (("score", {**scoring, "job": "score", "rewards": rewards}), ("select", selecting)):
        (root / f"{name}.json").write_text(json.dumps(written))
    exports = [
        ["export", str(root / "selected"), "--to", to, "--by", "short", "--out", str(root / to)]
        for to in ("sft", "dpo")
    ]
    return [*(["run", str(root / f"{name}.json")] for name in ("score", "select")), *exports]


def test_killed_distillation_ends_with_the_same_dataset(url: str, tmp_path: Path) -> None:
    chance = random.Random(20261129)
    took = [carry_out(command) for command in distill(tmp_path, url, "whole")]
    kills = 0
    for command, seconds in zip(distill(tmp_path, url, "killed"), took, strict=True):
        kills += kill_in(command, chance.uniform(0.3, 0.9) * seconds)
        carry_out(command)
    assert kills >= 2
    whole, killed = (by("id", rows(tmp_path / out / "selected")) for out in ("whole", "killed"))
    assert whole == killed
    for to in ("sft", "dpo"):
        first, second = (exported(tmp_path / out / to) for out in ("whole", "killed"))
        assert len(first) > 0
        assert first == second


def carry_out(command: list[str]) -> float:
    """The seconds that a command takes."""
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "jobs", *command], cwd=REPOSITORY, check=True, capture_output=True, timeout=300
    )
    return time.monotonic() - began


def kill_in(command: list[str], seconds: float) -> bool:
    """SIGKILL a command after so many seconds; False if it had ended before."""
    with subprocess.Popen(
        [sys.executable, "-m", "jobs", *command], cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return True
    return False


def exported(folder: Path) -> list[dict[str, Any]]:
    """The rows of an export by their ids, but for the names of files that they come from."""
    found = by("id", [{**row, "id": row["lineage"]["id"]} for row in pq.read_table(folder / "data").to_pylist()])
    for row in found:
        for name in [name for name in row["lineage"] if name.endswith(("source", "job"))]:
            del row["lineage"][name]  # the job's fingerprint holds the path of its input
    return found


def forget(proxy: CountingProxy) -> None:
    """Begin to count anew."""
    proxy.asked.clear()
    proxy.num_answered = 0


def service_of(url: str) -> str:
    """The name under which answers of a server are kept."""
    return url.removeprefix("http://")


def find_kept(output: Path, proxy: CountingProxy) -> set[bytes]:
    """The keys of the requests whose answers a job has kept."""
    service = service_of(proxy.url)
    kept = ResponseCache.open(str(output / "_rmbatch/answers"), StorageOptions(), service=service, model="tiny")
    return {key for body in proxy.asked if (key := key_of(service, body)) in kept}


@pytest.mark.llm
def test_more_candidates_solve_more_sums(tmp_path: Path) -> None:
    """What `make demo-llm` shows, on fewer sums."""
    if not SMOLLM2.is_dir():
        pytest.skip(f"no {SMOLLM2}: `make test-llm` makes it")
    log = tmp_path / "log"
    with vllm_server(
        str(SMOLLM2), "--served-model-name", "tiny", *SEEDED, log=log, runner="generate", max_model_len=1024
    ) as server:
        generating = job(tmp_path, server, 16, "out", n=8, temperature=0.8, max_tokens=48)
        run({**generating, "job": "score", "rewards": {"math": {"reward": "math_verify"}}})
    counts = solve_rate.count_right(rows(tmp_path / "out"), "math")
    rates = {size: best for size, best, _ in solve_rate.solve_rates(counts)}
    assert 0.02 < rates[1] < rates[2] < rates[4] < rates[8]
    assert rates[8] > 2 * rates[1]
