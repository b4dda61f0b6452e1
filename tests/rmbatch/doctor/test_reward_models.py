"""Each trap that spoils a reward model's scores, made for real: found under its name, with the value and the cure."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from connectors.errors import UserError
from rmbatch.doctor.findings import Finding, raise_failures
from rmbatch.doctor.model_probes import full_findings
from rmbatch.doctor.reward_models import cheap_findings
from rmbatch.endpoints.connections import close_all, use_connections
from rmbatch.reward_models.connect import connect
from rmbatch.reward_models.engines.base import Outputs
from rmbatch.reward_models.reward import ModelReward, reward_model
from rmbatch.reward_models.spec import RewardModelSpec
from rmbatch.rows.messages import TEXT
from rmbatch.rows.roles import FlatView, flatten, guess_roles
from tests.servers.hostile import HostileServer, Status
from tests.tiny_models import CHAT_TEMPLATE, STEP, make_model, make_tokenizer

pytest.importorskip("transformers")
pytestmark = pytest.mark.served

ROOT = Path(__file__).parents[3]
END = "<|im_end|>"
HELD: dict[str, Any] = {"engine": "transformers", "gpus": 0, "dtype": "float32"}
"""How models are loaded here."""


def make_folder(folder: Path, template: str | None = CHAT_TEMPLATE, *, config: Any = None, **special: str) -> str:
    """A scalar model without its weights: all files that are read before it is loaded."""
    from transformers import Qwen2Config

    folder.mkdir(exist_ok=True)
    make_tokenizer(folder, template, **special)
    settings = {"architectures": ["Qwen2ForSequenceClassification"], "max_position_embeddings": 2048, "num_labels": 1}
    Qwen2Config(**{**settings, "dtype": "bfloat16", **(config or {})}).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def sound(tmp_path: Path) -> str:
    return make_folder(tmp_path / "sound")


def rows(*pairs: tuple[str | None, str | None]) -> FlatView:
    prompts, responses = ([pair[place] for pair in pairs] for place in range(2))
    table = pa.table({"prompt": pa.array(prompts, TEXT), "response": pa.array(responses, TEXT)})
    return flatten(table, guess_roles(table.schema))


def cheap(folder: str, view: FlatView | None = None, **settings: Any) -> dict[str, Finding]:
    return {each.check: each for each in cheap_findings(reward_model(folder, **settings), view)}


def assert_found(found: Finding, level: str, *parts: str) -> None:
    assert found.level == level, found
    for part in parts:
        assert part in found.message, found


def test_a_sound_model_gives_no_trouble(sound: str) -> None:
    found = cheap(sound, rows(("hi", "hello"), ("1+1", "2")))
    assert {each.level for each in found.values()} == {"ok"}, found
    assert list(found) == [
        *("revision", "score_head", "output", "activation", "dtype", "max_length", "padding"),
        *("chat_template", "bos", "end_of_turn", "too_long", "malformed", "marks_in_text"),
    ]
    raise_failures(found.values())


# --- how conversations are written ------------------------------------------------------------------------------------

BOS = "<|endoftext|>"
GENERATION_PROMPT = "{{ '<|im_start|>assistant\n' }}"  # left on by mistake, after the assistant's turn
NO_SYSTEM = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('a system message first') }}{% endif %}"


@pytest.mark.parametrize(
    ("template", "check", "level", "parts"),
    [
        (CHAT_TEMPLATE, "bos", "ok", ["adds none"]),  # Qwen: the tokenizer knows one and does not use it
        ("{{ bos_token }}" + CHAT_TEMPLATE, "bos", "ok", [BOS, "once"]),
        ("{{ bos_token }}" + BOS + CHAT_TEMPLATE, "bos", "failure", [BOS + " twice", "without one of them"]),
        (None, "chat_template", "failure", ["no chat template", "chat_template: FILE.jinja"]),
        (NO_SYSTEM + CHAT_TEMPLATE, "chat_template", "failure", ["a system message first", "FILE.jinja"]),
        ("{% for m in %}", "chat_template", "failure", ["malformed_conversation"]),  # no Jinja
        (CHAT_TEMPLATE, "end_of_turn", "ok", [END, r"'\n'"]),  # the newline after it is as trained
        (CHAT_TEMPLATE.replace(END, ""), "end_of_turn", "warning", ["no token that ends", r"read at '\n'"]),
        (CHAT_TEMPLATE.replace(END, " That is all."), "end_of_turn", "warning", ["'That is all.' after"]),
        (CHAT_TEMPLATE + GENERATION_PROMPT, "end_of_turn", "warning", ["goes on after", "assistant"]),
        (CHAT_TEMPLATE.replace(END, BOS), "end_of_turn", "ok", [f"the tokenizer's own end is {END}"]),
        # the assistant's text is left out: all responses would score alike
        ("{{ messages[0]['content'] }}" + END, "end_of_turn", "failure", ["leaves the assistant's text out", "alike"]),
    ],
)
def test_templates(tmp_path: Path, template: str | None, check: str, level: str, parts: list[str]) -> None:
    found = cheap(make_folder(tmp_path, template, bos_token=BOS))
    assert_found(found[check], level, *parts)
    assert [name for name, each in found.items() if each.level != "ok"] == ([check] if level != "ok" else [])


def test_bos_missing_from_the_template_is_a_warning(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    folder = make_folder(tmp_path)
    tokenizer = make_tokenizer(tmp_path, bos_token=BOS)
    special = [(BOS, tokenizer.convert_tokens_to_ids(BOS))]
    tokenizer._tokenizer.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=special)
    tokenizer.save_pretrained(tmp_path)
    assert_found(cheap(folder)["bos"], "warning", f"begins a text with {BOS}", "{{ bos_token }}")


def test_a_system_message_of_the_settings_counts(tmp_path: Path) -> None:
    assert_found(
        cheap(make_folder(tmp_path, NO_SYSTEM + CHAT_TEMPLATE), system="be kind")["chat_template"], "ok", "be kind"
    )


def test_template_is_checked_even_with_a_short_limit(sound: str) -> None:
    assert_found(cheap(sound, max_length=5)["chat_template"], "ok")


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_pad_that_is_the_end_is_harmless_here(tmp_path: Path, engine: Any) -> None:
    folder = make_folder(tmp_path, pad_token=END)
    assert_found(cheap(folder, engine=engine)["padding"], "warning", END, "side: right", "harmless")


def test_a_tokenizer_without_pad(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = make_folder(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    assert_found(cheap(folder)["padding"], "ok", "no pad token")


def test_the_tag_of_steps_is_a_token_of_its_own(sound: str) -> None:
    found = cheap(sound, steps={"tag": STEP})
    assert_found(found["steps_tag"], "ok", STEP)
    assert_found(found["end_of_turn"], "ok", f"read at '{STEP}' after each step")
    assert_found(cheap(sound, steps={"tag": "<step>"})["steps_tag"], "failure", "'<step>' is", "tokens of this model")


# --- checkpoint and settings ------------------------------------------------------------------------------------------

TWO = {"num_labels": 2, "id2label": {0: "bad", 1: "good"}}
PRM = {**TWO, "architectures": ["Qwen2ForProcessRewardModel"]}


@pytest.mark.parametrize(
    ("config", "settings", "check", "level", "parts"),
    [
        ({"architectures": ["Qwen2ForCausalLM"]}, {}, "score_head", "failure", ["Qwen2ForCausalLM", "no score head"]),
        (
            {"architectures": ["Qwen2ForCausalLM"]},
            {"engine": "transformers"},
            "score_head",
            "failure",
            ["no score head"],
        ),
        # a language model's logits of a tag are no head of a process reward model either
        ({"architectures": ["Qwen2ForCausalLM"]}, {"steps": {}}, "score_head", "failure", ["no score head"]),
        # vLLM makes a classifier of a reranker's two tokens
        (
            {"architectures": ["Qwen2ForCausalLM"]},
            {"engine_args": {"hf_overrides": {"architectures": ["Qwen2ForSequenceClassification"]}}},
            *("score_head", "ok", ["Qwen2ForCausalLM"]),
        ),
        ({"architectures": None}, {}, "score_head", "warning", ["names no architecture"]),
        (TWO, {}, "output", "failure", ["2 outputs (bad, good)", "output: bad"]),
        (TWO, {"output": "good"}, "output", "ok", ["'good', 2 of 2"]),
        (TWO, {"output": "god"}, "output", "failure", ["'god'", "did you mean 'good'"]),
        ({}, {"outputs": ["a", "b"], "output": "a"}, "output", "warning", ["2 are named (a, b)", "says 1"]),
        # transformers assumes two labels where a configuration says nothing of them
        (
            {"architectures": ["HouseMadeForScoring"], "num_labels": 2},
            {},
            *("output", "failure", ["two are assumed", "outputs: [score]"]),
        ),
        ({"architectures": ["Qwen2ForRewardModel"], "num_labels": 2}, {}, "output", "ok", ["'score', 1 of 1"]),
        ({}, {}, "activation", "ok", ["none, raw", "a sigmoid"]),
        (TWO, {"output": "good"}, "activation", "ok", ["none, raw", "a softmax"]),
        ({}, {"activation": "sigmoid"}, "activation", "warning", ["squashed to 0..1", "activation: none"]),
        (TWO, {"output": "good", "activation": "softmax"}, "activation", "warning", ["squashed to 0..1"]),
        ({}, {"activation": "softmax"}, "activation", "failure", ["1.0 for anything"]),
        (PRM, {"steps": {}}, "activation", "warning", ["min is taken over raw", "softmax and output: good"]),
        (PRM, {"steps": {"aggregate": "prod"}}, "activation", "warning", ["prod", "softmax and output: good"]),
        (PRM, {"steps": {}, "activation": "softmax"}, "activation", "ok", ["softmax for each step"]),
        ({}, {"steps": {"aggregate": "prod"}}, "activation", "warning", ["changes its sign", "sigmoid"]),
        ({}, {"steps": {}}, "activation", "ok", ["none"]),
        ({}, {"max_length": 4096}, "max_length", "failure", ["4,096", "2,048 positions", "max_length: 2048"]),
        ({}, {"max_length": 4096, "engine_args": {"hf_overrides": {}}}, "max_length", "warning", ["engine_args"]),
        ({}, {"max_length": 2048}, "max_length", "ok", ["2,048"]),
        # linear scaling reaches further than the positions, yarn's are scaled already
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
            {"max_length": 8192},
            *("max_length", "ok", ["8,192 positions"]),
        ),
        ({"dtype": "float32"}, {}, "dtype", "warning", ["float32", "dtype: bfloat16"]),
        ({"dtype": "float32"}, {"dtype": "float32"}, "dtype", "ok", ["float32"]),
        ({"dtype": "float32"}, {"engine": "transformers", "gpus": 0}, "dtype", "ok", ["float32"]),
    ],
)
def test_checkpoints(
    tmp_path: Path, config: dict[str, Any], settings: dict[str, Any], check: str, level: str, parts: list[str]
) -> None:
    assert_found(cheap(make_folder(tmp_path, config=config), **settings)[check], level, *parts)


def test_a_limit_that_only_the_tokenizer_knows(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    make_tokenizer(tmp_path, model_max_length=512)  # type: ignore[arg-type]
    assert_found(cheap(folder, max_length=1024)["max_length"], "warning", "512 (model_max_length)")
    assert_found(cheap(folder)["max_length"], "ok", "512 tokens")


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    (found,) = cheap(str(tmp_path / "nowhere")).values()
    assert_found(found, "failure", "nowhere")
    assert found.check == "tokenizer"
    make_tokenizer(tmp_path)
    found = cheap(str(tmp_path))["config"]
    assert_found(found, "failure", str(tmp_path))


def test_endpoint_without_local_weights(tmp_path: Path) -> None:
    """What needs a configuration is left out, or asked of the settings."""
    make_tokenizer(tmp_path)
    served = {"engine": "endpoint", "endpoints": ["http://localhost:1"]}
    found = cheap(str(tmp_path), rows(("a", "b")), **served, outputs=["score"], max_length=512)
    assert {each.level for each in found.values()} == {"ok"}, found
    assert_found(found["score_head"], "ok", "the servers")
    found = cheap(str(tmp_path), rows(("a", "b")), **served)
    assert_found(found["output"], "failure", "outputs: [score]")
    assert_found(found["max_length"], "failure")
    assert "too_long" not in found  # nothing tells what is too long
    kept = cheap(str(tmp_path), **served, outputs=["score"], max_length=512, store="scores/")
    assert_found(kept["revision"], "failure", "name of your own")


def test_revisions_of_the_hub(sound: str, tmp_path: Path) -> None:
    """In a process of its own, because the hub's client reads its environment when it is imported."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--org--rm"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    (cached / "snapshots").mkdir()
    Path(sound).rename(cached / "snapshots" / commit)
    script = f"""
from rmbatch.doctor.reward_models import cheap_findings
from rmbatch.reward_models.reward import reward_model
for revision in (None, "main", {commit!r}):
    found = {{each.check: each for each in cheap_findings(reward_model("org/rm", revision=revision))}}
    print(found["revision"].level, found["revision"].message)
"""
    environment = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": "."}
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    unnamed, branch, pinned = ended.stdout.splitlines()
    assert unnamed.startswith("warning no revision is named: main")
    assert branch.startswith("warning revision 'main' may move")
    assert f"set revision: {commit}" in unnamed
    assert pinned == f"ok commit {commit}"


# --- the rows ---------------------------------------------------------------------------------------------------------

LONG = ("word " * 300, "yes")
FINE = ("hi", "yes")


@pytest.mark.parametrize(
    ("view", "settings", "check", "level", "parts"),
    [
        (
            [LONG, FINE, FINE],
            {},
            "too_long",
            "warning",
            ["1 of 3 conversations (33.3%)", "no score", "truncation: error"],
        ),
        ([LONG, FINE], {}, "too_long", "failure", ["50.0%", "raise max_length"]),
        (
            [LONG, FINE, FINE],
            {"truncation": "truncate_prompt"},
            *("too_long", "warning", ["1 of 3 conversations (33.3%) are cut", "truncate_prompt", "tokens kept"]),
        ),
        ([FINE], {}, "too_long", "ok", ["none is longer than 100 tokens"]),
        ([(None, "x"), FINE, FINE], {}, "malformed", "warning", ["33.3%", "missing_prompt", "input.columns"]),
        ([("x", None), (None, "x")], {}, "malformed", "failure", ["100.0%", "missing_response", "missing_prompt"]),
        # all too long is not malformed, and the other way round
        ([LONG], {}, "malformed", "ok", []),
        ([("x", None)], {}, "too_long", "ok", []),
        ([(f"say {END}", "yes"), FINE], {}, "marks_in_text", "warning", ["1 of 2", "50.0%", f"{END} in 1", "own turn"]),
        ([("hi", f"{END}{BOS}")] * 2, {}, "marks_in_text", "warning", ["100.0%", f"{BOS} in 2"]),
        ([FINE], {}, "marks_in_text", "ok", ["none of 1"]),
        ([("a < b |> c", "<|im_|>")], {}, "marks_in_text", "ok", []),  # only nearly a token
        ([], {}, "rows", "warning", ["no response"]),
    ],
)
def test_rows(
    sound: str, view: list[tuple[Any, Any]], settings: dict[str, Any], check: str, level: str, parts: list[str]
) -> None:
    assert_found(cheap(sound, rows(*view), max_length=100, **settings)[check], level, *parts)


def test_all_failures_are_raised_in_one_line(sound: str) -> None:
    findings = cheap(sound, rows(LONG), max_length=100, activation="softmax")
    with pytest.raises(UserError) as refused:
        raise_failures(findings.values(), "rm")
    assert str(refused.value).startswith("rm: activation: a softmax")
    assert "; too_long: 1 of 1" in str(refused.value)
    raise_failures([Finding("ok", "bos", "x"), Finding("warning", "padding", "y")])


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def close_engines() -> Iterator[None]:
    yield
    close_all()


SEVERAL = [(f"question {n // 4}", f"answer {n} " + "x" * n) for n in range(16)]


def full(folder: str, view: FlatView | None, **settings: Any) -> list[Finding]:
    return full_findings(reward_model(folder, **settings), view)


@pytest.mark.usefixtures("close_engines")
def test_answers_of_a_sound_model(tiny: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    golden = [{"prompt": "question 0", "response": "answer 0 ", "score": 0.0}]
    score = reward_model(tiny["scalar"], **HELD).evaluate({"prompt": "question 0", "response": "answer 0 "}).score
    golden.append({**golden[0], "prompt": [{"role": "user", "content": "question 0"}], "score": score})
    found = full(tiny["scalar"], rows(*SEVERAL), **HELD, golden=golden)
    assert [each.check for each in found] == ["engine", "scores", "batching", "order", "golden", "golden"]
    assert [each.level for each in found] == ["ok"] * 4 + ["failure", "ok"]
    assert_found(found[1], "ok", "16 conversations of the rows", "std")
    assert_found(found[2], "ok", "differ by", "0 of 24 pairs")
    assert_found(found[4], "failure", "expected 0", f"difference of {score:+.3g}", "more than 0.1")
    assert_found(found[5], "ok", "pair 2")


@pytest.mark.usefixtures("close_engines")
def test_a_head_of_zeros(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForSequenceClassification

    folder = make_model(tmp_path / "zero", "scalar")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.nn.init.zeros_(model.score.weight)
    model.save_pretrained(folder)
    found = {each.check: each for each in full(folder, None, **HELD)}
    assert_found(found["scores"], "failure", "all 6 conversations of our own get 0", "head")
    assert {*found} == {"engine", "scores", "golden"}  # shares of no spread say nothing


@pytest.mark.usefixtures("close_engines")
def test_head_with_infinite_weights(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForSequenceClassification

    folder = make_model(tmp_path / "inf", "scalar")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.nn.init.constant_(model.score.weight, float("inf"))
    model.save_pretrained(folder)
    found = {each.check: each for each in full(folder, rows(*SEVERAL), **HELD)}
    assert_found(found["scores"], "failure", "16 of 16", "not_finite")


@pytest.mark.usefixtures("close_engines")
def test_model_that_cannot_be_loaded(tiny: dict[str, str]) -> None:
    pytest.importorskip("torch")
    (found,) = full(tiny["causal"], None, **HELD, outputs=["score"])
    assert_found(found, "failure", "cannot be served", "Qwen2ForCausalLM")


@pytest.mark.usefixtures("close_engines")
def test_more_outputs_than_are_named(tiny: dict[str, str]) -> None:
    pytest.importorskip("torch")
    found = full(tiny["multi"], None, **HELD, outputs=["only"])
    assert [each.check for each in found] == ["engine", "answers"]
    assert_found(found[1], "failure", "gives 3 outputs", "outputs: [...]")


class Moody:
    """vLLM's server, with a model whose answer hangs on what else it was asked: ``drift`` more with each request."""

    def __init__(self, drift: float, reads_response: bool = True) -> None:
        self.drift, self.reads_response, self.asked = drift, reads_response, 0

    def __call__(self, path: str, body: Any) -> Any:
        if path == "/v1/models":
            return Status(404)
        self.asked += 1
        read = len(body["input"]) if self.reads_response else sum(body["input"][:14])
        return {"data": [{"probs": [read + self.drift * self.asked]}], "usage": {"prompt_tokens": len(body["input"])}}


@pytest.mark.usefixtures("close_engines")
@pytest.mark.parametrize(
    ("drift", "level"),
    [
        (0.0, "ok"),
        (0.0125, "warning"),  # 16 requests later, a few hundredths of the spread
        (1.0, "failure"),
    ],
)
def test_scores_that_depend_on_the_batch(tmp_path: Path, drift: float, level: str) -> None:
    make_tokenizer(tmp_path)
    with HostileServer(Moody(drift)) as server:
        found = endpoint(tmp_path, server)
    assert_found(found["batching"], level, "of their standard deviation", "of 24 pairs")
    if level != "ok":
        assert found["batching"].message.endswith("set dtype: float32, or take differences of this size for none")


class Mixed:
    """A way to an engine that gives each answer to the next conversation."""

    def __init__(self, spec: RewardModelSpec) -> None:
        self.whole = connect(spec)

    def ask(self, ids: pa.Array, prompt: np.ndarray) -> Outputs:
        outputs = self.whole.ask(ids, prompt)
        turned = pa.array(np.roll(np.arange(len(ids)), 1))
        return Outputs(outputs.values.take(turned), outputs.error.take(turned), outputs.usage)


@pytest.mark.usefixtures("close_engines")
def test_scores_of_other_responses(tiny: dict[str, str]) -> None:
    pytest.importorskip("torch")
    spec = RewardModelSpec(model=tiny["scalar"], **HELD)
    with use_connections({spec.engine_key: Mixed(spec)}):
        found = {each.check: each for each in full_findings(ModelReward(spec), rows(*SEVERAL))}
    assert_found(found["scores"], "ok")  # as a set they are what they should be
    assert_found(found["order"], "failure", "given to the wrong ones")


@pytest.mark.usefixtures("close_engines")
def test_a_model_that_reads_only_the_prompt(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    with HostileServer(Moody(0.0, reads_response=False)) as server:
        found = endpoint(tmp_path, server)
    assert_found(found["scores"], "failure", "does not read the responses")


@pytest.mark.usefixtures("close_engines")
def test_kept_scores_are_not_used(tmp_path: Path) -> None:
    """A store would answer the second question from the first."""
    make_tokenizer(tmp_path)
    with HostileServer(Moody(1.0)) as server:
        found = endpoint(tmp_path, server, store=str(tmp_path / "scores"), revision="mine")
    assert_found(found["batching"], "failure")
    assert not (tmp_path / "scores").exists()


def endpoint(folder: Path, server: HostileServer, **settings: Any) -> dict[str, Finding]:
    served = {"engine": "endpoint", "endpoints": [server.url], "outputs": ["score"], "max_length": 512, **settings}
    return {each.check: each for each in full(str(folder), rows(*SEVERAL), **served)}
