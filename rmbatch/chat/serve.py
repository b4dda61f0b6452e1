"""A chat model that a job serves itself, on its own cluster: which model, on how many GPUs or CPUs, with which options.

    spec = ServeSpec(model="Qwen/Qwen3-8B", gpus=1, replicas=(1, 8), max_length=16384)
    spec.identity()                                      # all that decides its answers
    spec.service_name                                    # the name under which its answers are kept

It starts nothing: ``rmbatch/pipeline/model_server.py`` runs one server, ``rmbatch/pipeline/actors/servers.py`` all
those of a job. A client learns from a ``Directory`` where they are.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import Field, model_validator

from rmbatch.settings.base import Positive, Seconds, Settings

HOW_IT_RUNS = ("gpus", "cpus", "replicas", "env", "startup_timeout_s", "hang_timeout_s")
"""Settings that change no answer, and so may change between runs of one job."""
HOW_FAST = {
    *("gpu_memory_utilization", "kv_cache_memory_bytes", "kv_cache_memory", "max_num_seqs", "max_num_batched_tokens"),
    *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "distributed_executor_backend"),
    *("enable_prefix_caching", "enable_chunked_prefill", "block_size", "enforce_eager", "max_parallel_loading_workers"),
    *("cpu_offload_gb", "download_dir", "load_format", "uvicorn_log_level", "max_log_len", "async_scheduling"),
    *("disable_log_requests", "enable_log_requests", "disable_uvicorn_access_log", "stream_interval"),
}
"""Arguments of vLLM's server that say how fast it runs, or what it logs."""
OURS = {
    "model": "serve.model",
    "model_tag": "serve.model",
    "served_model_name": "model, beside serve",
    "revision": "serve.revision",
    "dtype": "serve.dtype",
    "quantization": "serve.quantization",
    "max_model_len": "serve.max_length",
    "host": "the job itself",
    "port": "the job itself",
    "uds": "the job itself",
    "api_key": "the job itself, with a key of its own",
    "disable_log_stats": "the job itself, which sees by them whether the server hangs",
}
"""Arguments of vLLM's server that others give, and who does."""
_SECRET = re.compile(r"(?i)(?:^|_)(?:api_?key|token|secret|password|passwd|credentials?)(?:$|_)")
_PLACES = ("model", "name", "host", "port")
_PIECES, _PIECE_BYTES = 32, 4096
_DECIDES = {".safetensors", ".bin", ".pt", ".gguf", ".json", ".jinja", ".model", ".tiktoken", ".txt", ".py"}
"""Ends of the names of files that may decide an answer."""


@dataclass(frozen=True)
class Places:
    """Where the servers of a model are at the moment."""

    urls: tuple[str | None, ...] = ()
    """Of each server, always in the same order: its base URL with /v1. None: it is not up."""
    failure: str = ""
    """Why none is up, and none will be. Empty: some are, or may come."""


class Directory(Protocol):
    """Knows where the servers of a model are."""

    api_key: str
    """What they want to see in each request."""

    async def look(self) -> Places:
        """Where they are now."""


class ServeSpec(Settings):
    """A model that an OpenAI-compatible server holds, on the cluster that the job works on; vLLM's unless told."""

    model: Annotated[str, Field(min_length=1)]
    """A folder that all nodes see, or a name on the Hugging Face hub."""
    revision: str | None = None
    """Branch, tag or commit on the hub. None: main."""
    gpus: Annotated[float, Field(ge=0)] = 1.0
    """GPUs of one replica: several hold the model together (tensor parallel), a part of one is shared; 0: CPUs."""
    cpus: Annotated[float, Field(gt=0)] = 1.0
    """CPUs of one replica."""
    replicas: Positive | tuple[Positive, Positive] = 1
    """Servers, or the fewest and the most: as many as the cluster has room for when the job starts."""
    max_length: Positive | None = None
    """Longest prompt and answer together, in tokens. None: the model's own limit."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of weights and activations; auto: what vLLM chooses by the checkpoint."""
    quantization: str | None = None
    """As vLLM names it (fp8, awq, gptq, ...). None: what the checkpoint says."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of vLLM's server, by their names with underscores: ``{max_num_seqs: 64, enforce_eager: true}``.
    It is kept in the job's plan, so put no secrets here."""
    command: tuple[str, ...] = ()
    """Another OpenAI-compatible server with ``/health``, as a command in which {model}, {name}, {host} and {port} are
    filled in: ``[python, -m, sglang.launch_server, --model-path, "{model}", --port, "{port}", ...]``. Empty: vLLM's."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the server, beside those of the cluster's nodes; no secrets."""
    startup_timeout_s: Seconds = 1800.0
    """How long loading may take, with the wait for a place on the cluster."""
    hang_timeout_s: Seconds = 300.0
    """A server that says nothing for so long, or that has work and gets nowhere with it, is started again."""

    @model_validator(mode="before")
    @classmethod
    def _name_is_enough(cls, written: Any) -> Any:
        return {"model": written} if isinstance(written, str) else written

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.replica_range[0] > self.replica_range[1]:
            raise ValueError(f"replicas: the fewest ({self.replica_range[0]}) are more than the most")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus: {self.gpus:g} is neither a part of one GPU nor a whole number of them")
        for name in (*self.engine_args, *self.env):
            if _SECRET.search(name):
                raise ValueError(f"{name}: put no secrets here; set it in the environment of the cluster's nodes")
        for name, value in self.engine_args.items():
            if name in OURS:
                raise ValueError(f"engine_args: {name} is given by {OURS[name]}; leave it out")
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(f"engine_args: write {name!r} as a name with underscores, without --")
            if value is None:
                raise ValueError(f"engine_args: {name} has no value; leave it out")
        if self.command and (self.engine_args or self.quantization or self.revision or self.dtype != "auto"):
            raise ValueError(
                "command: engine_args, quantization, revision and dtype are vLLM's; put them in the command"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """All that decides the answers, as plain values: everything but where and how fast it runs."""
        fields = self.model_dump(mode="json", exclude=set(HOW_IT_RUNS))
        fields["engine_args"] = {key: value for key, value in fields["engine_args"].items() if key not in HOW_FAST}
        return {key: value for key, value in fields.items() if value not in (None, {}, [])}

    @property
    def service_name(self) -> str:
        """The name under which its answers are kept: another one for other weights in the same folder."""
        text = json.dumps([self.identity(), digest_folder(self.model)], sort_keys=True)
        return f"served-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @property
    def replica_range(self) -> tuple[int, int]:
        """The fewest and the most replicas."""
        return (self.replicas, self.replicas) if isinstance(self.replicas, int) else self.replicas

    @property
    def num_gpus(self) -> float:
        """GPUs of one replica."""
        return self.gpus

    @property
    def patience_s(self) -> float:
        """How long its clients wait while no server is up: one that hung may load once more."""
        return self.startup_timeout_s + self.hang_timeout_s


def read_short_form(written: Mapping[str, Any], others: set[str]) -> dict[str, Any]:
    """Settings in which ``serve`` has taken what stands beside it and belongs to it, and ``model`` a name.

    ``serve: Qwen/Qwen3-8B`` beside ``gpus: 1`` is ``serve: {model: Qwen/Qwen3-8B, gpus: 1}``. ``others``: keys that
    mean something else there. Raises ValueError for a key in both places.
    """
    serve = written["serve"]
    serve = {"model": serve} if isinstance(serve, str) else serve
    if not isinstance(serve, Mapping):
        return dict(written)
    beside = {key: written[key] for key in ServeSpec.model_fields if key not in others and key in written}
    if both := sorted(beside.keys() & serve.keys()):
        raise ValueError(f"{both[0]}: it stands both in serve and beside it; write it once")
    rest = {key: value for key, value in written.items() if key not in beside}
    named = {} if "model" in rest or "model" not in serve else {"model": serve["model"]}
    return rest | named | {"serve": {**serve, **beside}}


def digest_folder(model: str) -> str:
    """16 letters for the content of a model's folder, by a sample of each file; empty for a model of the hub."""
    if not Path(model).is_dir():
        return ""
    files = sorted(each for each in Path(model).iterdir() if each.suffix in _DECIDES and each.is_file())
    return _digest_files(tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@cache
def _digest_files(files: tuple[tuple[str, int, int], ...]) -> str:
    found = hashlib.sha256()
    for path, size, _ in files:
        found.update(f"{Path(path).name} {size}\n".encode())
        for piece in _read_sample(path, size):
            found.update(piece)
    return found.hexdigest()[:16]


def _read_sample(path: str, size: int) -> Iterator[bytes]:
    """The whole of a small file, or pieces from all over a large one: weights are too many to read for a name."""
    with Path(path).open("rb") as file:
        if size <= _PIECES * _PIECE_BYTES:
            yield file.read()
            return
        for number in range(_PIECES):
            file.seek((size - _PIECE_BYTES) * number // (_PIECES - 1))
            yield file.read(_PIECE_BYTES)
