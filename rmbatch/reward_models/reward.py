"""A reward model as a reward: it writes conversations as ids, sends each distinct one to the engine, reads the score.

    rm = rmbatch.reward_model("Skywork/Skywork-Reward-V2-Llama-3.1-8B", max_length=8192)
    rm.evaluate({"prompt": "What is 2 + 2?", "response": "4"})        # Result(score=13.8, ...)

``score`` is the output that the spec chooses, in float32 as the model gave it, or after the spec's activation. All
outputs of a model with several are kept as parts. A process reward model's step scores are kept in ``steps``.
"""

import atexit
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.errors import UserError
from connectors.storage import StorageOptions
from rmbatch.costs import usage
from rmbatch.reward_models.connect import connect
from rmbatch.reward_models.conversation import Encoder
from rmbatch.reward_models.engines.base import Outputs
from rmbatch.reward_models.fingerprint import Fingerprint, compute_fingerprint, resolve_commit
from rmbatch.reward_models.spec import RewardModelSpec, Steps
from rmbatch.rewards.composition import leaf_rewards
from rmbatch.rewards.contract import STEPS, Scores
from rmbatch.rewards.evaluation import Columns, Offsets, Reward
from rmbatch.rows.messages import TEXT
from rmbatch.settings.extras import require
from rmbatch.settings.mistakes import validate
from rmbatch.settings.names import nearest
from rmbatch.stores.scores import ScoreStore, keys_of

KEEP_EVERY_S = 30.0
"""How often new scores are written to the store. Each write makes a segment, so not after each batch."""


class ModelReward(Reward):
    """The scores of a reward model. Pickles without its tokenizer and without its engine."""

    name = "reward_model"
    columns = ("prompt", "response")
    takes_offsets = False

    def __init__(self, spec: RewardModelSpec) -> None:
        self.spec = spec
        self._flushed_at = -math.inf

    def __repr__(self) -> str:
        return f"reward_model({self.spec.model!r})"

    @cached_property
    def encoder(self) -> Encoder:
        """Writes this model's conversations. Raises UserError where transformers is not installed."""
        require("transformers", f"the model {self.spec.model!r}")
        return Encoder(self.spec)

    def pin(self) -> None:
        """Replace a branch by its commit, so that the engine loads what is fingerprinted now."""
        if not self.spec.is_remote and not Path(self.spec.model).is_dir():
            self.spec = self.spec.model_copy(update={"revision": resolve_commit(self.spec.model, self.spec.revision)})
            vars(self).pop("encoder", None)

    @property
    def counted_as(self) -> str:
        """The name that what it uses is counted under. Models that share an engine share it."""
        return f"served.{self.spec.engine_key}"

    def leave_store(self) -> None:
        """Do not use the store, because its fingerprint needs all weights read."""
        self.spec = self.spec.model_copy(update={"store": None})

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """The scorer's fingerprint; reads the weights once. Raises UserError where they cannot be identified."""
        return compute_fingerprint(self.spec, self.encoder.chat_template)

    @cached_property
    def store(self) -> ScoreStore | None:
        """The store of its scores; None: they are not kept."""
        if self.spec.store is None:
            return None
        atexit.register(self.keep)
        return ScoreStore.open(self.spec.store, StorageOptions(), self.fingerprint.hex, self.fingerprint.details)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Names of the model's outputs, in order. Raises UserError where they are not all different."""
        if self.spec.outputs is not None:
            return tuple(self.spec.outputs)
        config = self.encoder.config
        labels = getattr(config, "id2label", None) or {0: "LABEL_0"}
        architecture = (getattr(config, "architectures", None) or [""])[0]
        if architecture.endswith("ForRewardModel") and "id2label" not in config.to_diff_dict():
            labels = {0: "score"}  # transformers assumes two where nothing is said; these have one
        names = tuple(re.sub(r"[^A-Za-z0-9_-]+", "_", str(labels[place])) for place in sorted(labels))
        if len({*names}) < len(names):
            raise UserError(
                f"model {self.spec.model!r} calls outputs alike ({', '.join(names)}); name them: outputs: [...]"
            )
        return names

    @cached_property
    def chosen(self) -> int:
        """The position of the output that is the score. Raises UserError where the spec does not say."""
        names, output = self.outputs, self.spec.output
        if output is None and (len(names) == 1 or self.spec.steps is not None):
            return len(names) - 1
        if output is None:
            raise UserError(
                f"model {self.spec.model!r} has {len(names)} outputs ({', '.join(names)}); say which is the score: "
                f"output: {names[0]}"
            )
        if isinstance(output, str) and output not in names:
            raise UserError(f"output: the model has no output {output!r}; {nearest(output, names)}")
        place = names.index(output) if isinstance(output, str) else output
        if not -len(names) <= place < len(names):
            raise UserError(f"output: the model has {len(names)} outputs; {place} is none of them")
        return place % len(names)

    @property
    def part_names(self) -> Mapping[str, Sequence[str]]:
        _ = self.chosen  # names are needed before any row is read, so a wrong choice is refused early
        if self.spec.steps is not None:
            return {"": ("reason", "steps")}
        several = self.outputs if len(self.outputs) > 1 else ()
        return {"": ("reason",), **dict.fromkeys(several, ())}

    def score_parts(self, column: Columns, num_rows: int, offsets: Offsets | None = None) -> dict[str, Scores]:
        del offsets  # prompts are told apart by what they say
        encoded = self.encoder.encode(column("prompt"), column("response"))
        values, failed = self._score_distinct(encoded.ids, encoded.prompt)
        error = pc.coalesce(encoded.error, failed.cast(TEXT))
        if self.spec.steps is not None:
            return {"": self._score_steps(values, self.spec.steps, error, encoded.reason)}
        outputs = self._activate(self._to_matrix(values))
        parts = {"": _to_scores(outputs[:, self.chosen], error, encoded.reason)}
        for place, name in enumerate(self.outputs if len(self.outputs) > 1 else ()):
            parts[name] = _to_scores(outputs[:, place], error, pa.nulls(num_rows, TEXT))
        return parts

    def _score_distinct(self, ids: pa.Array, prompt: np.ndarray) -> tuple[pa.Array, pa.Array]:
        """Raw outputs and errors of n conversations. Null ids have neither. Each distinct one is scored once."""
        there = np.flatnonzero(np.asarray(ids.is_valid()))
        wanted = ids.take(pa.array(there))
        _, first, which = np.unique(keys_of(wanted), axis=0, return_index=True, return_inverse=True)
        outputs = Outputs(pa.array([], pa.large_list(pa.float32())), pa.array([], pa.string()))
        if len(first):
            outputs = self._find_or_score(wanted.take(pa.array(first)), prompt[there[first]])
        self._record({"repeated": len(there) - len(first)})
        places = np.zeros(len(ids), np.int64)
        places[there] = which.reshape(-1)
        index = pa.array(places, mask=~np.asarray(ids.is_valid()))
        return outputs.values.take(index), outputs.error.take(index)

    def _find_or_score(self, ids: pa.Array, prompt: np.ndarray) -> Outputs:
        """Raw outputs of distinct conversations, from the store or else from the engine; new ones are kept."""
        if self.store is None:
            return self._ask_engine(ids, prompt)
        keys = keys_of(ids)
        known = self.store.find(keys)
        new = np.flatnonzero(np.asarray(known.is_null()))
        self._record({"stored": len(ids) - len(new)})
        if len(new) == 0:
            return Outputs(known, pa.nulls(len(ids), pa.string()))
        outputs = self._ask_engine(ids.take(pa.array(new)), prompt[new])
        kept = np.flatnonzero(_are_finite(outputs.values))
        self.store.add(keys[new[kept]], outputs.values.take(pa.array(kept)))
        if time.monotonic() - self._flushed_at > KEEP_EVERY_S:
            self.keep()
        index = np.arange(len(ids))
        index[new] = len(ids) + np.arange(len(new))
        values = pa.concat_arrays([known, outputs.values]).take(pa.array(index))
        error = pa.concat_arrays([pa.nulls(len(ids), pa.string()), outputs.error]).take(pa.array(index))
        return Outputs(values, error)

    def keep(self) -> None:
        """Write new scores to the store; called now and then, and at the end of a task or process."""
        self._flushed_at = time.monotonic()
        if self.spec.store is not None and self.store is not None:
            self.store.flush()

    def _ask_engine(self, ids: pa.Array, prompt: np.ndarray) -> Outputs:
        outputs = connect(self.spec).ask(ids, prompt)
        self._record(outputs.usage)
        return outputs

    def _record(self, counts: Mapping[str, int]) -> None:
        usage.record(self.counted_as, counts)

    def _to_matrix(self, values: pa.Array) -> np.ndarray:
        """One row of outputs a response, float64, NaN where there are none."""
        self._check_width(values, exact=True)
        made = np.full((len(values), len(self.outputs)), math.nan)
        made[np.asarray(values.is_valid())] = np.asarray(values.flatten()).reshape(-1, len(self.outputs))
        return made

    def _score_steps(self, values: pa.Array, steps: Steps, error: pa.Array, reason: pa.Array) -> Scores:
        """Scores out of a list of outputs per response, as many for each step as the model has outputs."""
        self._check_width(values, exact=False)
        width = len(self.outputs)
        flat = self._activate(np.asarray(values.flatten(), np.float64).reshape(-1, width))[:, self.chosen]
        lengths = np.asarray(pc.fill_null(pc.list_value_length(values), 0)) // width
        ends = np.cumsum(lengths)
        score = np.array(
            [_AGGREGATES[steps.aggregate](part) for part in np.split(flat, ends[:-1])] if len(ends) else []
        )
        borders = pa.array(np.concatenate([[0], ends]), pa.int64())
        per_step = pa.LargeListArray.from_arrays(borders, pa.array(flat), mask=values.is_null()).cast(STEPS)
        return _to_scores(score.astype(np.float64), error, reason, per_step)

    def _check_width(self, values: pa.Array, exact: bool) -> None:
        lengths = np.asarray(pc.list_value_length(values.drop_null()))
        width = len(self.outputs)
        if (lengths != width).any() if exact else (lengths % width).any():
            whose = "its configuration names" if self.spec.outputs is None else "`outputs` names"
            raise UserError(
                f"model {self.spec.model!r} gives {lengths[0]} outputs, and {whose} {width} "
                f"({', '.join(self.outputs)}); name all in order: outputs: [...]"
            )

    def _activate(self, outputs: np.ndarray) -> np.ndarray:
        """Apply the spec's activation to outputs [n, width]."""
        if self.spec.activation == "none":
            return outputs
        if self.spec.activation == "sigmoid":
            return np.asarray(np.exp(-np.logaddexp(0.0, -outputs)))
        shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True, initial=-math.inf))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


_AGGREGATES = {
    "min": lambda steps: steps.min() if len(steps) else math.nan,
    "mean": lambda steps: steps.mean() if len(steps) else math.nan,
    "prod": lambda steps: steps.prod() if len(steps) else math.nan,
    "last": lambda steps: steps[-1] if len(steps) else math.nan,
}


def _are_finite(values: pa.Array) -> np.ndarray:
    """Whether a row has outputs, all of them finite: bool [n]."""
    lengths = np.asarray(pc.fill_null(pc.list_value_length(values), 0))
    rows = np.repeat(np.arange(len(values)), lengths)
    bad = np.bincount(rows, ~np.isfinite(np.asarray(values.flatten())), minlength=len(values))
    return np.asarray(np.asarray(values.is_valid()) & (bad == 0))


def _to_scores(values: np.ndarray, error: pa.Array, reason: pa.Array, steps: pa.Array | None = None) -> Scores:
    """Float64 scores. A value that is not finite becomes null, with an error unless there is one already."""
    finite = np.isfinite(values)
    shown = pa.array([f"not_finite: the model gave {value}" for value in values[~finite]], TEXT)
    told = pc.replace_with_mask(pa.nulls(len(values), TEXT), pa.array(~finite), shown)
    bad = pa.array(~finite)
    return Scores(
        pa.array(values, pa.float64(), mask=~finite),
        pc.if_else(bad, pc.coalesce(error, told), pa.scalar(None, TEXT)),
        reason,
        steps,
    )


def reward_model(model: str | RewardModelSpec, **settings: Any) -> ModelReward:
    """The reward that a model gives; ``settings`` as in ``RewardModelSpec``. Raises UserError for what does not fit."""
    if isinstance(model, RewardModelSpec):
        return ModelReward(model)
    return ModelReward(validate(RewardModelSpec, {**settings, "model": model}, where="reward model"))


def model_rewards(rewards: Mapping[str, Reward]) -> Iterator[tuple[str, ModelReward]]:
    """The reward models among rewards, also those inside compositions, by the names that their columns end in."""
    return ((name, each) for name, each in leaf_rewards(rewards) if isinstance(each, ModelReward))
