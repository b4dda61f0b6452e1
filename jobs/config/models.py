"""The ``models:`` of a job file: chat models named once, for all that ask them with ``by: NAME``.

models:
  qwen: {endpoint: "${JUDGE_URL}", model: qwen3-32b, rate: {requests: 600}, budget: {usd: 200}}
rewards:
  help: {judge: pointwise, principles: helpfulness, by: qwen, temperature: 0.7}

Which model it is, where it is and what it may cost belong to the model; how it samples belongs to who asks.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationInfo, model_validator

from rmbatch.chat.spec import OF_MODEL, ChatSpec
from rmbatch.settings.base import PlainName, Settings
from rmbatch.settings.mistakes import validate

OF_BOTH = {"extra_body", "structured"}
"""Settings of the model's server that who asks may add to or replace."""


class NamedModel(ChatSpec):
    """An entry of ``models:``."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_sampling(cls, written: Any, info: ValidationInfo) -> Any:
        del info
        if isinstance(written, dict):
            sampling = ChatSpec.model_fields.keys() - OF_MODEL - OF_BOTH
            for key in written:
                if key in sampling:
                    raise ValueError(f"{key} belongs to who asks the model; write it there, beside by: NAME")
        return written


class _Models(Settings):
    """The part of a job file that names models."""

    models: dict[PlainName, NamedModel] = Field(default_factory=dict)


def read_models(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The models of a job file's content by name, as they are written. Raises UserError for one that cannot be used."""
    if not data.get("models"):
        return {}
    validate(_Models, {"models": data["models"]}, where=where)
    return dict(data["models"])
