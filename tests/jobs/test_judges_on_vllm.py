"""Judges on a real vLLM server: every kind in a job, its answers of the schema, the same again by the same seed."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rmbatch
from tests.jobs.running import by, rows, run
from tests.servers.vllm import vllm_server
from tests.tiny_models import make_model

pytest.importorskip("vllm")
pytestmark = [pytest.mark.served, pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("no_client_stays")]

KINDS: dict[str, dict[str, Any]] = {
    "scale": {"judge": "pointwise", "critique": False},
    "votes": {"judge": "pointwise", "critique": False, "n": 3, "temperature": 1.0, "aggregate": "median"},
    "violated": {"judge": "base_helpfulness_pointwise", "critique": False, "temperature": 1.0},
    "pairs": {"judge": "pairwise", "critique": False, "temperature": 1.0},
    "best": {"judge": "listwise", "critique": False, "temperature": 1.0},
    "order": {"judge": "listwise", "score": "ranking", "critique": False, "temperature": 1.0, "n": 2},
    "steps": {"judge": "stepwise", "critique": False, "temperature": 1.0},
    "reasons": {"judge": "pointwise", "temperature": 1.0, "max_tokens": 200},
}

NO_VERDICT = {"reasons": {"verdict_cut_off"}, "order": {"verdict_ambiguous"}}
"""Random words may go on until they are cut off, and no schema says that each response is ranked once."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root: Path = tmp_path_factory.mktemp("judge")
    model = make_model(root / "model", "causal")
    compact = (
        '{"backend": "xgrammar", "disable_any_whitespace": true}'  # random weights would go on with blanks for ever
    )
    # vLLM 0.32 on CPUs dies of a seeded request whose prompt is read in parts ("CPU Generator does not use offset").
    options = ["--served-model-name", "judge", "--structured-outputs-config", compact, "--no-enable-chunked-prefill"]
    with vllm_server(model, *options, log=root / "log", runner="generate") as server:
        yield server


def samples(num_rows: int) -> list[dict[str, Any]]:
    draw = random.Random(3)
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs"]
    return [
        {
            "id": n,
            "prompt": " ".join(draw.choices(words, k=6)),
            "responses": [" ".join(draw.choices(words, k=8)) + "\n\nand so on" for _ in range(3)],
        }
        for n in range(num_rows)
    ]


def test_every_kind_scores_in_job_and_by_itself(local_ray: None, url: str, tmp_path: Path) -> None:
    found = samples(6)
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(sample) + "\n" for sample in found))
    judges = {
        name: {"max_tokens": 64, **settings, "endpoint": url, "model": "judge", "seed": 7}
        for name, settings in KINDS.items()
    }
    outputs = []
    for place in ("first", "second"):
        output = tmp_path / place  # each with answers of its own, so the server is asked twice
        run({"job": "score", "input": {"path": str(path)}, "rewards": judges, "output": {"path": str(output)}})
        outputs.append(by("id", rows(output)))
    assert outputs[0] == outputs[1]
    for name, settings in judges.items():
        given = {key: value for key, value in settings.items() if key != "judge"}
        judge = rmbatch.judge(settings["judge"], **given)
        singly = [judge.evaluate(sample) for sample in found]
        assert judge.evaluate_batch(found) == singly
        for row, results in zip(outputs[0], singly, strict=True):
            assert row[f"score.{name}"] == [result.score for result in results]  # type: ignore[union-attr]
            assert row[f"error.{name}"] == [result.error for result in results]  # type: ignore[union-attr]
        errors = {error.split(":")[0] for row in outputs[0] for error in row[f"error.{name}"] if error}
        assert errors <= NO_VERDICT.get(name, set())
    assert {row["score.scale"][0] for row in outputs[0]} <= {float(n) for n in range(1, 11)}


def test_cut_off_reason_is_no_verdict(url: str) -> None:
    judge = rmbatch.judge("pointwise", endpoint=url, model="judge", max_tokens=8)
    result = judge.evaluate({"prompt": "q", "response": "a"})
    assert result.score is None  # type: ignore[union-attr]
    assert result.error.startswith("verdict_cut_off:")  # type: ignore[union-attr]
    assert result.reason  # type: ignore[union-attr]


def test_too_long_prompt_is_one_null(url: str) -> None:
    judge = rmbatch.judge("pointwise", endpoint=url, model="judge", critique=False, max_tokens=64)
    long, short = judge.evaluate_batch([{"prompt": "q", "response": "word " * 4000}, {"prompt": "q", "response": "a"}])
    assert long.error.startswith("endpoint_refused: 400")  # type: ignore[union-attr]
    assert short.score is not None  # type: ignore[union-attr]
