"""Reward models on servers that already run: vLLM, SGLang or text-embeddings-inference (TEI) behind URLs.

Each conversation is one request, because the servers batch for themselves. ``endpoints/balancer.py`` chooses the server
and handles failures. Nothing here starts or stops a server.

    engine = EndpointEngine(RewardModelSpec(model="Skywork/…", engine="endpoint", endpoints=["http://host:8000"]))
    outputs = await engine.score(ids)

Requests, and the part of the answer that is read:

    vllm    POST /classify, token ids, no activation: ``probs``. Where there is no /classify (process reward models, and
            architectures with outputs for each token): POST /pooling with task token_classify, and of ``data`` the
            outputs at the steps' tags, or the last token's.
    sglang  POST /classify (its own; /v1/classify applies a softmax), token ids: ``embedding``.
    tei     POST /predict, raw_scores, as text, for it takes no ids: the text that the model's tokenizer turns into
            exactly these ids; where there is none, no score (``endpoint_text_differs``). Its outputs come sorted by
            score and are put in order by their labels.

No server may truncate: if it reports more or fewer tokens than it was sent, the error is ``endpoint_bad_answer``. The
servers' key is read from the environment variable RMBATCH_ENDPOINT_API_KEY.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import orjson
import pyarrow as pa
import xxhash

from rmbatch.endpoints.balancer import Ask, Endpoints, Failure, Patience, Post
from rmbatch.endpoints.errors import ServiceError
from rmbatch.endpoints.http import BadAnswer, Refused, Reply
from rmbatch.reward_models.conversation import Encoder
from rmbatch.reward_models.engines.base import Outputs, find_tag_id
from rmbatch.reward_models.spec import RewardModelSpec
from rmbatch.stores.scores import VALUES

API_KEY = "RMBATCH_ENDPOINT_API_KEY"

Ids = np.ndarray[Any, np.dtype[np.int32]]
Values = np.ndarray[Any, np.dtype[np.float32]]

_PROBE: Ids = np.array([0, 1], np.int32)
"""Every vocabulary has these token ids."""
_NOT_THERE = (404, 405, 501)
"""The status of servers and gateways for a path that they do not have."""
_UNREADABLE = (AttributeError, KeyError, IndexError, TypeError, ValueError)
"""Errors of reading JSON that is not as expected."""


@dataclass(frozen=True)
class _Reading:
    """The content of an answer."""

    values: Values
    """The outputs; of a model with steps those of each step, one step after the other."""
    num_read: int | None
    """Tokens that the server has read; None where it does not say."""
    num_cached: int = 0


class _Api(Protocol):
    """The requests and answers of one kind of server."""

    async def width(self, ask: Ask) -> int:
        """The number of outputs, from a first answer. Raises ServiceError where the server has another model."""

    def request(self, ids: Ids) -> tuple[str, bytes] | Failure:
        """Path and body for one conversation."""

    def read(self, reply: Reply, ids: Ids) -> _Reading:
        """Read an answer. Raises BadAnswer, and the errors in ``_UNREADABLE``."""


class EndpointEngine:
    """An ``Engine`` behind URLs. Raises ServiceError where no server answers, or one does not fit the spec."""

    width: int

    def __init__(self, spec: RewardModelSpec, patience: Patience | None = None) -> None:
        self._api = _APIS[spec.api](spec)
        self._has_steps = spec.steps is not None
        self._width: int | None = None
        self._endpoints = Endpoints(
            spec.endpoints,
            self._check,
            in_flight=spec.in_flight,
            api_key=os.environ.get(API_KEY),
            patience=patience or Patience(timeout_s=spec.hang_timeout_s),
        )
        with ThreadPoolExecutor(1) as thread:  # the caller may be inside an event loop
            thread.submit(asyncio.run, self._endpoints.start()).result()
        assert self._width is not None
        self.width = self._width

    async def score(self, ids: pa.Array) -> Outputs:
        """As in ``Engine``; ``requests`` counts every try. Raises ServiceError and ServiceLost."""
        rows = [row.values.to_numpy() for row in ids]
        answers = await self._endpoints.post_all(map(self._make_post, rows, _find_affinities(rows)))
        readings = [answer.value for answer in answers]
        failures = [answer.failure for answer in answers]
        usage = {
            "requests": sum(answer.num_tries for answer in answers),
            "tokens": len(ids.flatten()),
            "cached_tokens": sum(reading.num_cached for reading in readings if reading),
        }
        return Outputs(
            pa.array([reading and reading.values for reading in readings], VALUES),
            pa.array([failure and str(failure) for failure in failures], pa.string()),
            usage,
        )

    def close(self) -> None:
        """Close the connections, while the event loop still exists; the servers stay as they are."""
        self._endpoints.close()

    async def _check(self, ask: Ask) -> None:
        try:
            width = await self._api.width(ask)
        except _UNREADABLE as error:
            raise BadAnswer(f"not the answers of such a server: {type(error).__name__} {error}") from None
        if not width:
            raise ServiceError("its answers hold no outputs; a process reward model needs `steps:`")
        if self._width not in (None, width):
            raise ServiceError(f"its model has {width} outputs, another endpoint's {self._width}")
        self._width = width

    def _make_post(self, ids: Ids, affinity: str) -> Post[_Reading] | Failure:
        request = self._api.request(ids)
        if isinstance(request, Failure):
            return request
        path, body = request
        return Post(path, body, partial(self._read, ids=ids), affinity=affinity)

    def _read(self, reply: Reply, ids: Ids) -> _Reading:
        try:
            reading = self._api.read(reply, ids)
        except _UNREADABLE:
            raise BadAnswer(f"no scores in {orjson.dumps(reply.body)[:200].decode(errors='replace')}") from None
        if reading.num_read not in (None, len(ids)):
            raise BadAnswer(f"{reading.num_read} tokens read of {len(ids)}")
        num = len(reading.values)
        if num % self.width or (num != self.width and not self._has_steps):
            raise BadAnswer(f"{num} outputs, not {self.width}")
        return reading


class _Vllm:
    """vLLM's server, which may need ``--runner pooling``."""

    def __init__(self, spec: RewardModelSpec) -> None:
        self._name = spec.served_name or spec.model
        self._tag = None if spec.steps is None else find_tag_id(spec, Encoder(spec).tokenizer)
        self._path: str | None = None if spec.steps is None else "/pooling"

    async def width(self, ask: Ask) -> int:
        await _check_name(ask, self._name)
        probe = _PROBE if self._tag is None else np.full(2, self._tag, np.int32)
        path, reply = await self._try_paths(ask, probe)
        try:
            num_values = len(self.read(reply, probe).values)
        except BadAnswer as bad:
            pooler = f'{{"tok_pooling_type": "STEP", "step_tag_id": {self._tag}}}'
            raise ServiceError(f"{bad}; start vLLM with --pooler-config '{pooler}'") from None
        if self._path not in (None, path):
            raise ServiceError(f"it answers at {path}, another endpoint at {self._path}")
        self._path = path
        return num_values if self._tag is None else num_values // len(probe)

    async def _try_paths(self, ask: Ask, ids: Ids) -> tuple[str, Reply]:
        """The path that the server has for this model, and its answer."""
        if self._tag is None:
            try:
                return "/classify", await ask("/classify", self._body("/classify", ids))
            except Refused as refused:
                if refused.status not in _NOT_THERE:
                    raise
        return "/pooling", await ask("/pooling", self._body("/pooling", ids))

    def request(self, ids: Ids) -> tuple[str, bytes]:
        assert self._path is not None
        return self._path, self._body(self._path, ids)

    def _body(self, path: str, ids: Ids) -> bytes:
        # Older versions called it "activation"; each ignores the name that it does not know.
        body = {"model": self._name, "input": ids, "use_activation": False, "activation": False}
        return _to_json(body if path == "/classify" else {**body, "task": "token_classify"})

    def read(self, reply: Reply, ids: Ids) -> _Reading:
        (said,) = reply.body["data"]
        usage = reply.body.get("usage") or {}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        values = _parse_numbers(said["probs"] if "probs" in said else said["data"])
        if self._tag is not None:
            values = self._select_steps(values, ids)
        elif values.ndim == 2:
            values = values[-1]
        return _Reading(values.reshape(-1), usage.get("prompt_tokens"), int(cached))

    def _select_steps(self, values: Values, ids: Ids) -> Values:
        """The outputs at the tags. vLLM gives only those if it was started with the tag, or else one for each token."""
        at_tags = ids == self._tag
        if len(values) == len(ids):
            values = values[at_tags]
        if len(values) == at_tags.sum():
            return values
        raise BadAnswer(f"outputs for {len(values)} tokens, and there are {at_tags.sum()} steps")


class _Sglang:
    """SGLang's server, started with ``--is-embedding``."""

    def __init__(self, spec: RewardModelSpec) -> None:
        self._name = spec.served_name or spec.model

    async def width(self, ask: Ask) -> int:
        await _check_name(ask, self._name)
        return len(self.read(await ask(*self.request(_PROBE)), _PROBE).values)

    def request(self, ids: Ids) -> tuple[str, bytes]:
        return "/classify", _to_json({"input_ids": ids})

    def read(self, reply: Reply, ids: Ids) -> _Reading:
        told = reply.body.get("meta_info") or {}
        ended = told.get("finish_reason")
        if isinstance(ended, dict) and ended.get("type") == "abort":  # its embedding is then no output
            raise BadAnswer(f"aborted: {ended.get('message')}")
        values = _parse_numbers(reply.body["embedding"])
        return _Reading(values.reshape(-1), told.get("prompt_tokens"), int(told.get("cached_tokens") or 0))


class _Tei:
    """text-embeddings-inference, which takes text and no token ids."""

    def __init__(self, spec: RewardModelSpec) -> None:
        self._name = spec.served_name or spec.model
        self._tokenizer = Encoder(spec).tokenizer
        inner, whole = self._tokenise("a", add_special_tokens=False), self._tokenise("a")
        start = next(n for n in range(len(whole)) if whole[n : n + len(inner)] == inner)
        self._before, self._after = whole[:start], whole[start + len(inner) :]
        self._places: dict[str, int] = {}

    async def width(self, ask: Ask) -> int:
        about = (await ask("/info")).body
        if about["model_id"].rstrip("/").rsplit("/", 1)[-1] != self._name.rstrip("/").rsplit("/", 1)[-1]:
            raise ServiceError(f"it serves {about['model_id']!r}, not {self._name!r}")
        (kind, told), *_ = about["model_type"].items()
        if "id2label" not in told:
            raise ServiceError(f"it serves {about['model_id']!r} as {kind}; scores come from a classifier")
        self._places = {label: int(place) for place, label in told["id2label"].items()}
        if len(self._places) < len(told["id2label"]):
            raise ServiceError("its outputs cannot be told apart: some have the same label")
        await ask("/predict", _to_json({"inputs": "a", "raw_scores": True, "truncate": False}))
        return len(self._places)

    def request(self, ids: Ids) -> tuple[str, bytes] | Failure:
        text = self._find_text(ids.tolist())
        if text is None:
            return Failure("endpoint_text_differs", "TEI takes text, and no text has exactly these tokens")
        return "/predict", _to_json({"inputs": text, "raw_scores": True, "truncate": False})

    def read(self, reply: Reply, ids: Ids) -> _Reading:
        scores = {self._places[each["label"]]: each["score"] for each in reply.body}
        values = _parse_numbers([scores[place] for place in range(len(reply.body))])
        told = reply.headers.get("x-compute-tokens")
        return _Reading(values, None if told is None else int(told))

    def _find_text(self, ids: list[int]) -> str | None:
        """A text that TEI's tokenizer turns into these ids, with its special tokens; None where there is none."""
        before, after = len(self._before), len(ids) - len(self._after)
        is_framed = ids[:before] == self._before and ids[after:] == self._after
        for inner in [ids[before:after]] * is_framed + [ids]:
            text: str = self._tokenizer.decode(inner, clean_up_tokenization_spaces=False)
            if self._tokenise(text) == ids:
                return text
        return None

    def _tokenise(self, text: str, **settings: Any) -> list[int]:
        ids: list[int] = self._tokenizer(text, verbose=False, **settings)["input_ids"]
        return ids


_APIS: dict[str, Callable[[RewardModelSpec], _Api]] = {"vllm": _Vllm, "sglang": _Sglang, "tei": _Tei}


async def _check_name(ask: Ask, name: str) -> None:
    """Refuse a server that lists its models and has none of this name. Raises ServiceError."""
    try:
        served = [each["id"] for each in (await ask("/v1/models")).body["data"]]
    except Refused as refused:
        if refused.status in _NOT_THERE:
            return
        raise
    if name not in served:
        raise ServiceError(
            f"it serves {', '.join(map(repr, served))}, not {name!r}; start it with --served-model-name {name}"
        )


def _find_affinities(rows: Sequence[Ids]) -> list[str]:
    """The same for neighbours that begin with the same tokens, at least half of the shorter one: those of a prompt."""
    found: list[str] = []
    for before, ids in zip([None, *rows], rows, strict=False):
        if before is None or not _begin_alike(before, ids):
            found.append(xxhash.xxh3_64_hexdigest(ids.tobytes()))
        else:
            found.append(found[-1])
    return found


def _begin_alike(one: Ids, other: Ids) -> bool:
    num = min(len(one), len(other))
    differ = one[:num] != other[:num]
    return not differ.any() or 2 * int(differ.argmax()) >= num


def _parse_numbers(said: Any) -> Values:
    """Numbers from JSON. Raises ValueError for anything else, and for a number that is no finite float32."""
    numbers = np.asarray(said)
    if numbers.dtype.kind not in "fi" and numbers.size:
        raise ValueError("not numbers")
    with np.errstate(over="ignore"):
        values: Values = numbers.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("not finite")
    return values


def _to_json(body: Mapping[str, Any]) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
