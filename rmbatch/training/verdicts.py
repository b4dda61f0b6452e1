"""Compares what a judge says with what is true: the reward by which verl trains a judge, and scores of judgements.

The answer is read by the form that judges fill in (``rmbatch/judges/form.py``), so what counts as readable in training
is what counts when the trained model judges.

    truth = Truth("scale", 4, {"low": 0, "high": 4, "whole": True, "critique": True}, "text")
    compare("<critique>fine</critique><score>3</score>", truth)           # Agreement(score=0.61, is_right=False)
    compute_score("", answer, truth.to_json())                            # what verl calls; it never raises
    reward: rmbatch.training.verdicts:verdict_agreement                   # in a job file; null where unreadable

Scores are in [0, 1]:

- scale: exp(-k |said - true| / (high - low)); the worst readable answer still gets exp(-k), so being readable pays.
  Source: RM-Gallery, pointwise training, with k = 2.
- better: 1 where the preference is the true one, a tie included.
- steps: by the first wrong step, which is the first that gets the lowest number. No wrong step: 1 where none is said to
  be wrong. Else 1 - distance / (2 steps) where one is said to be wrong. Otherwise 0. This is (r + 1) / 2 for the reward
  r in [-1, 1] of FAPO's critic (arXiv 2510.22543), which changes no advantage that GRPO normalises.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from rmbatch.judges import form
from rmbatch.judges.form import Form
from rmbatch.rewards.scores import Scores

Kind = Literal["scale", "better", "steps"]
DECAY = 2.0


@dataclass(frozen=True)
class Truth:
    """What is true of what is judged, and the form that the answer fills in."""

    kind: Kind
    label: Any
    """scale: the rating. better: A, B or tie. steps: the first wrong step from 0; -1: none is wrong."""
    form: Mapping[str, Any]
    """Arguments of the form: of ``scale``, ``better_of_two`` or ``numbers_of_steps`` in ``rmbatch/judges/form.py``."""
    structured: str = "json_schema"
    """How the answer is to be written, as ``JudgeSpec.structured``."""
    quotable: str = ""
    """What the judge was shown of others."""
    decay: float = DECAY

    def to_json(self) -> str:
        """As text, for a column of Parquet."""
        return json.dumps(vars(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Truth":
        """What ``to_json`` gave. Raises ValueError or TypeError for any other text."""
        return cls(**json.loads(text))

    def build_form(self) -> Form:
        """The form that the judge was given."""
        return _FORMS[self.kind](**self.form)


@dataclass(frozen=True)
class Agreement:
    """How well an answer agrees with the truth."""

    score: float | None = None
    """In [0, 1]; None: the answer could not be read."""
    is_right: bool = False
    """Whether it says just what is true."""
    error: str = ""
    """``verdict_…: message`` where it could not be read."""
    said: Any = field(default=None, compare=False)
    """The verdict that was read."""


def compare(answer: str, truth: Truth) -> Agreement:
    """Read an answer and compare it. Never raises for an answer."""
    reading = truth.build_form().read(answer, truth.structured, quotable=truth.quotable)
    if reading.reason is not None:
        return Agreement(error=reading.reason)
    score, is_right = _COMPARISONS[truth.kind](reading.value, truth)
    return Agreement(score, is_right, said=reading.value)


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Mapping[str, Any] | None = None, **_: Any
) -> dict[str, float]:
    """As verl calls it: score, acc, parse_ok (0: the answer could not be read, and the score is 0). Never raises."""
    del data_source, extra_info
    found = compare(solution_str or "", Truth.from_json(ground_truth))
    return {
        "score": 0.0 if found.score is None else found.score,
        "acc": float(found.is_right),
        "parse_ok": float(found.score is not None),
    }


def verdict_agreement(response: pa.Array, reference: pa.Array) -> Scores:
    """Scores of n judgements, in [0, 1]; null with the code ``verdict_…`` where one cannot be read.

    reference[n]: the truth as JSON, as ``train_rm`` writes it to ``ground_truth``; null in, null out.
    """
    found = [_agreement(*row) for row in zip(response.to_pylist(), reference.to_pylist(), strict=True)]
    return Scores(
        pa.array([each.score for each in found], pa.float64()),
        pa.array([each.error or None for each in found], pa.large_string()),
    )


def _agreement(response: str | None, reference: str | None) -> Agreement:
    if response is None or reference is None:
        name = "response" if response is None else "reference"
        return Agreement(error=f"missing_{name}: {name} is null")
    try:
        return compare(response, Truth.from_json(reference))
    except (ValueError, TypeError, KeyError) as error:
        return Agreement(error=f"malformed_reference: it is no truth of a judgement: {error}")


def first_wrong_step(steps: tuple[float, ...], lowest: float) -> int:
    """The first step with the lowest number of the scale, from 0; -1: none has it."""
    return next((place for place, number in enumerate(steps) if number == lowest), -1)


def _compare_scale(said: float, truth: Truth) -> tuple[float, bool]:
    length = truth.form["high"] - truth.form["low"]
    return math.exp(-truth.decay * abs(said - truth.label) / length), said == truth.label


def _compare_better(said: str, truth: Truth) -> tuple[float, bool]:
    return float(said == truth.label), said == truth.label


def _compare_steps(said: tuple[float, ...], truth: Truth) -> tuple[float, bool]:
    found = first_wrong_step(said, truth.form["low"])
    if found < 0 or truth.label < 0:
        return float(found == truth.label), found == truth.label
    return 1 - abs(found - truth.label) / (2 * truth.form["num_steps"]), found == truth.label


_FORMS: dict[str, Callable[..., Form]] = {
    "scale": form.scale,
    "better": form.better_of_two,
    "steps": form.numbers_of_steps,
}
_COMPARISONS: dict[str, Callable[[Any, Truth], tuple[float, bool]]] = {
    "scale": _compare_scale,
    "better": _compare_better,
    "steps": _compare_steps,
}
