"""A rollout named ``hf_cpu`` for verl, in a Ray actor with transformers' generate: for tests on machines without a GPU.

verl 0.9 samples by vLLM, SGLang or TensorRT-LLM alone. This module is loaded by VERL_USE_EXTERNAL_MODULES, in an
interpreter of verl's; it stands in a folder of its own because verl's wheel brings a package named ``tests`` too.
"""

import asyncio
from typing import Any

import ray
import torch
from verl.workers.rollout import base, replica

NAME = "hf_cpu"
ACTOR = f"{NAME}_server_0"


class Sampler:
    """One model that answers one request at a time."""

    def __init__(self, model: str, most_tokens: int) -> None:
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="sdpa")
        self._most_tokens, self._step = most_tokens, 0
        self._one_at_a_time = asyncio.Lock()

    async def generate(self, request_id: str, prompt_ids: Any, sampling_params: Any, **_: Any) -> Any:
        del request_id
        async with self._one_at_a_time:
            loop = asyncio.get_running_loop()
            ids, logprobs = await loop.run_in_executor(None, self._sample, list(prompt_ids), dict(sampling_params))
        return replica.TokenOutput(
            token_ids=ids, log_probs=logprobs, stop_reason="completed", extra_fields={"global_steps": self._step}
        )

    @torch.no_grad()
    def _sample(self, prompt: list[int], sampling: dict[str, Any]) -> tuple[list[int], list[float]]:
        temperature = sampling.get("temperature", 1.0)
        how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": sampling.get("top_p", 1.0)}
        ids = torch.tensor([prompt])
        found = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self._most_tokens,
            return_dict_in_generate=True,
            output_logits=True,
            **(how if temperature else {"do_sample": False}),
        )
        new = found.sequences[0, len(prompt) :].tolist()
        logprobs = [torch.log_softmax(logits[0].float(), -1)[token].item() for logits, token in zip(found.logits, new)]
        return new, logprobs

    async def load_weights(self, weights: dict[str, torch.Tensor], step: int | None) -> None:
        self._model.load_state_dict(weights, strict=False)
        self._step = self._step if step is None else step

    async def get_router_cfg(self) -> None:
        return None

    async def nothing(self, *_: Any, **__: Any) -> None:
        return None

    sleep = wake_up = abort_all_requests = resume_generation = nothing
    clear_kv_cache = release_kv_cache = resume_kv_cache = start_profile = stop_profile = nothing
    set_global_steps = nothing


class SamplerReplica(replica.RolloutReplica):  # type: ignore[misc]
    """Starts the actor."""

    async def launch_servers(self) -> None:
        model = getattr(self.model_config, "local_path", None) or self.model_config.path
        options = {"name": ACTOR, "num_cpus": 0, "max_concurrency": 64}
        self._server_handle = ray.remote(Sampler).options(**options).remote(model, self.config.response_length)
        self.servers, self._server_address = [self._server_handle], ACTOR


class WeightSender(base.BaseRollout):  # type: ignore[misc]
    """Gives the actor the weights after each step."""

    async def resume(self, tags: Any) -> None:
        del tags

    async def release(self) -> None:
        pass

    async def update_weights(self, weights: Any, global_steps: int | None = None, **_: Any) -> None:
        plain = {name: tensor.detach().float().cpu() for name, tensor in weights}
        await ray.get_actor(ACTOR).load_weights.remote(plain, global_steps)


base._ROLLOUT_REGISTRY[NAME, "async"] = f"{__name__}.{WeightSender.__name__}"
replica.RolloutReplicaRegistry.register(NAME, lambda: SamplerReplica)
