"""Reward models behind URLs: what each kind of server is sent, what is read, and what becomes of each conversation."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rmbatch.endpoints.balancer import Patience
from rmbatch.endpoints.errors import ServiceError, ServiceLost
from rmbatch.reward_models.engines.base import Engine, Outputs, open_engine
from rmbatch.reward_models.engines.endpoint import API_KEY, EndpointEngine
from rmbatch.reward_models.spec import RewardModelSpec, Steps
from rmbatch.stores.scores import IDS, VALUES
from tests.servers.hostile import Cut, HostileServer, Json, Late, Reset, Stall, Status, Truncated
from tests.servers.vllm import vllm_server
from tests.tiny_models import STEP, make_model, make_tokenizer

CALM = Patience(attempts=4, timeout_s=10, backoff_s=0.01, max_backoff_s=0.05, cooldown_s=0.03, lost_after_s=10)
"""For servers that answer in time, however busy the machine is."""

Answers = Callable[[str, Any], Any]


def vllm(names: tuple[str, ...] = ("rm",), outputs: int = 1, **told: Any) -> Answers:
    """vLLM's server with /classify; a conversation's outputs are its ids' sum, and that plus 1, 2, …"""

    def answer(path: str, body: Any) -> Any:
        if path == "/v1/models":
            return {"object": "list", "data": [{"id": name, "object": "model"} for name in names]}
        if path != "/classify":
            return Status(404, body={"detail": "Not Found"})
        if body["model"] not in names:
            return Status(404, body={"error": {"message": f"The model `{body['model']}` does not exist."}})
        probs = [sum(body["input"]) + n for n in range(outputs)]
        usage = {"prompt_tokens": len(body["input"]), "prompt_tokens_details": None, **told}
        return {"data": [{"index": 0, "label": "L", "probs": probs, "num_classes": outputs}], "usage": usage}

    return answer


def vllm_by_token(every: Callable[[int], bool]) -> Answers:
    """vLLM's server for models with outputs for each token: of the tokens wanted, the id and its negative."""

    def answer(path: str, body: Any) -> Any:
        if path == "/v1/models":
            return {"data": [{"id": "rm"}]}
        if path != "/pooling":
            return Status(501, body={"error": {"message": "The model does not support Classification API"}})
        assert body["task"] == "token_classify"
        rows = [[token, -token] for token in body["input"] if every(token)]
        return {"data": [{"index": 0, "object": "pooling", "data": rows}], "usage": {}}

    return answer


def sglang(path: str, body: Any) -> Any:
    """SGLang's server."""
    if path == "/v1/models":
        return {"data": [{"id": "rm"}]}
    assert path == "/classify"
    return {"embedding": [sum(body["input_ids"])], "meta_info": {"prompt_tokens": len(body["input_ids"]), "id": "x"}}


def spec(*servers: HostileServer, **settings: Any) -> RewardModelSpec:
    return RewardModelSpec(model="rm", engine="endpoint", endpoints=[server.url for server in servers], **settings)


def scored(made: RewardModelSpec, *conversations: list[int], patience: Patience = CALM) -> Outputs:
    """The outputs of a fresh engine."""
    return asyncio.run(_scored(EndpointEngine(made, patience), pa.array(conversations, IDS)))


async def _scored(engine: Engine, ids: pa.Array) -> Outputs:
    try:
        return await engine.score(ids)
    finally:
        engine.close()
        await asyncio.sleep(0)


@pytest.fixture
def one() -> Iterator[HostileServer]:
    with HostileServer(vllm()) as server:
        yield server


@pytest.fixture
def other() -> Iterator[HostileServer]:
    with HostileServer(vllm()) as server:
        yield server


def test_scores_come_in_order_with_what_they_cost(one: HostileServer) -> None:
    outputs = scored(spec(one), [5, 6, 7], [1], [10] * 100)
    assert outputs.values.equals(pa.array([[18.0], [1.0], [1000.0]], VALUES))
    assert outputs.error.equals(pa.nulls(3, pa.string()))
    assert outputs.usage == {"requests": 3, "tokens": 104, "cached_tokens": 0}
    for path, body, headers in one.asked[2:]:
        assert path == "/classify"
        assert body["model"] == "rm"
        assert body["use_activation"] is False  # raw rewards: vLLM's default is a sigmoid or softmax
        assert "truncate_prompt_tokens" not in body
        assert headers["Content-Type"] == "application/json"
        assert "Authorization" not in headers


def test_nothing_to_score(one: HostileServer) -> None:
    outputs = scored(spec(one))
    assert outputs.values.equals(pa.array([], VALUES))
    assert outputs.error.equals(pa.array([], pa.string()))
    assert outputs.usage == {"requests": 0, "tokens": 0, "cached_tokens": 0}


def test_a_slice_of_a_column_is_scored_as_itself(one: HostileServer) -> None:
    engine = EndpointEngine(spec(one), CALM)
    ids = pa.array([[1], [2, 3], [4], [5, 6]], IDS)[1:3]
    outputs = asyncio.run(_scored(engine, ids))
    assert outputs.values.to_pylist() == [[5.0], [4.0]]
    assert outputs.usage["tokens"] == 3


def test_conversations_of_a_prompt_go_to_one_server(one: HostileServer, other: HostileServer) -> None:
    prompts = [[10 * number, 1, 2, 3, 4] for number in range(1, 9)]
    scored(spec(one, other, in_flight=1), *[[*prompt, last] for prompt in prompts for last in range(4)])
    seen = [{tuple(body["input"][:5]) for _, body, _ in server.asked if body} for server in (one, other)]
    shared = {tuple(prompt) for prompt in prompts} & seen[0] & seen[1]
    assert not shared
    assert min(map(len, seen)) >= 3


def test_several_outputs_and_a_cache_that_is_told() -> None:
    with HostileServer(vllm(outputs=3, prompt_tokens_details={"cached_tokens": 2})) as server:
        engine = open_engine(spec(server))
        outputs = asyncio.run(_scored(engine, pa.array([[5, 6, 7], [1, 1]], IDS)))
    assert engine.width == 3
    assert outputs.values.to_pylist() == [[18.0, 19.0, 20.0], [2.0, 3.0, 4.0]]
    assert outputs.usage["cached_tokens"] == 4


def test_where_vllm_gives_outputs_of_tokens_the_last_counts() -> None:
    with HostileServer(vllm_by_token(lambda token: True)) as server:
        engine = EndpointEngine(spec(server), CALM)
        outputs = asyncio.run(_scored(engine, pa.array([[5, 6, 7], [9]], IDS)))
    assert engine.width == 2
    assert outputs.values.to_pylist() == [[7.0, -7.0], [9.0, -9.0]]


@pytest.mark.served
@pytest.mark.parametrize("gives", ["steps", "all"])
def test_steps_are_read_at_their_tags(tmp_path: Path, gives: str) -> None:
    pytest.importorskip("transformers")
    tag = make_tokenizer(tmp_path).convert_tokens_to_ids(STEP)
    served = named(vllm_by_token(lambda token: gives == "all" or token == tag), str(tmp_path))
    with HostileServer(served) as server:
        made = spec(server, steps=Steps(tag=STEP)).model_copy(update={"model": str(tmp_path)})
        engine = EndpointEngine(made, CALM)
        outputs = asyncio.run(_scored(engine, pa.array([[90, tag, 91, 92, tag], [tag]], IDS)))
    assert engine.width == 2
    assert outputs.values.to_pylist() == [[tag, -tag, tag, -tag], [tag, -tag]]


@pytest.mark.served
def test_a_server_that_reads_steps_elsewhere_is_named(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    tag = make_tokenizer(tmp_path).convert_tokens_to_ids(STEP)
    with HostileServer(named(vllm_by_token(lambda token: token == 77), str(tmp_path))) as server:
        made = spec(server, steps=Steps(tag=STEP)).model_copy(update={"model": str(tmp_path)})
        with pytest.raises(ServiceError, match=f'"step_tag_id": {tag}'):
            EndpointEngine(made, CALM)
        with pytest.raises(ServiceError, match=r"'two words' is \d tokens of this model"):
            EndpointEngine(made.model_copy(update={"steps": Steps(tag="two words")}), CALM)


def named(answer: Answers, name: str) -> Answers:
    """The same server with its model under another name."""
    return lambda path, body: {"data": [{"id": name}]} if path == "/v1/models" else answer(path, body)


def test_sglang() -> None:
    aborted = {"embedding": [0.0], "meta_info": {"finish_reason": {"type": "abort", "message": "out of memory"}}}
    with HostileServer(sglang) as server:
        server.plan(99, *[Json(aborted)] * 100)
        outputs = scored(spec(server, api="sglang"), [5, 6, 7], [99], [1])
        assert outputs.values.to_pylist() == [[18.0], None, [1.0]]  # an output of 0 would be a score
        assert outputs.error.to_pylist()[1] == f"endpoint_bad_answer: {server.url}: aborted: out of memory"
        assert server.asked[-1][0] == "/classify"
    with HostileServer(sglang) as server, pytest.raises(ServiceError, match="it serves 'rm', not 'other'"):
        EndpointEngine(spec(server, api="sglang").model_copy(update={"model": "other"}), CALM)


LABELS = {"0": "helpful", "1": "correct", "2": "terse"}


def tei(tokenizer: Any, model_id: str, kind: str = "classifier", truncates: bool = False) -> Answers:
    """TEI's server: it adds its special tokens, and sorts the outputs by score."""

    def answer(path: str, body: Any) -> Any:
        if path == "/info":
            told = {"pooling": "cls"} if kind == "embedding" else {"id2label": LABELS, "label2id": {}}
            return {"model_id": model_id, "model_type": {kind: told}, "max_input_length": 512}
        assert path == "/predict"
        assert body["raw_scores"] is True
        assert body["truncate"] is False  # the server's own default may be to cut
        ids = tokenizer(body["inputs"])["input_ids"]
        scores = [ids[-1], len(ids), -ids[-1]]
        told = [{"score": scores[int(place)], "label": label} for place, label in LABELS.items()]
        content = sorted(told, key=lambda each: -each["score"])
        return Status(200, {"x-compute-tokens": str(len(ids) - truncates)}, content)

    return answer


def of_text(path: str, body: Any) -> Any:
    return body["inputs"] if path == "/predict" else path


@pytest.mark.served
@pytest.mark.parametrize("begins", [False, True])
def test_tei_gets_the_text_of_exactly_these_ids(tmp_path: Path, begins: bool) -> None:
    pytest.importorskip("transformers")
    from tokenizers import processors

    tokenizer = make_tokenizer(tmp_path)
    start = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    if begins:  # TEI puts a token in front that the chat template has written too: it must not be there twice
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", start)]
        )
        tokenizer.save_pretrained(tmp_path)
    said = tokenizer("<|im_start|>user\nHow  are you ?<|im_end|>\n", add_special_tokens=False)["input_ids"]
    split = tokenizer("un", add_special_tokens=False)["input_ids"]
    letters = (
        tokenizer("u", add_special_tokens=False)["input_ids"] + tokenizer("n", add_special_tokens=False)["input_ids"]
    )
    front = [start] * begins
    with HostileServer(tei(tokenizer, "/data/" + tmp_path.name), of_text) as server:
        made = spec(server, api="tei").model_copy(update={"model": str(tmp_path)})
        outputs = scored(made, front + said, front + split, front + said[:5])
        assert outputs.error.to_pylist() == [None] * 3
        for ids, values in zip([front + said, front + split, front + said[:5]], outputs.values.to_pylist()):
            assert values == [ids[-1], len(ids), -ids[-1]]
        if letters != split:  # tokens that no text is cut into
            (error,) = scored(made, front + letters).error.to_pylist()
            assert error.startswith("endpoint_text_differs: ")
        if begins:  # without the token that TEI will add
            assert scored(made, said).error.to_pylist()[0].startswith("endpoint_text_differs: ")
    with HostileServer(tei(tokenizer, tmp_path.name, truncates=True), of_text) as server:
        made = spec(server, api="tei").model_copy(update={"model": str(tmp_path)})
        (error,) = scored(made, front + said).error.to_pylist()
        assert error == f"endpoint_bad_answer: {server.url}: {len(front + said) - 1} tokens read of {len(front + said)}"


@pytest.mark.served
@pytest.mark.parametrize(
    ("model_id", "kind", "says"),
    [
        ("BAAI/another", "classifier", "it serves 'BAAI/another', not "),
        ("rm", "embedding", "it serves 'rm' as embedding; scores come from a classifier"),
    ],
)
def test_tei_with_another_model(tmp_path: Path, model_id: str, kind: str, says: str) -> None:
    pytest.importorskip("transformers")
    tokenizer = make_tokenizer(tmp_path / "rm")
    with (
        HostileServer(tei(tokenizer, model_id, kind), of_text) as server,
        pytest.raises(ServiceError, match=says),
    ):
        EndpointEngine(spec(server, api="tei").model_copy(update={"model": str(tmp_path / "rm")}), CALM)


def test_every_row_gets_one_outcome_in_order_whatever_servers_do(one: HostileServer, other: HostileServer) -> None:
    deeds = [
        *(Status(429), Status(429, {"Retry-After": "0"}), Status(500), Status(503), Late(0.05), Stall(), Reset()),
        *(Cut(), Truncated(), Json({"data": []}), Json({"data": [{"probs": [1, 2]}]}), Status(400), Late(0.1)),
    ]
    for row in range(0, 300, 3):
        for server in (one, other):
            server.plan(1000 + row, deeds[row // 3 % len(deeds)])
    one.always = other.always = Late(0.001)
    conversations = [[1000, row] for row in range(300)]
    outputs = scored(spec(one, other, in_flight=16), *conversations, patience=replace(CALM, timeout_s=1, give_up_s=60))
    for row, (values, error) in enumerate(zip(outputs.values.to_pylist(), outputs.error.to_pylist())):
        if row % 3 == 0 and isinstance(refused := deeds[row // 3 % len(deeds)], Status) and refused.status == 400:
            assert (values, error) == (None, "endpoint_refused: 400 planned by the test")
        else:
            assert (values, error) == ([1000.0 + row], None)
        got = [*one.seen[1000 + row], *other.seen[1000 + row]]
        assert got.count("200") <= 1 + isinstance(deeds[row // 3 % len(deeds)], Late)
        assert "200" not in [*one.seen[1000 + row][:-1], *other.seen[1000 + row][:-1]]  # nothing is asked again
    assert outputs.usage["requests"] == sum(
        len(got) for server in (one, other) for key, got in server.seen.items() if isinstance(key, int) and key > 1
    )


@pytest.mark.parametrize(
    "said",
    [
        {"data": []},
        {"data": [{"probs": []}]},
        {"data": [{"probs": [1.0, 2.0]}]},
        {"data": [{"probs": [None]}]},  # how a server writes NaN
        {"data": [{"probs": ["1.0"]}]},
        {"data": [{"probs": [True]}]},
        {"data": [{"probs": [1e39]}]},  # no float32
        {"data": [{"probs": [[1.0]] * 2}, {"probs": [1.0]}]},
        {"data": [{"label": "L"}]},
        {"data": [{"probs": [1.0]}], "usage": {"prompt_tokens": 1}},  # cut
        {"data": [{"probs": [1.0]}], "usage": "free"},
        {"data": [{"probs": [1.0]}], "usage": {"prompt_tokens_details": {"cached_tokens": [7]}}},
        {"data": None},
        {"error": "none of it"},
        [1.0],
        "1.0",
        None,
    ],
)
def test_what_is_no_score_is_none(one: HostileServer, said: Any) -> None:
    one.plan(9, *[Json(said)] * 100)
    outputs = scored(spec(one, in_flight=1), [4], [4, 5], [6])
    assert outputs.values.to_pylist() == [[4.0], None, [6.0]]
    errors = outputs.error.to_pylist()
    assert errors[1].startswith(f"endpoint_bad_answer: {one.url}: ")
    assert errors[::2] == [None, None]


def test_zero_is_a_score(one: HostileServer) -> None:
    assert scored(spec(one), [0]).values.to_pylist() == [[0.0]]


@pytest.mark.parametrize(
    ("served", "says"),
    [
        (vllm(names=("other", "rm-2")), "it serves 'other', 'rm-2', not 'rm'; start it with --served-model-name rm"),
        (vllm_by_token(lambda token: False), "its answers hold no outputs"),
        (lambda path, body: Status(401, body={"error": "Unauthorized"}), "401 Unauthorized (no API key is set)"),
        (lambda path, body: Status(404), "404"),
        (lambda path, body: {"data": [{"id": "rm"}], "x": 1}, "no endpoint answers"),
        (
            lambda path, body: {"data": [{"id": "rm"}]} if path == "/v1/models" else Status(400, body={"error": "no"}),
            "400 no",
        ),
    ],
)
def test_servers_that_do_not_hold_the_model(served: Answers, says: str) -> None:
    with HostileServer(served) as server, pytest.raises(ServiceError) as error:
        EndpointEngine(spec(server), CALM)
    assert says in str(error.value)
    assert server.url in str(error.value)


def test_a_gateway_that_lists_no_models_is_believed() -> None:
    behind = vllm()
    with HostileServer(lambda path, body: Status(404) if body is None else behind(path, body)) as server:
        assert scored(spec(server), [3, 4]).values.to_pylist() == [[7.0]]


def test_endpoints_must_be_alike(one: HostileServer) -> None:
    with HostileServer(vllm(outputs=2)) as wide, pytest.raises(ServiceError, match="outputs, another endpoint's"):
        EndpointEngine(spec(one, wide), CALM)
    with (
        HostileServer(vllm_by_token(lambda token: True)) as by_token,
        pytest.raises(ServiceError, match="another endpoint"),
    ):
        EndpointEngine(spec(one, by_token), CALM)


def test_late_server_with_another_model_gets_nothing(one: HostileServer, caplog: Any) -> None:
    with HostileServer(vllm(names=("another",))) as late:
        late.die()
        engine = EndpointEngine(spec(one, late, in_flight=4), CALM)
        late.revive()
        one.always = Late(0.02)
        outputs = asyncio.run(_scored(engine, pa.array([[n] for n in range(100)], IDS)))
        assert outputs.values.to_pylist() == [[float(n)] for n in range(100)]
        assert late.seen["/v1/models"]  # it was checked
        assert late.num_scored == 0


def test_the_key_comes_from_the_environment(one: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY, "sk-secret")
    scored(spec(one), [1])
    assert {headers["Authorization"] for _, _, headers in one.asked} == {"Bearer sk-secret"}
    one.always = Status(401, body={"error": "sk-secret is no key"})
    with pytest.raises(ServiceError) as error:
        EndpointEngine(spec(one), CALM)
    assert "401 *** is no key (this API key is not accepted)" in str(error.value)


def test_an_engine_can_be_made_inside_an_event_loop(one: HostileServer) -> None:
    async def work() -> Outputs:
        return await _scored(EndpointEngine(spec(one), CALM), pa.array([[2]], IDS))

    assert asyncio.run(work()).values.to_pylist() == [[2.0]]


def test_dead_servers_lose_the_engine_and_null_no_row(one: HostileServer) -> None:
    engine = EndpointEngine(spec(one), replace(CALM, lost_after_s=0.4))
    one.die()
    with pytest.raises(ServiceLost, match="no endpoint answers for"):
        asyncio.run(_scored(engine, pa.array([[n] for n in range(1000)], IDS)))
    with pytest.raises(ServiceError, match="no endpoint answers: "):
        EndpointEngine(spec(one), CALM)


@pytest.mark.served
def test_real_vllm_scores_as_transformers_does(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = make_model(tmp_path / "model", "scalar")
    rng = np.random.default_rng(0)
    conversations = [rng.integers(4, 500, size).tolist() for size in (1, 2, 17, 300, 1000, *rng.integers(1, 200, 45))]
    with torch.inference_mode():
        reference = transformers.AutoModelForSequenceClassification.from_pretrained(model).eval()
        expected = [float(reference(torch.tensor([ids])).logits[0, 0]) for ids in conversations]
    with vllm_server(model, log=tmp_path / "vllm.log") as url:
        engine = open_engine(RewardModelSpec(model=model, engine="endpoint", endpoints=[url]))
        outputs = asyncio.run(_scored(engine, pa.array([*conversations, [5] * 3000, [10**6]], IDS)))
        with pytest.raises(ServiceError, match="not 'another'"):
            open_engine(RewardModelSpec(model="another", engine="endpoint", endpoints=[url]))
    *scores, too_long, no_token = outputs.values.to_pylist()
    assert np.abs(np.array(scores)[:, 0] - expected).max() < 1e-3
    assert np.ptp(expected) > 1
    assert (too_long, no_token) == (None, None)
    errors = outputs.error.to_pylist()
    assert errors[:-2] == [None] * len(conversations)
    assert errors[-2].startswith("endpoint_refused: 400 This model's maximum context length is 2048 tokens")
    assert errors[-1].startswith("endpoint_refused: 400 Token id 1000000 is out of vocabulary")
