"""Writes a finished output as rows for a trainer: one pass over its files, into a folder of its own.

    result = export_output("out/best/", "dpo", ExportRule(pairs="adjacent"), out="pairs/")
    result.facts.rows, result.facts.prompts_left_out

Whoever finds the folder finds all of it (``export_place.py``). The same command on a whole folder does nothing; a
folder of anything else is refused.
"""

import os
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import orjson
import pyarrow as pa

from connectors.errors import UserError
from connectors.faults import explain_errors
from connectors.formats.base import FileSpec, FileWriter, load_format
from connectors.local import LocalStore
from connectors.storage import Folder, StorageOptions
from jobs.config.identity import digest
from jobs.run.export_place import MARK, Create, DiskPlace, ExportPlace, open_place
from jobs.run.export_source import ExportSource
from jobs.run.finished import read_manifest
from jobs.run.push import Push
from jobs.show.display import Display
from jobs.show.export import ExportResult
from rmbatch.exports.base import Export, ExportRule, load_export
from rmbatch.exports.card import ExportFacts, build_card
from rmbatch.exports.conversations import to_plain

FILE_FORMATS = ("parquet", "jsonl")
FILE_BYTES = 256 << 20


class EmptyExportError(Exception):
    """The output gives no row of this export; the message says why."""


def export_output(
    output: str,
    to: str,
    rule: ExportRule | None = None,
    *,
    out: str | None = None,
    file_format: str = "parquet",
    options: StorageOptions | None = None,
    push: Push | None = None,
    display: Display | None = None,
) -> ExportResult:
    """Export a finished output.

    ``to``: a name in ``FORMATS``. ``out``: a folder, on a disk or in a bucket; None: beside the output,
    ``OUTPUT.FORMAT``. ``options`` are those of the output, and of ``out`` where that is in a bucket. Raises UserError
    for a mistake, before anything is written. ``push``: where a finished export goes on the hub.
    """
    folder = Folder.open(output, options)
    if push is not None and not isinstance(find_place(folder, out, to), DiskPlace):
        raise UserError("--push uploads from a disk of this machine; name a folder of it: --out FOLDER")
    try:
        result = write_export(
            folder,
            to,
            rule or ExportRule(),
            out=out,
            file_format=file_format,
            display=display or Display(),
            shown=output,
        )
    except EmptyExportError as empty:
        raise UserError(f"{to} has no row to write: {empty}") from None
    if push is None:
        return result
    (display or Display()).say(f"uploading {result.folder} to {push.address}")
    return replace(result, pushed_to=push.upload(Path(result.folder)))


def write_export(
    folder: Folder, to: str, rule: ExportRule, *, out: str | None, file_format: str, display: Display, shown: str
) -> ExportResult:
    """The same for an output that is open. ``shown``: how the card calls it. Raises EmptyExportError for no rows."""
    export = load_export(to)
    export.check(rule)
    if file_format not in FILE_FORMATS:
        raise UserError(f"an export is written as parquet or jsonl, not as {file_format}")
    with explain_errors(folder.url):
        manifest, content = read_manifest(folder)
    place = find_place(folder, out, to)
    source = ExportSource.open(folder, manifest, rule, export)
    facts = ExportFacts(
        place.name,
        to,
        file_format,
        rule,
        source.fitted.score_column,
        shown.rstrip("/"),  # as it was written: the card travels to other machines
        source.origin,
        version("rmbatch"),
        manifest["job"],
    )
    identity = {
        "format": to,
        "as": file_format,
        "rule": rule.model_dump(mode="json"),
        "output": folder.url,
        "manifest": digest(content),
        "rmbatch": facts.version,
    }
    with explain_errors(place.url):
        found = place.read_finished(identity)
    if found is not None:
        display.say(f"{place.url} is finished; nothing to do")
        counted = {name: found[name] for name in _COUNTED}
        return ExportResult(place.url, replace(facts, **{**counted, "files": tuple(counted["files"])}))
    with explain_errors(place.url), place.writing(identity) as create:
        facts = _write(source, export, facts, create, display)
        beside = export.files_beside(place.name, file_format)
        for name, data in {**beside, "README.md": build_card(facts, export).encode()}.items():
            with create(name) as file:
                file.write(data)
        counts = {name: getattr(facts, name) for name in _COUNTED}
        with create(MARK) as file:
            file.write(orjson.dumps({"made_from": identity, **counts}, option=orjson.OPT_INDENT_2))
    return ExportResult(place.url, facts)


_COUNTED = ("rows", "prompts", "candidates", "prompts_left_out", "candidates_left_out", "files")


def find_place(folder: Folder, out: str | None, name: str) -> ExportPlace:
    """The folder to write. Raises UserError where none may be."""
    place = open_place(out or f"{folder.url}.{name}", folder.options)
    if isinstance(folder.store, LocalStore) and isinstance(place, DiskPlace):
        root, inside = os.path.realpath(folder.path()), os.path.realpath(place.path)
    else:
        root, inside = folder.url, place.url
    if f"{inside}/".startswith(f"{root}/"):
        raise UserError(f"{out} lies inside the output {folder.url}; choose a folder outside of it")
    return place


def _write(source: ExportSource, export: Export, facts: ExportFacts, create: Create, display: Display) -> ExportFacts:
    """Write all rows below ``data/``. Raises EmptyExportError where there are none."""
    prompts, candidates = Counter[str](), Counter[str]()
    num_prompts = num_candidates = num_read = 0
    progress = display.show_progress("export", source.rows.dataset.num_rows, "rows")
    with ExitStack() as opened, progress as advance_to:
        sink = _Sink(create, opened, facts.file_format)
        for read in source.blocks():
            block = replace(read, start=sink.num_rows)
            made = export.rows(block, facts.rule)
            prompts.update(made.left_out)
            num_prompts += block.pool.num_prompts
            if export.reads_candidates:
                candidates.update(block.pool.reasons())
                num_candidates += len(block.pool.response)
            sink.add(made.table)
            num_read += block.table.num_rows
            advance_to(num_read)
        sink.finish()
    if not sink.num_rows:
        why = [f"{count:,} prompts {code}" for code, count in prompts.items()]
        why += [f"{count:,} candidates {code}" for code, count in candidates.items()]
        nothing = "the job kept no row" if num_read else "the output is empty"
        raise EmptyExportError(", ".join(why) or nothing)
    return replace(
        facts,
        rows=sink.num_rows,
        prompts=num_prompts,
        candidates=num_candidates,
        prompts_left_out=dict(prompts),
        candidates_left_out=dict(candidates),
        files=tuple(sink.files),
    )


class _Sink:
    """Files of rows, begun anew when one is large."""

    def __init__(self, create: Create, opened: ExitStack, file_format: str) -> None:
        """``opened``: holds the file that is being written. What goes wrong reaches that file through it."""
        self._create, self._opened, self._format = create, opened, load_format(file_format)
        self._writer: FileWriter | None = None
        self._suffix = f".{file_format}"
        self.files: list[str] = []
        self.num_rows = 0

    def add(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        plain = to_plain(table)
        if self._writer is None:
            self.files.append(f"data/train-{len(self.files):05}{self._suffix}")
            spec = FileSpec(plain.schema, "zstd" if self._suffix == ".parquet" else None)
            self._writer = self._format.writer(spec, self._opened.enter_context(self._create(self.files[-1])))
        self._writer.add(plain)
        self.num_rows += plain.num_rows
        if self._writer.num_bytes >= FILE_BYTES:
            self.finish()

    def finish(self) -> None:
        """Finish the file that is being written, if there is one."""
        if self._writer is None:
            return
        self._writer.finish()
        self._opened.close()
        self._writer = None
