"""The exports that a job writes of its finished output: ``output.exports``.

exports: [sft, dpo]
exports: [sft, {to: dpo, pairs: below_mean_2sd, min_margin: 0.1}, {to: kto, above: 0.8, below: 0.2, as: jsonl}]
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from connectors.errors import UserError
from rmbatch.exports.base import ExportRule, load_export
from rmbatch.settings.base import PlainName


class ExportConfig(ExportRule):
    """One export."""

    to: str
    """The format, such as sft, dpo, kto, reward or verl; see docs/exports.md."""
    file_format: Annotated[Literal["parquet", "jsonl"], Field(alias="as")] = "parquet"
    """Of its files."""
    name: PlainName | None = None
    """Ends the name of its folder, OUTPUT.NAME. None: the format's name."""

    @model_validator(mode="after")
    def _check_format(self) -> Self:
        try:
            load_export(self.to).check(self.rule)
        except UserError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def rule(self) -> ExportRule:
        """What is exported."""
        return ExportRule(**{name: getattr(self, name) for name in ExportRule.model_fields})

    @property
    def folder(self) -> str:
        """What follows the name of the output in the name of the export's folder."""
        return self.name or self.to


def _read_name(written: Any) -> Any:
    return {"to": written} if isinstance(written, str) else written


def _check_folders(exports: tuple[ExportConfig, ...]) -> tuple[ExportConfig, ...]:
    folders = [each.folder for each in exports]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ValueError(f"two exports are called {folder!r}; give one of them a name: {{to: …, name: …}}")
    return exports


Exports = Annotated[
    tuple[Annotated[ExportConfig, BeforeValidator(_read_name)], ...],
    AfterValidator(_check_folders),
]


def show_settings(export: ExportConfig) -> Mapping[str, Any]:
    """The settings that are not as they are by themselves, and the policy of an export of pairs."""
    stated = export.model_dump(mode="json", exclude_defaults=True, exclude={"to", "name"})
    return ({"pairs": export.pairs} if load_export(export.to).is_paired else {}) | stated
