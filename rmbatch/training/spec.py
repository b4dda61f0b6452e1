"""The settings of a training: the short typed block ``train:`` of a job file. What is left out, the recipe decides.

train = TrainSpec(epochs=1, learning_rate=1e-6, batch=128)
train.for_recipe("grpo_pointwise").candidates          # 4: every None that the recipe reads is filled in
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from connectors.errors import UserError
from rmbatch.settings.base import Positive, Settings

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]

SCALAR = "bradley_terry"
GRPO_ONLY = ("answer_tokens", "candidates", "temperature", "kl", "decay", "rollout_memory")
SCALAR_ONLY = ("centring", "warmup", "schedule", "padding_free")


class TrainSpec(Settings):
    """How long, how fast and on what."""

    epochs: Positive = 1
    """Times that each row is seen."""
    steps: Positive | None = None
    """The last step. None: as many as the epochs have."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """AdamW's. None: 9e-6 for bradley_terry (OpenRLHF's), 1e-6 for grpo_*."""
    batch: Positive = 128
    """Rows of one step: pairs for bradley_terry, prompts for grpo_*."""
    max_length: Positive = 4096
    """The longest conversation (bradley_terry) or prompt (grpo_*) in tokens; longer rows are left out and counted."""
    device_tokens: Positive | None = None
    """Tokens that one device computes at a time. None: 16,384, or what the longest pair needs."""
    save_every: Positive = 20
    """Steps from one checkpoint to the next. After a crash the job goes on from the last."""
    keep_checkpoints: Positive = 2
    """Checkpoints that stay."""
    measure_every: Positive | None = None
    """Steps from one measurement on the held-out rows to the next. None: as save_every."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the order of rows and of the new head."""
    device: Literal["cuda", "cpu"] = "cuda"
    """cpu: on a machine without a GPU, for small models and for trying a job out."""
    gpus: Positive = 1
    """GPUs of each node."""
    nodes: Positive = 1
    """Nodes of the Ray cluster; for grpo_*."""
    attention: Literal["sdpa", "flash_attention_2"] | None = None
    """How attention is computed. None: sdpa for bradley_terry and on a CPU, else flash_attention_2 (verl's own)."""
    padding_free: bool | None = None
    """bradley_terry: whether sequences are packed without padding. None: with flash_attention_2."""
    centring: Amount | None = None
    """bradley_terry: weight of (chosen + rejected)^2, which keeps scores around zero. None: 0.01 (TRL's suggestion)."""
    warmup: Share | None = None
    """bradley_terry: share of the steps in which the learning rate rises. None: 0.03."""
    schedule: Literal["constant", "cosine"] | None = None
    """bradley_terry: how the learning rate falls. None: cosine."""
    answer_tokens: Positive | None = None
    """grpo_*: the longest judgement in tokens. None: 2048."""
    candidates: Annotated[int, Field(ge=2)] | None = None
    """grpo_*: judgements of each prompt that are compared with each other. None: 4."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """grpo_*: at which they are sampled. None: 1.0."""
    kl: Amount | None = None
    """grpo_*: weight of the distance to the base model. None: 0.001; on a CPU 0."""
    decay: Annotated[float, Field(gt=0)] | None = None
    """grpo_pointwise: k of the reward exp(-k |score - label| / length of the scale). None: 2.0."""
    rollout_memory: Annotated[float, Field(gt=0, lt=1)] | None = None
    """grpo_*: share of a GPU's memory for sampling. None: 0.6."""

    def for_recipe(self, recipe: str) -> "TrainSpec":
        """The same with every None filled in. Raises UserError for a setting that this recipe does not read."""
        is_scalar = recipe == SCALAR
        for name in GRPO_ONLY if is_scalar else (*SCALAR_ONLY, *(() if recipe == "grpo_pointwise" else ("decay",))):
            if getattr(self, name) is not None:
                raise UserError(f"train.{name}: recipe {recipe} does not read it; leave it out")
        if is_scalar and self.nodes > 1:
            raise UserError("train.nodes: bradley_terry trains on the GPUs of one machine; write train.gpus")
        if self.device == "cpu" and (self.gpus, self.nodes) != (1, 1):
            raise UserError("train.gpus: device: cpu has no GPUs; leave out gpus and nodes")
        defaults: dict[str, Any] = {"measure_every": self.save_every}
        if is_scalar:
            attention = self.attention or "sdpa"
            defaults |= {"learning_rate": 9e-6, "centring": 0.01, "warmup": 0.03, "schedule": "cosine"}
            defaults |= {"attention": attention, "padding_free": attention == "flash_attention_2"}
            defaults |= {"device_tokens": max(16_384, 2 * self.max_length)}
        else:
            answer = self.answer_tokens or 2048
            kl = 0.0 if self.device == "cpu" else 0.001
            defaults |= {"learning_rate": 1e-6, "answer_tokens": answer, "candidates": 4, "temperature": 1.0, "kl": kl}
            defaults |= {"attention": "sdpa" if self.device == "cpu" else "flash_attention_2"}
            defaults |= {"rollout_memory": 0.6, "device_tokens": max(16_384, self.max_length + answer)}
            defaults |= {"decay": 2.0} if recipe == "grpo_pointwise" else {}
        return self.model_copy(update={key: value for key, value in defaults.items() if getattr(self, key) is None})
