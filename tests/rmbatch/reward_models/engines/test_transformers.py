"""Real models through transformers: equal to one row at a time, whatever shares the batch; what fails, fails alone."""

import asyncio
import json
import logging
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rmbatch.endpoints.errors import ServiceError, ServiceLost
from rmbatch.reward_models.engines.base import Outputs
from rmbatch.reward_models.spec import RewardModelSpec, Steps
from rmbatch.stores.scores import IDS
from tests.tiny_models import STEP, make_model, make_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from rmbatch.reward_models.engines.transformers import LoadedModel, TransformersEngine  # noqa: E402 - it needs torch

pytestmark = [pytest.mark.served, pytest.mark.timeout(120)]

PAD, EOS = 0, 2
"""Ids of the tiny models' tokenizer."""


def assert_equal(found: Any, expected: Any) -> None:
    """To 1e-5: float32 rounds differently in batches of another shape."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def engine(folder: str | Path, **settings: Any) -> TransformersEngine:
    given: dict[str, Any] = {"gpus": 0, "engine": "transformers", "batch_tokens": 2048, **settings}
    return TransformersEngine(RewardModelSpec(model=str(folder), **given))


@pytest.fixture
def opened() -> Iterator[Callable[..., TransformersEngine]]:
    """``engine``, closed after the test."""
    made: list[TransformersEngine] = []

    def open_one(folder: str | Path, **settings: Any) -> TransformersEngine:
        made.append(engine(folder, **settings))
        return made[-1]

    yield open_one
    for each in made:
        each.close()


def random_ids(num_rows: int, seed: int, low: int = 5, high: int = 200) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(10, 500, draw.integers(low, high)).tolist() for _ in range(num_rows)]


def ask(made: TransformersEngine, *calls: list[list[int]]) -> list[Outputs]:
    async def all_at_once() -> list[Outputs]:
        return await asyncio.gather(*(made.score(pa.array(ids, IDS)) for ids in calls))

    return asyncio.run(all_at_once())


def values(made: TransformersEngine, ids: list[list[int]]) -> np.ndarray:
    (outputs,) = ask(made, ids)
    assert outputs.error.null_count == len(ids)
    return np.array(outputs.values.to_pylist())


def one_by_one(folder: str | Path, ids: list[list[int]]) -> np.ndarray:
    """What the plain forward gives for each row alone, read at its last token: nothing is padded, so no id is a pad."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(str(folder), dtype=torch.float32).eval()
    model.config.pad_token_id = None
    with torch.inference_mode():
        return np.array([model(torch.tensor([row])).logits[0].numpy() for row in ids])


@pytest.mark.parametrize("family", ["scalar", "multi"])
def test_outputs_are_raw_and_equal_to_one_row_at_a_time(
    opened: Callable[..., TransformersEngine], tiny: dict[str, str], family: str
) -> None:
    made, ids = opened(tiny[family]), random_ids(40, seed=1)
    found, expected = values(made, ids), one_by_one(tiny[family], ids)
    assert found.shape == expected.shape == (40, made.width)
    assert np.abs(expected).max() > 1.5  # no sigmoid would give these
    assert_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("its own pad token", {"pad_token_id": PAD}),
        ("pad equals eos", {"pad_token_id": EOS}),
        ("no pad token", {"pad_token_id": None}),
    ],
)
def test_a_score_does_not_hang_on_the_pad_token(
    opened: Callable[..., TransformersEngine], tmp_path: Path, name: str, config: dict[str, Any]
) -> None:
    folder = make_model(tmp_path, "scalar")
    change(tmp_path, config)
    ids = [
        [20, 21, 22, EOS],
        [20, 21, 22, EOS, EOS],  # the last of these is the one that counts
        [PAD, 20, PAD, 21, PAD],  # the pad token within a text, and at its end
        [30] * 60,
        [20, 21, 22],
    ]
    made = opened(folder)
    together = values(made, ids)
    alone = np.concatenate([values(made, [row]) for row in ids])
    assert_equal(together, alone)
    assert_equal(together, one_by_one_unpadded(tmp_path, ids))
    assert len(np.unique(np.round(together, 4))) == len(ids)


def one_by_one_unpadded(folder: Path, ids: list[list[int]]) -> np.ndarray:
    change(folder, {"pad_token_id": None})
    return one_by_one(folder, ids)


def change(folder: Path, settings: dict[str, Any]) -> None:
    """Set keys of the folder's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_a_batch_that_holds_every_id_of_the_vocabulary(
    opened: Callable[..., TransformersEngine], tmp_path: Path
) -> None:
    make_model(tmp_path, "scalar")
    num_ids = json.loads((tmp_path / "config.json").read_text())["vocab_size"]
    ids = [list(range(num_ids)), [5, 6, 7]]  # none is left to pad with, nor to tell the model as one
    assert_equal(values(opened(tmp_path), ids), one_by_one_unpadded(tmp_path, ids))


def test_calls_at_once_share_batches_and_each_gets_its_own(
    opened: Callable[..., TransformersEngine], tiny: dict[str, str]
) -> None:
    made = opened(tiny["scalar"])
    calls = [random_ids(7, seed=seed) for seed in range(12)]
    answers = ask(made, *calls, [])
    for ids, outputs in zip(calls, answers):
        assert_equal(np.array(outputs.values.to_pylist()), one_by_one(tiny["scalar"], ids))
        assert (outputs.usage["requests"], outputs.usage["cached_tokens"]) == (7, 0)
        assert outputs.usage["tokens"] == sum(map(len, ids))
    assert len(answers[-1].values) == len(answers[-1].error) == 0
    assert sum(outputs.usage["padded_tokens"] for outputs in answers) > 0
    sliced = pa.array([[1], *calls[0]], IDS).slice(1)
    outputs = asyncio.run(made.score(sliced))
    assert np.allclose(outputs.values.flatten(), answers[0].values.flatten(), atol=1e-5)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ([5, 100_000], "model_raised: ValueError: there is a token id 100000, and the model has"),
        ([-1, 5], "model_raised: ValueError: there is a token id -1"),
        ([], "model_raised: ValueError: there are no tokens"),  # its score would be that of a pad token
    ],
)
def test_ids_that_the_model_cannot_have(
    opened: Callable[..., TransformersEngine], tiny: dict[str, str], bad: list[int], said: str
) -> None:
    ids = random_ids(5, seed=3)
    (outputs,) = ask(opened(tiny["scalar"]), [*ids[:2], bad, *ids[2:]])
    assert outputs.error[2].as_py().startswith(said)
    assert outputs.error.null_count == 5
    assert outputs.values.is_valid().to_pylist() == [True, True, False, True, True, True]


CODE = '''
import torch
from dataclasses import dataclass
from transformers import Qwen2ForSequenceClassification, Qwen2Model, Qwen2PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput
from transformers.utils import ModelOutput


class Small(Qwen2ForSequenceClassification):
    """Has memory for 400 tokens, does not read token 7, and loses its device at token 8."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        if (input_ids == 8).any():
            raise RuntimeError("CUDA error: device-side assert triggered")
        if (input_ids == 7).any():
            raise KeyError("seven")
        if input_ids.numel() > 400:
            raise torch.OutOfMemoryError(f"tried to allocate {input_ids.numel()} tokens")
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)


@dataclass
class Said(ModelOutput):
    rewards: torch.FloatTensor = None
    score: torch.FloatTensor = None


class Several(Qwen2ForSequenceClassification):
    """Objectives and a gated sum of them, as ArmoRM gives."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        rewards = super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs).logits
        return Said(rewards=rewards, score=rewards.sum(-1))


class Gated(Several):
    def forward(self, *args, **kwargs):
        self.config.num_labels = 1
        return super().forward(*args, **kwargs)


class Tuple(Qwen2ForSequenceClassification):
    """Logits of the vocabulary, no loss, and a value read by the attention mask, as GRM gives."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        hidden = self.model(input_ids, attention_mask=attention_mask).last_hidden_state
        values = self.score(hidden).squeeze(-1)
        return hidden, None, values[torch.arange(len(values)), attention_mask.sum(-1) - 1]


class Last(Qwen2ForSequenceClassification):
    """Reads the last place, whatever is there: right only where nothing is padded."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        return self.score(self.model(input_ids, attention_mask=attention_mask).last_hidden_state[:, -1])


class PerToken(Qwen2ForSequenceClassification):
    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        return self.score(self.model(input_ids, attention_mask=attention_mask).last_hidden_state).squeeze(-1)


class Process(Qwen2PreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = Qwen2Model(config)
        hidden = config.hidden_size
        layers = torch.nn.Linear(hidden, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 2)
        self.score = torch.nn.Sequential(*layers)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        hidden = self.model(input_ids, attention_mask=attention_mask).last_hidden_state
        return TokenClassifierOutput(logits=self.score(hidden))
'''


@pytest.fixture(autouse=True)
def _code_is_copied_here(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers copies a repository's code before it imports it."""
    folder = str(tmp_path_factory.mktemp("code"))
    for module in ("transformers.dynamic_module_utils", "transformers.utils.hub"):
        monkeypatch.setattr(f"{module}.HF_MODULES_CACHE", folder, raising=False)


@pytest.fixture
def brings_code(tmp_path: Path) -> Callable[..., Path]:
    """A model folder whose class is one of CODE's."""

    def made(name: str, family: Any = "scalar", auto: str = "AutoModelForSequenceClassification") -> Path:
        folder = tmp_path / name.lower()
        make_model(folder, family)
        module = f"modeling_{name.lower()}"
        (folder / f"{module}.py").write_text(CODE)
        change(folder, {"auto_map": {auto: f"{module}.{name}"}, "architectures": [name]})
        return folder

    return made


def test_only_what_does_not_fit_in_memory_has_no_score(
    opened: Callable[..., TransformersEngine],
    brings_code: Callable[..., Path],
    tiny: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = opened(brings_code("Small"), trust_remote_code=True, batch_tokens=1000)
    ids = [[10] * 401, *random_ids(30, seed=4, low=100, high=200)]
    (outputs,) = ask(made, ids)
    assert outputs.error[0].as_py() == (
        "out_of_memory: 401 tokens do not fit alone: OutOfMemoryError: tried to allocate 401 tokens"
    )
    assert outputs.error.null_count == 30
    found = np.array(outputs.values.to_pylist()[1:])
    assert_equal(found, one_by_one(tiny["scalar"], ids[1:]))
    assert "out of memory at" in caplog.text  # lowered, and not silently


def test_a_row_that_the_model_raises_for_does_not_cost_its_batch(
    opened: Callable[..., TransformersEngine], brings_code: Callable[..., Path], tiny: dict[str, str]
) -> None:
    made = opened(brings_code("Small"), trust_remote_code=True, batch_tokens=100)
    fine = random_ids(9, seed=5, high=12)
    (outputs,) = ask(made, [*fine[:4], [10, 7, 10], *fine[4:]])
    assert outputs.error[4].as_py() == "model_raised: KeyError: 'seven'"
    found = np.array([row for row in outputs.values.to_pylist() if row is not None])
    assert_equal(found, one_by_one(tiny["scalar"], fine))


def test_a_lost_device_loses_the_engine(
    opened: Callable[..., TransformersEngine], brings_code: Callable[..., Path]
) -> None:
    made = opened(brings_code("Small"), trust_remote_code=True)
    with pytest.raises(ServiceLost, match="the device is lost: RuntimeError: CUDA error: device-side assert"):
        ask(made, [[8]])
    with pytest.raises(ServiceLost, match="the device is lost"):
        ask(made, [[10]])


@pytest.mark.parametrize(
    ("name", "family", "width", "combined"),
    [
        ("Several", "multi", 3, lambda logits: logits),
        ("Gated", "multi", 1, lambda logits: logits.sum(-1, keepdims=True)),  # one label: its score, not its rewards
        ("Tuple", "scalar", 1, lambda logits: logits),
        ("Last", "scalar", 1, lambda logits: logits),
    ],
)
def test_heads_of_their_own(
    opened: Callable[..., TransformersEngine],
    brings_code: Callable[..., Path],
    tiny: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    *,
    name: str,
    family: str,
    width: int,
    combined: Callable[[np.ndarray], np.ndarray],
) -> None:
    made, ids = opened(brings_code(name, family), trust_remote_code=True), random_ids(30, seed=6, high=40)
    assert made.width == width
    assert_equal(values(made, ids), combined(one_by_one(tiny[family], ids)))
    assert ("only rows of equal length share a batch" in caplog.text) == (name == "Last")


def test_a_process_reward_model(opened: Callable[..., TransformersEngine], brings_code: Callable[..., Path]) -> None:
    made = opened(brings_code("Process", "process", auto="AutoModel"), trust_remote_code=True, steps=Steps(tag=STEP))
    tag = 3
    ids = [[50, 51, tag, 60, 61, 62, tag], [70, tag], [50, 51, tag, 60, 61, 62, tag, 63, tag], [50]]
    (outputs,) = ask(made, ids)
    alone = [ask(made, [row])[0].values[0].as_py() for row in ids]
    found = outputs.values.to_pylist()
    assert made.width == 2
    assert [len(row) for row in found] == [4, 2, 6, 0]
    for row, other in zip(found, alone):
        assert_equal(row, other)
    assert_equal(found[0], found[2][:4])  # a step is scored by what comes before it


def test_half_precision_gives_float32(opened: Callable[..., TransformersEngine], tiny: dict[str, str]) -> None:
    ids = random_ids(10, seed=7)
    made = opened(tiny["scalar"], dtype="bfloat16")
    np.testing.assert_allclose(values(made, ids), one_by_one(tiny["scalar"], ids), atol=0.3)


def test_outputs_that_are_not_finite_stay(
    opened: Callable[..., TransformersEngine], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_model(tmp_path, "scalar")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    model.score.weight.data.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    (outputs,) = ask(opened(tmp_path), random_ids(3, seed=8))
    assert outputs.error.null_count == 3
    assert np.isnan(np.array(outputs.values.to_pylist())).all()
    assert "padding" not in caplog.text


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("Small", {}, "brings its own code .modeling_small.Small., .* set `trust_remote_code: true`"),
        ("Process", {"steps": Steps(tag=STEP)}, "set `trust_remote_code: true`"),
        ("PerToken", {"trust_remote_code": True}, "give `steps:` if it scores each step"),
        ("Several", {"trust_remote_code": True, "steps": Steps(tag=STEP)}, "leave out `steps:`"),
    ],
)
def test_code_that_does_not_fit(
    brings_code: Callable[..., Path], name: str, settings: dict[str, Any], message: str
) -> None:
    process = name == "Process"
    auto = "AutoModel" if process else "AutoModelForSequenceClassification"
    folder = brings_code(name, "process" if process else "scalar", auto=auto)
    with pytest.raises(ServiceError, match=message):
        engine(folder, **settings)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        # a causal model has no head: transformers makes one of random numbers and says so in a log
        ("causal", {}, "finds no weights for score.weight in the checkpoint, .*; it was saved as Qwen2ForCausalLM"),
        ("process", {}, "finds no weights for score.weight"),
        ("scalar", {"steps": Steps(tag="two words")}, "steps.tag: 'two words' is . tokens"),
        ("scalar", {"steps": Steps(tag=STEP)}, "leave out `steps:`"),
        ("scalar", {"engine_args": {"atn_implementation": "eager"}}, "did you mean 'attn_implementation'"),
        ("scalar", {"engine_args": {"dtype": "float16"}}, "engine_args.dtype is said by `dtype:` beside `model:`"),
        ("scalar", {"engine_args": {"attn_implementation": "quick"}}, "quick"),
        ("scalar", {"engine_args": {"num_labels": 5, "ignore_mismatched_sizes": True}}, "no weights for score.weight"),
    ],
)
def test_settings_that_do_not_fit(tiny: dict[str, str], family: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ServiceError, match=message):
        engine(tiny[family], **settings)


def test_arguments_of_transformers_are_passed_on(
    opened: Callable[..., TransformersEngine], tiny: dict[str, str]
) -> None:
    ids = random_ids(5, seed=9)
    eager = values(opened(tiny["scalar"], engine_args={"attn_implementation": "eager"}), ids)
    np.testing.assert_allclose(eager, one_by_one(tiny["scalar"], ids), atol=1e-4)
    other = values(opened(tiny["scalar"], engine_args={"hidden_act": "relu", "rms_norm_eps": 0.5}), ids)
    assert np.abs(other - eager).max() > 0.01  # keys of the configuration


def test_folders_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="there is no folder"):
        engine(tmp_path / "nowhere")
    make_tokenizer(tmp_path)
    with pytest.raises(ServiceError, match=r"config\.json"):
        engine(tmp_path)
    make_model(tmp_path / "model", "scalar")
    for path in (tmp_path / "model").glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ServiceError, match="its tokenizer makes no tokens of"):
        engine(tmp_path / "model")


def test_closing_loses_what_is_in_flight(tiny: dict[str, str]) -> None:
    made = engine(tiny["scalar"], batch_tokens=64)

    async def closed_soon() -> list[Outputs | BaseException]:
        calls = [asyncio.ensure_future(made.score(pa.array(random_ids(200, seed=seed), IDS))) for seed in range(3)]
        await asyncio.sleep(0.05)
        made.close()
        return await asyncio.gather(*calls, return_exceptions=True)

    assert all(isinstance(answer, ServiceLost) for answer in asyncio.run(closed_soon()))
    with pytest.raises(ServiceLost, match="the engine was closed"):
        ask(made, [[10]])
    made.close()  # again


def test_a_closed_engine_holds_no_model(tiny: dict[str, str]) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny["scalar"])
    made = TransformersEngine.from_model(LoadedModel(model, np.array([10, 11]), np.array([12] * 9)), batch_tokens=64)
    ask(made, random_ids(5, seed=10))
    gone = weakref.ref(model)
    del model
    made.close()
    assert gone() is None


def test_a_tokenizer_without_a_chat_template(opened: Callable[..., TransformersEngine], tmp_path: Path) -> None:
    make_model(tmp_path, "scalar")
    (tmp_path / "chat_template.jinja").unlink()
    assert opened(tmp_path).width == 1  # ids may be made without it


def test_nothing_is_logged_about_a_model_that_is_well(
    opened: Callable[..., TransformersEngine], tiny: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    opened(tiny["scalar"])
    assert not [each for each in caplog.records if each.name.startswith("rmbatch") and each.levelno > logging.INFO]
