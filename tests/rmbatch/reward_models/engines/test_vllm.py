"""Real vLLM on the CPU: raw scores equal to transformers', requests in flight together, one bad one alone fails."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rmbatch.endpoints.errors import ServiceError, ServiceLost
from rmbatch.reward_models.engines.base import Outputs
from rmbatch.reward_models.spec import RewardModelSpec, Steps
from rmbatch.stores.scores import IDS
from tests.tiny_models import STEP, make_tokenizer

pytest.importorskip("vllm")
torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.served, pytest.mark.timeout(300)]

SETTINGS: dict[str, Any] = {
    "gpus": 0,
    "dtype": "float32",
    "engine_args": {"enforce_eager": True, "kv_cache_memory_bytes": 256 << 20},
}


def engine(folder: str, **settings: Any) -> Any:
    from rmbatch.reward_models.engines.vllm import VllmEngine

    return VllmEngine(RewardModelSpec(model=folder, **SETTINGS, **settings))


def random_ids(num_rows: int, seed: int, low: int = 10, high: int = 300) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(10, 500, draw.integers(low, high)).tolist() for _ in range(num_rows)]


def ask(made: Any, *calls: list[list[int]]) -> list[Outputs]:
    async def all_at_once() -> list[Outputs]:
        return await asyncio.gather(*(made.score(pa.array(ids, IDS)) for ids in calls))

    return asyncio.run(all_at_once())


def by_transformers(folder: str, ids: list[list[int]]) -> np.ndarray:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return np.array([model(torch.tensor([row])).logits[0].numpy() for row in ids])


def process_head(folder: str, ids: list[int]) -> np.ndarray:
    """Raw outputs [tokens, 2] of the process model's weights; transformers itself has no class for it."""
    from safetensors.torch import load_file
    from transformers import Qwen2Config, Qwen2Model

    weights = load_file(f"{folder}/model.safetensors")
    body = Qwen2Model(Qwen2Config.from_pretrained(folder)).eval()
    body.load_state_dict({name.removeprefix("model."): each for name, each in weights.items() if "score" not in name})
    with torch.inference_mode():
        hidden = body(torch.tensor([ids])).last_hidden_state[0]
        inner = torch.relu(hidden @ weights["score.0.weight"].T + weights["score.0.bias"])
        return np.asarray(inner @ weights["score.2.weight"].T + weights["score.2.bias"])


@pytest.fixture(scope="module")
def scalar(tiny: dict[str, str]) -> Iterator[Any]:
    made = engine(tiny["scalar"])
    yield made
    made.close()


def test_scores_are_raw_and_equal_to_transformers(scalar: Any, tiny: dict[str, str]) -> None:
    ids = random_ids(20, seed=1)
    (outputs,) = ask(scalar, ids)
    assert scalar.width == 1
    assert outputs.error.null_count == len(ids)
    found = np.array(outputs.values.to_pylist())
    expected = by_transformers(tiny["scalar"], ids)
    assert np.abs(expected).max() > 1.5  # no sigmoid would give these
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_calls_share_the_engine_and_the_prefix(scalar: Any) -> None:
    """Responses to one prompt in three calls at once: each whole 128-token block of the prompt is computed once."""
    prompt = random_ids(1, seed=2, low=640, high=641)[0]
    calls = [[prompt + tail for tail in random_ids(4, seed=3 + call)] for call in range(3)]
    answers = ask(scalar, *calls)
    assert [len(answer.values) for answer in answers] == [4, 4, 4]
    usage = [answer.usage for answer in answers]
    assert sum(each["requests"] for each in usage) == 12
    assert sum(each["tokens"] for each in usage) == sum(len(ids) for call in calls for ids in call)
    assert sum(each["cached_tokens"] for each in usage) >= 11 * 640


def test_what_vllm_refuses_fails_alone(scalar: Any) -> None:
    fine = random_ids(2, seed=9)
    (outputs,) = ask(scalar, [fine[0], [5] * 5000, fine[1]])
    assert outputs.values.is_valid().to_pylist() == [True, False, True]
    assert outputs.error[1].as_py().startswith("refused_by_engine: ")


def test_a_call_without_conversations(scalar: Any) -> None:
    (outputs,) = ask(scalar, [])
    assert len(outputs.values) == len(outputs.error) == 0


def test_several_outputs(tiny: dict[str, str]) -> None:
    made, ids = engine(tiny["multi"]), random_ids(5, seed=4)
    (outputs,) = ask(made, ids)
    assert made.width == 3
    np.testing.assert_allclose(np.array(outputs.values.to_pylist()), by_transformers(tiny["multi"], ids), atol=1e-3)
    made.close()
    with pytest.raises(ServiceLost, match="closed"):
        ask(made, ids)


def test_a_process_reward_model_scores_its_steps(tiny: dict[str, str]) -> None:
    from transformers import AutoTokenizer

    made = engine(tiny["process"], steps=Steps(tag=STEP))
    tag = AutoTokenizer.from_pretrained(tiny["process"]).convert_tokens_to_ids(STEP)
    ids = [[50, 51, tag, 60, 61, 62, tag], [70, tag], [50, 51, tag, 60, 61, 62, tag, 63, tag]]
    (outputs,) = ask(made, ids)
    made.close()
    assert made.width == 2
    steps = [np.array(row).reshape(-1, 2) for row in outputs.values.to_pylist()]
    assert [len(row) for row in steps] == [2, 1, 3]
    for row, found in zip(ids, steps):
        np.testing.assert_allclose(found, process_head(tiny["process"], row)[np.array(row) == tag], atol=1e-3)
    np.testing.assert_allclose(steps[0], steps[2][:2], atol=1e-4)  # a step is scored by what comes before it
    assert (steps[0] < 0).any() or (steps[0] > 1).any()  # no softmax


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine_args": {"max_num_seq": 8}}, "no argument 'max_num_seq'; did you mean 'max_num_seqs'"),
        ({"engine_args": {"dtype": "float16"}}, "engine_args.dtype is said by `dtype:` beside `model:`"),
        ({"max_length": 99_999}, "99999"),
    ],
)
def test_settings_that_do_not_fit(tiny: dict[str, str], settings: dict[str, Any], message: str) -> None:
    from rmbatch.reward_models.engines.vllm import VllmEngine

    with pytest.raises(ServiceError, match=message):
        VllmEngine(RewardModelSpec(model=tiny["scalar"], **{**SETTINGS, **settings}))


def test_a_model_that_gives_no_scores(tiny: dict[str, str], tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    with pytest.raises(ServiceError):
        engine(str(tmp_path))  # a folder without a model
