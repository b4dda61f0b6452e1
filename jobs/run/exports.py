"""The exports of a job over rows (``output.exports``): checked before its work, written when its output is finished.

check_exports(job, identity, output_schema)     # UserError, before anything costs
write_exports(job, display)                     # after the manifest, in every run; what is whole already stays
discard_exports(job)                            # when the job begins anew
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from connectors.errors import DeadEndError, UserError
from connectors.faults import explain_errors
from jobs.config.exports import ExportConfig, show_settings
from jobs.config.sections import RowJobConfig
from jobs.run.export import EmptyExportError, write_export
from jobs.run.export_place import ExportPlace, open_place
from jobs.run.export_source import fit_export
from jobs.run.output import output_folder
from jobs.show.display import Display
from rmbatch.exports.base import load_export


def describe_exports(job: RowJobConfig) -> dict[str, str]:
    """By the name of each export: its folder, and its settings."""
    found = {}
    for export, place in _places(job):
        settings = ", ".join(f"{name} {value}" for name, value in show_settings(export).items())
        found[export.folder] = place.url + (f" ({settings})" if settings else "")
    return found


def check_exports(job: RowJobConfig, identity: Mapping[str, Any], schema: pa.Schema) -> None:
    """Check the exports against the columns of the output. Raises UserError for one that does not fit."""
    for export in job.output.exports:
        try:
            fit_export(load_export(export.to), export.rule, schema, identity)
        except UserError as error:
            raise UserError(f"output.exports: {export.folder}: {error}") from None


def check_free(job: RowJobConfig) -> None:
    """Raises UserError where the folder of an export of an unfinished output holds something already."""
    for export, place in _places(job):
        with explain_errors(place.url):
            if not place.is_free():
                raise UserError(
                    f"output.exports: {place.url} holds something already; delete it, or give the export another name: "
                    f"{{to: {export.to}, name: …}}"
                )


def write_exports(job: RowJobConfig, display: Display) -> dict[str, dict[str, Any]]:
    """Write the exports of a finished output. Return by name what each holds.

    Raises DeadEndError where an export has no row.
    """
    folder, made = output_folder(job), {}
    for export, place in _places(job):
        try:
            result = write_export(
                folder,
                export.to,
                export.rule,
                out=place.url,
                file_format=export.file_format,
                display=display,
                shown=job.output.path,
            )
        except UserError as error:
            raise UserError(f"output.exports: {export.folder}: {error}") from None
        except EmptyExportError as empty:
            raise DeadEndError(
                f"{folder.url} is finished, but output.exports: {export.folder} has no row to write: {empty}"
            ) from None
        made[export.folder] = result.plain()
    return made


def discard_exports(job: RowJobConfig) -> None:
    """Delete the exports of the output. What else stands in their places stays."""
    for _, place in _places(job):
        place.discard(output_folder(job).url)


def _places(job: RowJobConfig) -> Iterator[tuple[ExportConfig, ExportPlace]]:
    output = output_folder(job)
    for export in job.output.exports:
        yield export, open_place(f"{output.url}.{export.folder}", output.options)
