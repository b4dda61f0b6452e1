"""Jobs with real vLLM on the CPU: scores as transformers gives them, bad rows alone without one, engines replaced."""

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from connectors.errors import JobError, UserError
from rmbatch.endpoints.connections import close_all
from rmbatch.reward_models.reward import reward_model
from tests.jobs.running import by, rows, run
from tests.tiny_models import OUTPUTS, STEP, make_model

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")
pytestmark = [pytest.mark.served, pytest.mark.ray, pytest.mark.timeout(600)]

ENGINE: dict[str, Any] = {
    "gpus": 0,
    "cpus": 0.4,
    "dtype": "float32",
    "engine_args": {"enforce_eager": True, "kv_cache_memory_bytes": 256 << 20},
}
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "and", "sleeps", "for", "hours", "in", "sun"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root: Path = tmp_path_factory.mktemp("models")
    return {family: make_model(root / family, family) for family in ("scalar", "multi", "process")}


@pytest.fixture(autouse=True)
def _no_engine_stays() -> Iterator[None]:
    yield
    close_all()


def text(draw: np.random.Generator, low: int, high: int) -> str:
    return " ".join(draw.choice(WORDS, int(draw.integers(low, high))))


def prompts(num_rows: int, seed: int = 0, candidates: int = 4) -> list[dict[str, Any]]:
    """Nested rows: a prompt and its candidates, two of which are equal."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(num_rows):
        responses = [text(draw, 3, 30) for _ in range(candidates - 1)]
        found.append({"id": number, "prompt": text(draw, 5, 60), "responses": [*responses, responses[0]]})
    return found


def write(path: Path, lines: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def by_transformers(folder: str, conversations: list[tuple[str, str]]) -> np.ndarray:
    """Raw outputs [n, width], each conversation alone."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for prompt, response in conversations:
        said = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        ids = tokenizer(tokenizer.apply_chat_template(said, tokenize=False), add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            found.append(model(torch.tensor([ids])).logits[0].numpy())
    return np.array(found)


def test_scores_of_all_families(local_ray: None, models: dict[str, str], tmp_path: Path) -> None:
    """Two replicas of a scalar model, a multi-output and a process model, over rows some of which cannot be scored."""
    good = prompts(40)
    too_long = {"id": 100, "prompt": "word " * 3000, "responses": ["yes", "no"]}
    malformed = {"id": 101, "prompt": [{"role": "user", "content": None}], "responses": ["yes", "no"]}
    nothing = {"id": 102, "prompt": "hi", "responses": [None, "fine"]}
    steps = {"id": 103, "prompt": "solve", "responses": ["first this\n\nthen that\n\nso 4", "5"]}
    chat = [
        {**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in [*good, too_long, nothing, steps]
    ]
    job = {
        "job": "score",
        "input": {"path": write(tmp_path / "in.jsonl", [*chat, malformed])},
        "rewards": {
            "rm": {"model": models["scalar"], "replicas": 2, **ENGINE},
            "many": {"model": models["multi"], "output": "correct", **ENGINE},
            "prm": {"model": models["process"], "steps": {"tag": STEP}, "activation": "softmax", **ENGINE, "cpus": 0.2},
        },
        "output": {"path": str(tmp_path / "out")},
    }
    summary = run(job)
    found = {row["id"]: row for row in rows(tmp_path / "out")}
    assert len(found) == 44

    pairs = [(row["prompt"], response) for row in good for response in row["responses"]]
    scalar = np.array([score for row in good for score in found[row["id"]]["score.rm"]])
    np.testing.assert_allclose(scalar, by_transformers(models["scalar"], pairs)[:, 0], atol=1e-3)
    multi = by_transformers(models["multi"], pairs)
    for place, name in enumerate(OUTPUTS):
        part = np.array([score for row in good for score in found[row["id"]][f"score.many.{name}"]])
        np.testing.assert_allclose(part, multi[:, place], atol=1e-3)
    chosen = np.array([score for row in good for score in found[row["id"]]["score.many"]])
    np.testing.assert_allclose(chosen, multi[:, 1], atol=1e-3)

    assert found[100]["score.rm"] == [None, None]
    assert all(error.startswith("context_too_long: ") for error in found[100]["error.rm"])
    assert all(error.startswith("malformed_conversation: ") for error in found[101]["error.many.terse"])
    assert found[102]["error.rm"] == ["missing_response: response is null", None]
    assert [len(each) for each in found[103]["steps.prm"]] == [3, 1]
    assert found[103]["score.prm"] == [min(each) for each in found[103]["steps.prm"]]
    assert all(0 < score < 1 for score in found[103]["steps.prm"][0])
    assert summary.served["rm"]["repeated"] == 40  # of each prompt's four candidates two are equal
    assert summary.served["rm"]["tokens"] > 0

    rm = reward_model(models["scalar"], **ENGINE)
    batch = rm.evaluate_batch([{"prompt": row["prompt"], "responses": row["responses"]} for row in good[:5]])
    for row, results in zip(good, batch):
        np.testing.assert_allclose([each.score for each in results], found[row["id"]]["score.rm"], atol=1e-4)
    alone = rm.evaluate({"prompt": good[0]["prompt"], "response": good[0]["responses"][0]})
    assert alone.score == pytest.approx(found[0]["score.rm"][0], abs=1e-4)


def replicas() -> list[psutil.Process]:
    """The engines' processes on this machine."""
    return [each for each in psutil.process_iter(["name"]) if (each.info["name"] or "").startswith("ray::Replica")]


@pytest.mark.chaos
def test_killed_replica_costs_no_row(local_ray: None, models: dict[str, str], tmp_path: Path) -> None:
    job = {
        "job": "best_of_n",
        "input": {"path": write(tmp_path / "in.jsonl", prompts(500, seed=1, candidates=6))},
        "rewards": {"rm": {"model": models["scalar"], "replicas": 2, **ENGINE}},
        "output": {"path": str(tmp_path / "out")},
        "run": {"block_rows": 64},
    }
    killed: list[int] = []

    def kill_one_at_work() -> None:
        in_work.wait()
        while not killed:
            with suppress(psutil.NoSuchProcess):
                for each in replicas():
                    if any(child.cpu_percent(0.3) > 30 for child in each.children()):  # it computes
                        each.kill()
                        killed.append(each.pid)
                        return

    in_work = threading.Event()
    killer = threading.Thread(target=kill_one_at_work, daemon=True)
    killer.start()
    told = _Told(in_work)
    summary = run(job, told)
    killer.join(10)
    assert killed
    assert summary.rows["data"] == 500
    assert summary.tally["scored.rm"] == 3000
    found = by("id", rows(tmp_path / "out"))
    pairs = [(row["prompt"], row["responses"][0]) for row in found[::25]]
    scores = [row["score.rm"][0] for row in found[::25]]
    np.testing.assert_allclose(scores, by_transformers(models["scalar"], pairs)[:, 0], atol=1e-3)
    assert not [each for each in psutil.process_iter(["name"]) if "VLLM::" in (each.info["name"] or "")]


class _Told:
    """Sets an event when the engines are loaded."""

    def __init__(self, in_work: threading.Event) -> None:
        self.in_work = in_work

    def write(self, text: str) -> int:
        if " ready after " in text:
            self.in_work.set()
        return len(text)

    def flush(self) -> None:
        pass


def test_corrected_job_runs_on_same_output(local_ray: None, models: dict[str, str], tmp_path: Path) -> None:
    engine = {"engine": "transformers", "gpus": 0, "cpus": 0.4, "dtype": "float32"}
    job = {
        "job": "score",
        "input": {"path": write(tmp_path / "in.jsonl", prompts(3))},
        "rewards": {"rm": {"model": models["scalar"], **engine, "engine_args": {"no_such": 1}}},
        "output": {"path": str(tmp_path / "out")},
    }
    with pytest.raises(UserError, match="no_such"):
        run(job)
    summary = run({**job, "rewards": {"rm": {"model": models["scalar"], **engine, "store": str(tmp_path / "s")}}})
    assert summary.tally["scored.rm"] == 12
    again = {**job, "rewards": {"rm": {"model": models["scalar"], **engine, "store": str(tmp_path / "s")}}}
    repeated = run({**again, "output": {"path": str(tmp_path / "other")}})
    assert repeated.served["rm"]["stored"] == 9  # three of each prompt's four candidates are different
    assert repeated.served["rm"]["tokens"] == 0
    assert [row["score.rm"] for row in by("id", rows(tmp_path / "other"))] == [
        row["score.rm"] for row in by("id", rows(tmp_path / "out"))
    ]


def test_model_that_cannot_be_loaded_stops_job(local_ray: None, models: dict[str, str], tmp_path: Path) -> None:
    broken = make_model(tmp_path / "broken", "scalar")
    (Path(broken) / "model.safetensors").write_bytes(b"no weights")
    job = {
        "job": "score",
        "input": {"path": write(tmp_path / "in.jsonl", prompts(3))},
        "rewards": {"rm": {"model": broken, **ENGINE}},
        "output": {"path": str(tmp_path / "out")},
    }
    with pytest.raises((UserError, JobError), match=r"reward 'rm': model '.*broken' cannot be served: .*Safetensor"):
        run(job)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"gpu": 1}, "rewards.rm.gpu: unknown key; did you mean 'gpus'"),
        ({"truncation": "silently"}, "rewards.rm.truncation: got 'silently'"),
        ({"output": "kindness"}, "the model has no output 'kindness'"),
        ({"gpus": 1}, "need more GPUs than the cluster has"),
        ({"replicas": 9}, "need more CPUs than the cluster has"),
    ],
)
def test_job_larger_than_cluster_is_refused(
    local_ray: None, models: dict[str, str], tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    job = {
        "job": "score",
        "input": {"path": write(tmp_path / "in.jsonl", prompts(3))},
        "rewards": {"rm": {"model": models["scalar"], **ENGINE, **changed}},
        "output": {"path": str(tmp_path / "out")},
    }
    with pytest.raises(UserError, match=message):
        run(job)
