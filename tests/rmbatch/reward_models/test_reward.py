"""From raw outputs to scores: which output, activation, step; each conversation once; the store before engines."""

import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import rmbatch
from connectors.errors import UserError
from rmbatch.costs import usage
from rmbatch.endpoints.connections import use_connections
from rmbatch.reward_models.engines.base import Outputs
from rmbatch.reward_models.reward import ModelReward, model_rewards, reward_model
from rmbatch.rewards.composition import Gate
from rmbatch.stores.scores import VALUES
from tests.tiny_models import OUTPUTS, STEP

pytest.importorskip("transformers")
pytestmark = pytest.mark.served


class Answering:
    """A connection that answers by a function of the ids, and keeps what it was asked."""

    def __init__(self, answer: Callable[[list[int]], list[float] | str]) -> None:
        self.answer = answer
        self.asked: list[list[int]] = []

    def ask(self, ids: pa.Array, prompt: np.ndarray) -> Outputs:
        assert len(prompt) == len(ids)
        rows = ids.to_pylist()
        self.asked += rows
        given = [self.answer(row) for row in rows]
        values = pa.array([None if isinstance(each, str) else each for each in given], VALUES)
        errors = pa.array([each if isinstance(each, str) else None for each in given], pa.string())
        return Outputs(values, errors, {"requests": len(rows), "tokens": sum(map(len, rows))})


@pytest.fixture(autouse=True)
def _counts_are_ours() -> Iterator[None]:
    usage.take()
    yield
    usage.take()


def scored(rm: ModelReward, table: dict[str, Any], connection: Any) -> dict[str, list[Any]]:
    with use_connections({rm.spec.engine_key: connection}):
        return rm.score(pa.table(table), name="rm").drop_columns(list(table)).to_pydict()


ROWS = {"prompt": ["a", "a", "b", None], "response": ["x", "yy", "x", "x"]}


def test_the_only_output_is_the_score(tiny: dict[str, str]) -> None:
    found = scored(reward_model(tiny["scalar"]), ROWS, Answering(lambda ids: [-2.5]))
    assert found == {
        "score.rm": [-2.5, -2.5, -2.5, None],
        "error.rm": [None, None, None, "missing_prompt: prompt is null"],
        "reason.rm": [None] * 4,
    }


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("none", [1.0, -1.0, 3.0]),
        ("sigmoid", [1 / (1 + math.exp(-each)) for each in (1.0, -1.0, 3.0)]),
        ("softmax", [math.exp(each) / sum(map(math.exp, (1.0, -1.0, 3.0))) for each in (1.0, -1.0, 3.0)]),
    ],
)
def test_all_outputs_are_kept_and_one_is_chosen(tiny: dict[str, str], activation: Any, expected: list[float]) -> None:
    rm = reward_model(tiny["multi"], output="correct", activation=activation)
    found = scored(rm, {"prompt": ["a"], "response": ["x"]}, Answering(lambda ids: [1.0, -1.0, 3.0]))
    assert [found[f"score.rm.{name}"][0] for name in OUTPUTS] == pytest.approx(expected)
    assert found["score.rm"] == pytest.approx([expected[1]])


@pytest.mark.parametrize(
    ("output", "place"),
    [("terse", 2), (0, 0), (-1, 2), ("kind", "no output 'kind'"), (3, "3 is none of them"), (None, "say which")],
)
def test_which_output(tiny: dict[str, str], output: Any, place: Any) -> None:
    rm = reward_model(tiny["multi"], output=output)
    if isinstance(place, int):
        assert rm.chosen == place
        return
    with pytest.raises(UserError, match=place):
        _ = rm.chosen


@pytest.mark.parametrize(("aggregate", "expected"), [("min", -1.0), ("mean", 2.0), ("prod", -10.0), ("last", 5.0)])
def test_steps(tiny: dict[str, str], aggregate: str, expected: float) -> None:
    rm = reward_model(tiny["process"], steps={"tag": STEP, "aggregate": aggregate, "split": "lines"})
    answers = {3: [9.0, -1.0, 9.0, 2.0, 9.0, 5.0], 1: [9.0, 7.0]}
    tag = rm.encoder.tokenizer.convert_tokens_to_ids(STEP)
    table = {"prompt": ["a", "a"], "response": ["1\n2\n3", "1"]}
    found = scored(rm, table, Answering(lambda ids: answers[ids.count(tag)]))
    assert found["steps.rm"] == [[-1.0, 2.0, 5.0], [7.0]]
    assert found["score.rm"] == pytest.approx([expected, 7.0])


def test_what_is_not_finite_or_failed_is_no_score(tiny: dict[str, str]) -> None:
    answers: dict[int, Any] = {0: [math.nan], 1: [math.inf], 2: "out_of_memory: 9 tokens", 3: [0.0]}
    order = iter(range(4))
    table = {"prompt": ["a", "b", "c", "d"], "response": ["x"] * 4}
    found = scored(reward_model(tiny["scalar"]), table, Answering(lambda ids: answers[next(order)]))
    by_error = sorted(zip(found["score.rm"], found["error.rm"]), key=str)
    assert (0.0, None) in by_error
    assert {str(error).split(":")[0] for _, error in by_error} == {"None", "not_finite", "out_of_memory"}


def test_equal_conversations_are_asked_once(tiny: dict[str, str]) -> None:
    rm = reward_model(tiny["scalar"])
    connection = Answering(lambda ids: [float(len(ids))])
    table = {"prompt": ["a", "a", "b"] * 2, "response": ["x", "longer text", "x"] * 2}
    found = scored(rm, table, connection)
    assert len(connection.asked) == 3
    assert found["score.rm"][:3] == found["score.rm"][3:]
    assert found["score.rm"][0] != found["score.rm"][1]
    counts = usage.take()
    assert counts[f"served.{rm.spec.engine_key}.repeated"] == 3
    assert counts[f"served.{rm.spec.engine_key}.requests"] == 3


def test_a_store_is_looked_in_first_and_keeps_what_is_new(tiny: dict[str, str], tmp_path: Path) -> None:
    settings = {"store": str(tmp_path / "scores"), "dtype": "float32"}
    table = {"prompt": ["a", "b", "c"], "response": ["x", "x", "x"]}
    first, second = Answering(lambda ids: [1.5] if len(ids) % 2 else [2.5]), Answering(lambda ids: [99.0])
    before = scored(reward_model(tiny["scalar"], **settings), table, first)
    again = scored(reward_model(tiny["scalar"], **settings), {**table, "response": ["x", "x", "new"]}, second)
    assert len(second.asked) == 1
    assert again["score.rm"] == [*before["score.rm"][:2], 99.0]
    changed = Answering(lambda ids: [7.0])
    scored(reward_model(tiny["scalar"], **settings, max_length=500), table, changed)
    assert len(changed.asked) == 3  # another scorer: nothing of the old one is its


def test_an_error_is_not_kept(tiny: dict[str, str], tmp_path: Path) -> None:
    settings = {"store": str(tmp_path / "scores")}
    table = {"prompt": ["a", "b"], "response": ["x", "x"]}
    bad = Answering(lambda ids: "out_of_memory: too long")
    scored(reward_model(tiny["scalar"], **settings), table, bad)
    good = Answering(lambda ids: [1.0])
    assert scored(reward_model(tiny["scalar"], **settings), table, good)["score.rm"] == [1.0, 1.0]


def test_model_with_another_number_of_outputs_stops_the_job(tiny: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"gives 2 outputs, and its configuration names 1 .* outputs: \[\.\.\.\]"):
        scored(reward_model(tiny["scalar"]), {"prompt": ["a"], "response": ["x"]}, Answering(lambda ids: [1.0, 2.0]))


def test_behind_a_gate_only_what_passes_is_asked(tiny: dict[str, str]) -> None:
    rm = reward_model(tiny["multi"], output="helpful")
    gate = Gate(require=rmbatch.reward("accuracy"), then=rm)
    connection = Answering(lambda ids: [1.0, 2.0, 3.0])
    table = pa.table({"prompt": ["p", "q"], "response": ["4", "5"], "reference": ["4", "4"]})
    with use_connections({rm.spec.engine_key: connection}):
        found = gate.score(table, name="g").to_pydict()
    assert len(connection.asked) == 1
    assert found["score.g"] == [1.0, 0.0]
    assert found["score.g.then.terse"] == [3.0, None]
    assert [name for name, _ in model_rewards({"g": gate})] == ["g.then"]


def test_it_travels_without_its_tokenizer(tiny: dict[str, str]) -> None:
    rm = reward_model(tiny["scalar"])
    rm.encoder.read()
    _ = rm.outputs
    sent = pickle.dumps(rm)
    assert len(sent) < 5000
    there = pickle.loads(sent)
    assert "tokenizer" not in vars(there.encoder)
    prompts, responses = pa.array([[{"role": "user", "content": "hi"}]]), pa.array(["yo"])
    assert there.encoder.encode(prompts, responses).ids.equals(rm.encoder.encode(prompts, responses).ids)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gpu": 1}, "gpu: unknown key; did you mean 'gpus'"),
        ({"engine": "endpoint"}, "endpoints: give the servers' URLs"),
        ({"replicas": (3, 1)}, "the fewest"),
        ({"tensor_parallel": 2, "engine": "transformers"}, "tensor_parallel: engine: transformers does not read it"),
        ({"batch_tokens": 100}, "batch_tokens: engine: vllm does not read it; it is for transformers"),
        ({"tensor_parallel": 4, "gpus": 1}, "gpus: 1 are fewer than tensor_parallel: 4"),
        ({"outputs": ["a", "a"]}, "names one twice"),
        ({"outputs": []}, "outputs"),
        ({"outputs": ["a b.c"]}, "outputs"),
        ({"max_length": True}, "max_length"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        reward_model("m", **settings)
