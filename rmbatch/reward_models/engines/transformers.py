"""Reward models that vLLM does not have: transformers' own forward, or the repository's code, in padded batches.

For a model that vLLM has, vLLM is faster: this engine computes a shared prefix for each conversation.

    engine = TransformersEngine(RewardModelSpec(model="folder/of/a/model", engine="transformers"))
    outputs = await engine.score(ids)

A model's outputs are the first of these that has one vector (or number) for each conversation, with ``steps`` for each
token: ``rewards`` if there are as many as the configuration's ``num_labels``, ``score``, ``scores``, ``logits``,
``rewards``; of a tuple the first such tensor; or the tensor that the model returns. A model with more objectives than
labels shows them with ``engine_args: {num_labels: ...}``.
"""

import gc
import inspect
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from connectors.errors import UserError
from rmbatch.endpoints.errors import ServiceError, ServiceLost
from rmbatch.reward_models.conversation import Encoder
from rmbatch.reward_models.engines.base import Outputs, find_tag_id
from rmbatch.reward_models.engines.packing import Failure, Ids, Packer, Values
from rmbatch.reward_models.spec import RewardModelSpec
from rmbatch.settings.names import nearest
from rmbatch.stores.scores import VALUES

_log = logging.getLogger("rmbatch.reward_models")

_OURS = {
    "dtype": "dtype",
    "torch_dtype": "dtype",
    "revision": "revision",
    "trust_remote_code": "trust_remote_code",
    "config": "model",
    "output_loading_info": "engine",
}
"""Arguments of from_pretrained that other settings give, and the settings."""
_HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "subfolder", "token")
"""Arguments that say where files are found."""


class TransformersEngine:
    """One model on one device; see ``Engine``."""

    def __init__(self, spec: RewardModelSpec) -> None:
        try:
            model = load_model(spec)
        except ServiceError:
            raise
        except Exception as error:  # transformers and the model's own code raise anything, and all is about this model
            raise ServiceError(f"{spec.model}: {_one_line(error)}") from error
        self._start(model, spec.batch_tokens)

    @classmethod
    def from_model(cls, model: "LoadedModel", batch_tokens: int) -> "TransformersEngine":
        """An engine for a model that is loaded already."""
        engine = cls.__new__(cls)
        engine._start(model, batch_tokens)
        return engine

    def _start(self, model: "LoadedModel", batch_tokens: int) -> None:
        self.width = model.width
        self._packer = Packer(model.attempt, batch_tokens, equal_lengths=not model.pads)

    async def score(self, ids: pa.Array) -> Outputs:
        """As in ``Engine``; ``padded_tokens`` are those of the batches that gave the outputs."""
        tokens = np.asarray(ids.flatten(), np.int32)
        ends = np.cumsum(np.asarray(ids.value_lengths(), np.int64))
        answers = await self._packer.ask(np.split(tokens, ends[:-1]) if len(ids) else [])
        usage = {"requests": len(ids), "tokens": len(tokens), "cached_tokens": 0}
        return Outputs(
            pa.array(answers.values, VALUES),
            pa.array(answers.errors, pa.string()),
            {**usage, "padded_tokens": answers.padded_tokens},
        )

    def close(self) -> None:
        """Free the model; requests in flight are lost."""
        self._packer.close("the engine was closed")
        gc.collect()  # models hold themselves in circles
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


_NO_MEMORY = re.compile(
    "out of memory|can't allocate memory|not enough memory|CUBLAS_STATUS_ALLOC_FAILED", re.IGNORECASE
)
_DEVICE_LOST = re.compile("CUDA error|device-side assert|HIP error", re.IGNORECASE)


class LoadedModel:
    """A model's forward: float32 outputs of conversations, equal whatever else is in the batch.

    Rows are padded on the right, with an id that none of them holds. Many classes take as a row's last token the last
    one that is not ``config.pad_token_id``. That is wrong where the pad token also ends a turn, and fails without a
    pad token. So the batch's pad id is written into the configuration before each batch. ``pads`` says whether the
    model tolerates padding at all, which is tried first.
    """

    width: int
    pads: bool

    def __init__(
        self, model: Any, short: Ids, long: Ids, *, tag: int | None = None, pad_ids: Sequence[int] = ()
    ) -> None:
        """``short``, ``long``: conversations to try it with; ``tag``: the id after each step; ``pad_ids``: preferred.

        Raises ServiceError where the model has no outputs for each conversation, with a tag for each token.
        """
        from transformers import PreTrainedConfig

        self._model, self._tag = model.eval(), tag
        found = [
            config for part in model.modules() if isinstance(config := getattr(part, "config", 0), PreTrainedConfig)
        ]
        configs = {id(config): config for each in found for config in (each, each.get_text_config())}
        self._configs = list(configs.values())
        for config in self._configs:
            config.use_cache = False
        self._num_ids = _count_ids(model)
        own = [getattr(config, "pad_token_id", None) for config in self._configs]
        self._pad_ids = _order_pad_ids(
            [*own, *pad_ids], _list_special_ids(self._configs), self._num_ids or int(long.max()) + 1
        )
        self._key: str | int | None = None
        self.width = self._find_width(short, long)
        self.pads = self._tolerates_padding(short, long)

    def attempt(self, rows: Sequence[Ids]) -> list[Values] | Failure:
        """The outputs of each row (with a tag those of each step, one after the other), or why the batch has none.

        Raises ServiceLost when the device is lost.
        """
        try:
            return self._compute(rows)
        except Exception as error:  # a model's own code raises anything; its caller finds the rows that are to blame
            if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _NO_MEMORY.search(str(error)):
                failure = Failure("out_of_memory", _one_line(error), out_of_memory=True)
            elif _DEVICE_LOST.search(str(error)):
                raise ServiceLost(f"the device is lost: {_one_line(error)}") from None
            else:
                failure = Failure("model_raised", _one_line(error))
        if failure.out_of_memory and self._model.device.type == "cuda":
            torch.cuda.empty_cache()  # here the exception is gone, and what it held
        return failure

    def _compute(self, rows: Sequence[Ids]) -> list[Values]:
        low, high = min(int(row.min(initial=0)) for row in rows), max(int(row.max(initial=0)) for row in rows)
        if low < 0 or (self._num_ids is not None and high >= self._num_ids):  # on a GPU this costs the process
            raise ValueError(f"there is a token id {low if low < 0 else high}, and the model has {self._num_ids}")
        if not all(map(len, rows)):
            raise ValueError("there are no tokens")
        pad = self._find_unused_id(rows)
        if pad is None and len(rows) > 1:
            raise ValueError("there is no id left to pad with")
        return self._forward(rows, pad)

    def _forward(self, rows: Sequence[Ids], pad: int | None) -> list[Values]:
        width = max(map(len, rows))
        ids = np.full((len(rows), width), 0 if pad is None else pad, np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)], mask[place, : len(row)] = row, 1
        for config in self._configs:
            config.pad_token_id = pad
        device = self._model.device
        with torch.inference_mode():
            said = self._model(
                input_ids=torch.from_numpy(ids).to(device), attention_mask=torch.from_numpy(mask).to(device)
            )
            found = self._select_outputs(said, ids.shape).float().cpu().numpy()
        if self._tag is None:
            return list(found)
        return [found[place, : len(row)][row == self._tag].reshape(-1) for place, row in enumerate(rows)]

    def _select_outputs(self, said: Any, shape: tuple[int, int]) -> torch.Tensor:
        """The outputs in the model's answer: [rows, width], or [rows, tokens, width] with a tag."""
        wanted = shape[:1] if self._tag is None else shape
        tensors = _list_tensors(said)
        if self._key is None:
            self._key = _choose(tensors, wanted, getattr(self._model.config, "num_labels", None))
        taken = _reshape(tensors.get(self._key), wanted)
        if taken is None:
            raise TypeError(f"its outputs {self._key!r} are not of the form that they had at first")
        return taken

    def _find_unused_id(self, rows: Sequence[Ids], but: int | None = None) -> int | None:
        """The most preferred id that no row holds; None where all are held."""
        used = np.zeros(len(self._pad_ids), bool)
        for held in (*rows, *([] if but is None else [np.array([but])])):
            used[held[held < len(used)]] = True
        used = used[self._pad_ids]
        return None if used.all() else int(self._pad_ids[used.argmin()])

    def _find_width(self, short: Ids, long: Ids) -> int:
        widths = []
        for row in (short, long):
            num_steps = 1 if self._tag is None else int((row == self._tag).sum())
            widths.append(len(self._forward([row], self._find_unused_id([short, long]))[0]) // num_steps)
        if widths[0] != widths[1]:
            raise ServiceError(
                f"it gives {widths[0]} outputs for {len(short)} tokens and {widths[1]} for {len(long)}, so some "
                "for each token; give `steps:` if it scores each step"
            )
        return widths[0]

    def _tolerates_padding(self, short: Ids, long: Ids) -> bool:
        """Whether a row has the same outputs alone and padded, with any pad id."""
        pad = self._find_unused_id([short, long])
        other = self._find_unused_id([short, long], but=pad)
        try:
            ((alone,), (padded, _), (otherwise, _)) = (
                self._forward(rows, with_id)
                for rows, with_id in (([short], pad), ([short, long], pad), ([short, long], other))
            )
        except Exception as error:  # a model's own code raises anything
            why = _one_line(error)
        else:
            near = 0.01 if self._model.dtype == torch.float32 else 0.25  # half precisions differ with the batch's shape
            same = np.allclose(padded, otherwise, rtol=0.01, atol=1e-4, equal_nan=True)
            if same and np.allclose(alone, padded, rtol=near, atol=near, equal_nan=True):
                return True
            why = f"{alone} alone, {padded} and {otherwise} padded"
        _log.warning("the model's outputs hang on the padding (%s): only rows of equal length share a batch", why)
        return False


def _order_pad_ids(preferred: Sequence[int | None], special: Sequence[int], num_ids: int) -> np.ndarray:
    """All ids below ``num_ids``: the preferred ones first, those with a meaning of their own last."""
    order = [*preferred, *(set(range(num_ids)) - set(special)), *special]
    return np.array([each for each in dict.fromkeys(order) if each is not None and 0 <= each < num_ids])


def _list_special_ids(configs: Sequence[Any]) -> list[int]:
    """Ids that mean something to the model's code, such as the place of an image."""
    named = [value for config in configs for name, value in vars(config).items() if _IS_ID.search(name)]
    several = [value if isinstance(value, (list, tuple)) else [value] for value in named]
    return [value for values in several for value in values if isinstance(value, int)]


def _count_ids(model: Any) -> int | None:
    """The vocabulary size by the embeddings; None where the model does not show them."""
    with suppress(NotImplementedError, AttributeError):
        return int(model.get_input_embeddings().weight.shape[0])
    return None


_IS_ID = re.compile(r"_(token_id|token_index|token_ids)$")
_NAMES = ("score", "scores", "logits")


def _list_tensors(said: Any) -> dict[str | int, torch.Tensor]:
    """The tensors in a model's answer that may be its outputs."""
    if isinstance(said, torch.Tensor):
        return {0: said}
    if isinstance(said, (tuple, list)):
        found: dict[str | int, Any] = dict(enumerate(said))
    elif isinstance(said, Mapping):
        found = {name: said.get(name) for name in ("rewards", *_NAMES)}
    else:
        found = {name: getattr(said, name, None) for name in ("rewards", *_NAMES)}
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def _choose(tensors: Mapping[str | int, torch.Tensor], shape: Sequence[int], num_labels: int | None) -> str | int:
    """The name of the outputs among them; see the module."""
    fitting = {name: value for name, given in tensors.items() if (value := _reshape(given, shape)) is not None}
    if "rewards" in fitting and fitting["rewards"].shape[-1] == num_labels:
        return "rewards"
    for name in (*_NAMES, "rewards", *fitting):
        if name in fitting:
            return name
    seen = ", ".join(f"{name} {list(value.shape)}" for name, value in tensors.items()) or "none of these"
    what = "token of the text" if len(shape) == 2 else "conversation"
    cure = "leave out `steps:` if it scores the whole" if len(shape) == 2 else "give `steps:` if it scores each step"
    raise ServiceError(f"it gives no outputs for each {what} as rewards, score, scores or logits ({seen}); {cure}")


def _reshape(value: torch.Tensor | None, shape: Sequence[int]) -> torch.Tensor | None:
    """A tensor as [*shape, width], None where it is not of this form."""
    if value is None or not value.is_floating_point() or tuple(value.shape[: len(shape)]) != tuple(shape):
        return None
    if value.ndim == len(shape):
        return value.unsqueeze(-1)
    return value if value.ndim == len(shape) + 1 else None


def load_model(spec: RewardModelSpec) -> LoadedModel:
    """The model on its device, tried out. Raises ServiceError, or whatever transformers and the model's code raise."""
    if Path(spec.model).is_absolute() and not Path(spec.model).is_dir():
        raise ServiceError(f"there is no folder {spec.model}")
    auto_class = _choose_auto_class(spec)
    encoder = Encoder(spec)
    try:
        tokenizer = encoder.tokenizer
        tag = find_tag_id(spec, tokenizer)
        short, long = (_make_example(encoder, text, tag) for text in ("Two.", "It is two. " * 12))
    except UserError as error:
        raise ServiceError(str(error)) from error
    pad_ids = [] if tokenizer.pad_token_id is None else [tokenizer.pad_token_id]
    model = _load_model(spec, auto_class)
    try:
        return LoadedModel(model, short, long, tag=tag, pad_ids=pad_ids)
    except ServiceError as error:
        raise ServiceError(f"{spec.model}: {error}") from None


def _load_model(spec: RewardModelSpec, auto_class: str) -> Any:
    import transformers

    auto = getattr(transformers, auto_class)
    model_args, config = _split_arguments(spec)
    on_gpu = torch.cuda.is_available() and spec.num_gpus > 0
    device = "cuda" if on_gpu else "cpu"
    if on_gpu and spec.num_gpus < 1:
        torch.cuda.set_per_process_memory_fraction(spec.num_gpus)
    if on_gpu and find_spec("accelerate") is not None:
        model_args.setdefault("device_map", {"": device})
    elif spec.num_gpus > 0 and not on_gpu:
        _log.warning("%s: no GPU is seen here; it runs on the CPU (gpus: 0 says so)", spec.model)
    loaded = auto.from_pretrained(
        spec.model,
        config=config,
        revision=spec.revision,
        dtype=spec.dtype,
        trust_remote_code=spec.trust_remote_code,
        output_loading_info=True,
        **model_args,
    )
    model, info = loaded if isinstance(loaded, tuple) else (loaded, {})
    if absent := sorted({*info.get("missing_keys", ()), *(key[0] for key in info.get("mismatched_keys", ()))}):
        raise ServiceError(
            f"{spec.model}: {type(model).__name__} finds no weights for {', '.join(absent[:3])} in the checkpoint, and "
            f"would score with random ones; it was saved as {', '.join(config.architectures or ['?'])}"
        )
    return model if "device_map" in model_args else model.to(device)


def _choose_auto_class(spec: RewardModelSpec) -> str:
    """The auto class of transformers that the checkpoint is for. ServiceError if it needs code that it may not run."""
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    hub = {name: value for name, value in spec.engine_args.items() if name in _HUB}
    raw, _ = PreTrainedConfig.get_config_dict(spec.model, revision=spec.revision, **hub)
    remote, architecture = raw.get("auto_map") or {}, (raw.get("architectures") or [""])[0]
    ordered = ["AutoModelForSequenceClassification", "AutoModelForTokenClassification"]
    if spec.steps is not None:
        ordered.reverse()
    chosen = next((name for name in ordered if name in remote), "")
    if not chosen:
        endings = {name: architecture.endswith(name.removeprefix("AutoModel")) for name in ordered}
        chosen = next((name for name in ordered if endings[name]), "AutoModel" if "AutoModel" in remote else ordered[0])
    unknown = "AutoConfig" in remote and raw.get("model_type") not in CONFIG_MAPPING
    if (chosen in remote or unknown) and not spec.trust_remote_code:
        raise ServiceError(
            f"{spec.model} brings its own code ({', '.join(map(str, remote.values()))}), and scores only with it; read "
            "it, then set `trust_remote_code: true`"
        )
    return chosen


def _split_arguments(spec: RewardModelSpec) -> tuple[dict[str, Any], Any]:
    """The arguments in engine_args for from_pretrained, and the configuration with the others."""
    from transformers import AutoConfig, PreTrainedModel

    loader = PreTrainedModel.from_pretrained
    popped = re.findall(r'kwargs\.pop\("([a-z]\w*)"', inspect.getsource(loader))  # its signature names only a few
    known = {*inspect.signature(loader).parameters, *popped} - {"pretrained_model_name_or_path", "model_args", "kwargs"}
    for name in spec.engine_args:
        if name in _OURS:
            raise ServiceError(f"engine_args.{name} is said by `{_OURS[name]}:` beside `model:`")
    taken = {name: value for name, value in spec.engine_args.items() if name in known}
    rest = {name: value for name, value in spec.engine_args.items() if name not in known}
    config, unknown = AutoConfig.from_pretrained(
        spec.model,
        revision=spec.revision,
        trust_remote_code=spec.trust_remote_code,
        return_unused_kwargs=True,
        **{name: value for name, value in taken.items() if name in _HUB},
        **rest,
    )
    for name in rest:
        if name in unknown:
            near = nearest(name, {*known, *config.to_dict()} - set(_OURS))
            raise ServiceError(f"engine_args: from_pretrained has no argument {name!r}; {near}")
    return taken, config


def _make_example(encoder: Encoder, response: str, tag: int | None) -> Ids:
    """A conversation to try the model with: some read marks of their chat template and refuse any other text."""
    prompt = pa.array([[{"role": "user", "content": "What is 1 + 1?"}]])
    try:
        (ids,) = encoder.encode(prompt, pa.array([response])).ids.to_pylist()
    except UserError:  # it has no chat template
        ids = None
    if ids is None:
        ids = encoder.tokenizer(response, add_special_tokens=False)["input_ids"]
    if tag is not None and tag not in ids:
        ids = [*ids, tag]
    if not ids:  # transformers makes an empty tokenizer where the files are missing
        raise ServiceError(f"its tokenizer makes no tokens of {response!r}; are its files there?")
    return np.array(ids, np.int32)


def _one_line(error: BaseException) -> str:
    said = " ".join(str(error).split())[:400]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
