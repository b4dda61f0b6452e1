"""The settings of a reward model: which model, how its input is written, which output is the score, where it runs.

One frozen model, the same in a job file (``rewards: {rm: {model: …}}``) and in Python (``rmbatch.reward_model(…)``).

    spec = RewardModelSpec(model="Skywork/Skywork-Reward-V2-Llama-3.1-8B", max_length=8192)
    spec.engine_key      # two rewards with equal keys share their engines
"""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from rmbatch.settings.base import PlainName, Positive, Seconds, Settings


class Steps(Settings):
    """How a process reward model reads a response: in steps, with a tag after each. Its output at a tag is a score."""

    tag: str = "<extra_0>"
    """The token after each step, whose output is the step's score; one token of the model's vocabulary."""
    split: Literal["paragraphs", "lines"] = "paragraphs"
    """Where a step ends: at blank lines, or at each line (steps in a column of lists arrive as lines)."""
    aggregate: Literal["min", "mean", "prod", "last"] = "min"
    """How the steps' scores become the response's."""


class Golden(Settings):
    """A conversation whose score is known, as model cards give them."""

    prompt: str | list[dict[str, str]]
    """Text of one user, or messages."""
    response: str
    """What is scored."""
    score: Annotated[float, Field(allow_inf_nan=False)]
    """The score that the model's makers report."""
    tolerance: Annotated[float, Field(gt=0)] = 0.1
    """How far another machine or precision may be from it."""


HOW_IT_RUNS = (
    *("batch_tokens", "endpoints", "in_flight", "replicas", "gpus", "cpus", "startup_timeout_s", "hang_timeout_s"),
    *("store", "golden"),
)
"""Settings that change no score, and so may change between runs of one job."""


_READ_BY = {
    "tensor_parallel": ("vllm",),
    "quantization": ("vllm",),
    "dtype": ("vllm", "transformers"),
    "engine_args": ("vllm", "transformers"),
    "batch_tokens": ("transformers",),
    "replicas": ("vllm", "transformers"),
    "gpus": ("vllm", "transformers"),
    "cpus": ("vllm", "transformers"),
    "startup_timeout_s": ("vllm", "transformers"),
    "api": ("endpoint",),
    "in_flight": ("endpoint",),
    "served_name": ("endpoint",),
}
"""Settings that not every engine reads, and the engines that do."""


class RewardModelSpec(Settings):
    """A reward model, and everything that decides its scores."""

    model: Annotated[str, Field(min_length=1)]
    """A folder, or a name on the Hugging Face hub; for `engine: endpoint` the tokenizer's."""
    engine: Literal["vllm", "transformers", "endpoint"] = "vllm"
    """vllm; transformers, for models with heads of their own; endpoint, for servers that run already."""
    revision: str | None = None
    """Branch, tag or commit on the hub. None: main. For an endpoint: your name for the weights it serves."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of weights and activations; auto: the checkpoint's. Scores leave the model in float32."""
    quantization: str | None = None
    """As vLLM names it (fp8, awq, gptq, ...). None: what the checkpoint says."""
    tensor_parallel: Positive = 1
    """GPUs that hold one replica together; vLLM only."""
    max_length: Positive | None = None
    """Longest conversation in tokens. None: the model's own limit."""
    truncation: Literal["error", "drop_oldest_turns", "truncate_prompt"] = "error"
    """What to do with a longer conversation: give no score (`context_too_long`), leave out its oldest turns, or cut off
    the beginning of its longest prompt message. A response is never cut. The reason says what was left out."""
    chat_template: str | None = None
    """A Jinja chat template, or the path of one (*.jinja). None: the tokenizer's."""
    system: str | None = None
    """A system message for prompts that have none. None: no system message is added."""
    trust_remote_code: bool = False
    """Run the model repository's own code."""
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    """The function applied to the outputs; none: raw rewards."""
    outputs: Annotated[list[PlainName], Field(min_length=1)] | None = None
    """Names of the model's outputs, in order, all different, of letters, digits, _ and -. None: those of its
    configuration (id2label)."""
    output: str | int | None = None
    """The output that is the score, by name or place; needed where there are several. None: the only one; of a
    process reward model the last."""
    steps: Steps | None = None
    """For process reward models. None: one score for the whole response."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of vLLM's engine, or of transformers' from_pretrained."""
    batch_tokens: Positive = 16_384
    """transformers: tokens in one padded batch, padding included."""
    endpoints: list[str] = Field(default_factory=list)
    """endpoint: the servers' base URLs."""
    served_name: str | None = None
    """endpoint: the model's name at the servers. None: as `model`."""
    api: Literal["vllm", "sglang", "tei"] = "vllm"
    """endpoint: the kind of server."""
    in_flight: Positive = 256
    """endpoint: requests under way from one task."""
    replicas: Positive | tuple[Positive, Positive] = 1
    """Engines, or the fewest and the most: as many as the cluster has room for when the job starts."""
    gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs of one replica, in parts too; 0: it runs on CPUs. None: one, or as many as tensor_parallel."""
    cpus: Annotated[float, Field(gt=0)] = 1.0
    """CPUs of one replica."""
    startup_timeout_s: Seconds = 1800.0
    """How long loading may take."""
    hang_timeout_s: Seconds = 600.0
    """An engine with work that finishes nothing for so long is restarted; a request to an endpoint is given up."""
    store: str | None = None
    """A folder or URL where scores are kept and found again by other jobs. None: nothing is kept."""
    golden: list[Golden] = Field(default_factory=list)
    """Conversations with known scores, for `rmbatch doctor`."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.is_remote != bool(self.endpoints):
            raise ValueError("endpoints: give the servers' URLs together with engine: endpoint, and only there")
        for name, engines in _READ_BY.items():
            if self.engine not in engines and getattr(self, name) != type(self).model_fields[name].get_default(
                call_default_factory=True
            ):
                raise ValueError(f"{name}: engine: {self.engine} does not read it; it is for {' and '.join(engines)}")
        if self.tensor_parallel > 1 and self.gpus is not None and 0 < self.gpus < self.tensor_parallel:
            raise ValueError(f"gpus: {self.gpus:g} are fewer than tensor_parallel: {self.tensor_parallel}")
        if self.outputs is not None and len({*self.outputs}) < len(self.outputs):
            raise ValueError(f"outputs: {self.outputs} names one twice")
        if self.replica_range[0] > self.replica_range[1]:
            raise ValueError(f"replicas: the fewest ({self.replica_range[0]}) are more than the most")
        if self.steps is not None and self.is_remote and self.api != "vllm":
            raise ValueError("steps: only vLLM servers give the outputs of single tokens")
        return self

    def identity(self) -> dict[str, Any]:
        """All that decides the scores, as plain values: everything but where and how fast the model runs."""
        return self.model_dump(mode="json", exclude=set(HOW_IT_RUNS))

    @property
    def is_remote(self) -> bool:
        """Whether servers that run already hold the weights, so that nothing is loaded here."""
        return self.engine == "endpoint"

    @property
    def shares_prefixes(self) -> bool:
        """Whether its engine computes the common prefix of conversations once."""
        return self.engine == "vllm" and self.steps is None

    @property
    def replica_range(self) -> tuple[int, int]:
        """The fewest and the most replicas."""
        return (self.replicas, self.replicas) if isinstance(self.replicas, int) else self.replicas

    @property
    def hub_revision(self) -> str | None:
        """The revision of tokenizer and configuration; an endpoint's ``revision`` is only a name."""
        return None if self.is_remote else self.revision

    @property
    def num_gpus(self) -> float:
        """GPUs of one replica."""
        return float(self.tensor_parallel) if self.gpus is None else self.gpus

    @property
    def engine_key(self) -> str:
        """A hash of all that decides how the model is loaded and run: equal for specs that one engine can serve."""
        shared = self.model_dump(
            mode="json", exclude={"activation", "outputs", "output", "store", "golden", "truncation", "system"}
        )
        shared["steps"] = self.steps and self.steps.tag
        return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:16]
