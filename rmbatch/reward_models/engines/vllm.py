"""vLLM as an engine: classification heads, vLLM's reward architectures, and process reward models with step pooling.

vLLM's core runs in this process, stepped by one thread, so that it dies with the process. A core in a process of its
own survives when its parent is killed (seen on 0.32), and holds the GPU. vLLM's workers, if any, end with the core.
Requests of all calls are in flight together. vLLM batches them and computes a shared prefix once.

    engine = VllmEngine(RewardModelSpec(model="Skywork/Skywork-Reward-V2-Llama-3.1-8B"))
    outputs = await engine.score(ids)
"""

import asyncio
import dataclasses
import itertools
import os
import queue
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from rmbatch.endpoints.errors import ServiceError, ServiceLost
from rmbatch.reward_models.engines.base import Outputs, find_tag_id
from rmbatch.reward_models.spec import RewardModelSpec
from rmbatch.settings.names import nearest
from rmbatch.stores.scores import VALUES

os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")  # vLLM reads it when it is imported

CLOSE_S = 10.0
CPU_KV_CACHE_BYTES = 2 << 30
"""KV cache of an engine on CPUs; ``engine_args: {kv_cache_memory_bytes: …}`` overrides it."""

CPU_BLOCK_SIZE = 32
"""Tokens in a block of the cache. vLLM's default on CPUs, 128, shares 7% less of a prompt of 900 tokens."""

_OURS = {
    "model": "model",
    "tokenizer": "model",
    "revision": "revision",
    "dtype": "dtype",
    "quantization": "quantization",
    "tensor_parallel_size": "tensor_parallel",
    "max_model_len": "max_length",
    "trust_remote_code": "trust_remote_code",
    "pooler_config": "steps",
    "runner": "engine",
}
"""Arguments of vLLM that other settings give, and the settings."""


class VllmEngine:
    """One vLLM engine with its core in this process; see ``Engine``."""

    width: int

    def __init__(self, spec: RewardModelSpec) -> None:
        self._spec = spec
        self._waiting: queue.SimpleQueue[tuple[list[int], Future[Any]] | None] = queue.SimpleQueue()
        self._numbers = itertools.count()
        self._why_dead = ""
        try:
            self._engine, self._params, tag = _load(spec)
        except (ServiceError, ModuleNotFoundError):
            raise
        except Exception as error:  # whatever vLLM raises while it loads is about this model
            raise ServiceError(_first_line(error)) from error
        self._last_only = spec.steps is None and self._params.task != "classify"
        self._thread = threading.Thread(target=self._run, name="vllm", daemon=True)
        self._thread.start()
        probe = self._submit([tag, tag]).result()
        if isinstance(probe, str):
            raise ServiceError(f"the first request failed: {probe}")
        self.width = probe.outputs.data.shape[-1]

    async def score(self, ids: pa.Array) -> Outputs:
        """As in ``Engine``."""
        tokens = np.asarray(ids.flatten())
        ends = np.cumsum(np.asarray(ids.value_lengths()))
        futures = [self._submit(part.tolist()) for part in np.split(tokens, ends[:-1])] if len(ids) else []
        answers = await asyncio.gather(*map(asyncio.wrap_future, futures))
        values = [None if isinstance(answer, str) else self._values(answer) for answer in answers]
        errors = [answer if isinstance(answer, str) else None for answer in answers]
        cached = sum(max(answer.num_cached_tokens, 0) for answer in answers if not isinstance(answer, str))
        usage = {"requests": len(ids), "tokens": len(tokens), "cached_tokens": cached}
        return Outputs(pa.array(values, VALUES), pa.array(errors, pa.string()), usage)

    def close(self) -> None:
        """Free the model; requests in flight are lost."""
        self._waiting.put(None)
        self._thread.join(CLOSE_S)

    def _values(self, answer: Any) -> np.ndarray:
        data = answer.outputs.data.float()
        return np.asarray((data[-1] if self._last_only and data.ndim > 1 else data).reshape(-1))

    def _submit(self, ids: list[int]) -> Future[Any]:
        if self._why_dead:
            raise ServiceLost(self._why_dead)
        future: Future[Any] = Future()
        self._waiting.put((ids, future))
        return future

    def _run(self) -> None:
        """Take requests, step the engine, and set answers. An exception in a step ends the engine."""
        pending: dict[str, Future[Any]] = {}
        try:
            while self._take(pending):
                for answer in self._engine.step() if pending else ():
                    if answer.finished:
                        pending.pop(answer.request_id).set_result(answer)
            self._why_dead = "the engine was closed"
        except Exception as error:  # nothing is known of the engine's state after it
            self._why_dead = f"vLLM died: {_first_line(error)}"
        while not self._waiting.empty():
            taken = self._waiting.get()
            if taken is not None:
                pending[f"late {next(self._numbers)}"] = taken[1]
        for future in pending.values():
            future.set_exception(ServiceLost(self._why_dead))
        self._engine.engine_core.shutdown()
        del self._engine

    def _take(self, pending: dict[str, Future[Any]]) -> bool:
        """Give all waiting requests to vLLM; wait for one only if none is in flight. False: close."""
        from vllm.exceptions import VLLMClientError

        while not pending or not self._waiting.empty():
            taken = self._waiting.get()
            if taken is None:
                return False
            ids, future = taken
            name = str(next(self._numbers))
            try:
                self._engine.add_request(name, {"prompt_token_ids": ids}, self._params)
            except (ValueError, VLLMClientError) as error:  # vLLM refuses this request, and only this one
                future.set_result(f"refused_by_engine: {_first_line(error)}")
            else:
                pending[name] = future
        return True


def _load(spec: RewardModelSpec) -> tuple[Any, Any, int]:
    """The engine, the parameters of every request, and a token to try it with."""
    from vllm import PoolingParams
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine
    from vllm.v1.executor import Executor

    known = {field.name for field in dataclasses.fields(EngineArgs)}
    _check_arguments(spec.engine_args, known)
    settings: dict[str, Any] = {
        "model": spec.model,
        "revision": spec.revision,
        "tokenizer_revision": spec.revision,
        "dtype": _choose_dtype(spec),
        "quantization": spec.quantization,
        "tensor_parallel_size": spec.tensor_parallel,
        "max_model_len": spec.max_length,
        "trust_remote_code": spec.trust_remote_code,
        "runner": "pooling",
        **_limit_memory(spec),
        **spec.engine_args,
    }
    tag = 0
    if spec.steps is not None:
        settings["pooler_config"], tag = _configure_steps(spec)
    config = EngineArgs(**settings).create_engine_config()
    engine = LLMEngine(config, Executor.get_class(config), log_stats=False, multiprocess_mode=False)
    tasks = engine.get_supported_tasks()
    task = "classify" if spec.steps is None and "classify" in tasks else "token_classify"
    if task not in tasks:
        raise ServiceError(f"it gives no scores: vLLM can {', '.join(tasks)} with it; a reward model has a score head")
    return engine, PoolingParams(task=task, use_activation=False), tag


def _choose_dtype(spec: RewardModelSpec) -> str:
    """The precision. ``auto`` is the checkpoint's; vLLM's own auto would take float16 for float32."""
    from transformers import AutoConfig

    if spec.dtype != "auto":
        return spec.dtype
    config = AutoConfig.from_pretrained(spec.model, revision=spec.revision, trust_remote_code=spec.trust_remote_code)
    kind = str(getattr(config.get_text_config(), "dtype", None) or "").removeprefix("torch.")
    return kind if kind in get_args(RewardModelSpec.model_fields["dtype"].annotation) else "auto"


def _limit_memory(spec: RewardModelSpec) -> dict[str, Any]:
    """Arguments for memory where vLLM's default, nearly all of it, leaves none to others, and the block size."""
    if spec.num_gpus == 0:
        return {"kv_cache_memory_bytes": CPU_KV_CACHE_BYTES, "block_size": CPU_BLOCK_SIZE}
    return {"gpu_memory_utilization": 0.9 * spec.num_gpus} if spec.num_gpus < 1 else {}


def _check_arguments(given: Mapping[str, Any], known: set[str]) -> None:
    for name in given:
        if name in _OURS:
            raise ServiceError(f"engine_args.{name} is said by `{_OURS[name]}:` beside `model:`")
        if name not in known:
            raise ServiceError(f"engine_args: vLLM has no argument {name!r}; {nearest(name, known)}")


def _configure_steps(spec: RewardModelSpec) -> tuple[Any, int]:
    from transformers import AutoTokenizer
    from vllm.config import PoolerConfig

    tokenizer: Any = AutoTokenizer.from_pretrained(
        spec.model, revision=spec.revision, trust_remote_code=spec.trust_remote_code
    )
    tag = find_tag_id(spec, tokenizer)
    assert tag is not None
    return PoolerConfig(tok_pooling_type="STEP", step_tag_id=tag), tag


def _first_line(error: BaseException) -> str:
    """The error's text in one line; vLLM's own first lines are often only headings."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:400]}" if lines else type(error).__name__
