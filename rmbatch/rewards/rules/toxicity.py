"""The reward for harmless wording by a classifier that the user names: ``detoxify_reward``.

The model is loaded by transformers at the first batch, in the process that scores.
"""

from functools import cached_property
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from connectors.errors import UserError
from rmbatch.rewards.contract import reward
from rmbatch.rewards.rules.texts import to_floats
from rmbatch.settings.extras import require


@reward("detoxify_reward")
class DetoxifyReward:
    """1 - the probability that a text classifier gives to ``label``, e.g. "toxic".

    response[n] text -> score[n] float64 in [0, 1]; equal texts of a batch are classified once, long ones are cut to
    what the model takes. ``model`` is a name on the Hugging Face hub or a folder, ``revision`` a commit of it;
    ``device`` as torch writes it. ``batch_rows`` over 1 is faster on a GPU and may change the last digits of a score.
    Null response: null. UserError where transformers is not installed, the model cannot be loaded or has no such label.
    Source: RM-Gallery, ``detoxify_reward``, and Detoxify, https://github.com/unitaryai/detoxify, whose models are on
    the hub (``unitary/toxic-bert``, ``unitary/unbiased-toxic-roberta``).
    Deviation: RM-Gallery hands the classifier an object instead of the text, and scores nothing.
    Deviation: the knob ``model_name`` is refused, it is ``model`` here and has to be given; RM-Gallery takes detoxify's
    "unbiased".
    """

    def __init__(
        self,
        *,
        model: Annotated[str, Field(min_length=1)],
        label: str = "toxic",
        revision: str | None = None,
        device: str = "cpu",
        batch_rows: Annotated[int, Field(ge=1)] = 1,
    ) -> None:
        self._model, self._label, self._revision = model, label, revision
        self._device, self._batch_rows = device, batch_rows

    def __call__(self, response: pa.Array) -> pa.Array:
        texts = response.to_pylist()
        different = list(dict.fromkeys(text for text in texts if text is not None))
        said = (
            self._classifier(different, batch_size=self._batch_rows, truncation=True, top_k=None) if different else []
        )
        scores = {text: 1.0 - self._probability(labels) for text, labels in zip(different, said)}
        return to_floats(scores.get(text) for text in texts)

    def _probability(self, labels: list[dict[str, Any]]) -> float:
        found = next((one["score"] for one in labels if one["label"] == self._label), None)
        if found is None:
            known = ", ".join(sorted(one["label"] for one in labels))
            raise UserError(f"detoxify_reward: {self._model} has no label {self._label!r}; it has {known}")
        return float(found)

    @cached_property
    def _classifier(self) -> Any:
        require("transformers", "detoxify_reward", "transformers")
        from transformers import pipeline

        try:
            return pipeline("text-classification", self._model, revision=self._revision, device=self._device)
        except (OSError, ValueError) as fault:
            raise UserError(f"detoxify_reward: model={self._model!r} cannot be loaded: {fault}") from fault
