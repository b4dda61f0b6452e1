"""What ``rmbatch report`` leaves: a folder with the page, its plots and all figures; and what it prints.

place = find_report_place(folder, None)           # OUTPUT.report
save_report(place, report, print)                 # index.html, report.json, *.png
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from connectors.errors import UserError
from connectors.local import LocalStore
from connectors.storage import Folder
from jobs.show.display import draw_table
from jobs.show.report_page import build_page
from jobs.show.report_plots import draw_report

PAGE, FIGURES = "index.html", "report.json"


@dataclass(frozen=True)
class ReportResult:
    """A report that is written."""

    folder: str
    report: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """As plain values: where the page is, and what it says first."""
        found = self.report
        return {
            "folder": self.folder,
            "page": f"{self.folder}/{PAGE}",
            "prompts": found["num_prompts"],
            "candidates": found["num_candidates"],
            "findings": found["findings"],
        }

    def show(self, console: Console) -> None:
        """Print where the page is, and what it says first."""
        found = self.report
        lines = [
            ("page", f"{self.folder}/{PAGE}"),
            ("prompts", f"{found['num_prompts']:,}"),
            ("candidates", f"{found['num_candidates']:,}"),
        ]
        console.print(draw_table("", lines))
        for each in found["findings"]:
            console.print(f"{each['level']}: {each['text']}", highlight=False, markup=False, soft_wrap=True)


def find_report_place(folder: Folder, out: str | None) -> Path:
    """The folder to write to. Raises UserError where none may be: inside the output, or where something else is."""
    if out is None:
        if not isinstance(folder.store, LocalStore):
            raise UserError(f"{folder.url} is not on this machine; name a folder of its disk: --out FOLDER")
        out = f"{folder.path()}.report"
    if "://" in out:
        raise UserError(f"--out {out}: a report is written to a disk of this machine; copy it from there")
    place = Path(os.path.abspath(os.path.expanduser(out)))
    if isinstance(folder.store, LocalStore):
        root = os.path.realpath(folder.path())
        if f"{os.path.realpath(place)}/".startswith(f"{root}/"):
            raise UserError(f"--out {out} lies inside the output {folder.url}; choose a folder outside of it")
    if place.is_file() or (place.is_dir() and any(place.iterdir()) and not (place / FIGURES).is_file()):
        raise UserError(f"{place} holds something else than a report; choose another folder: --out FOLDER")
    return place


def save_report(place: Path, report: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Write the files of a report, in place of those of an earlier one; the page last."""
    plots = draw_report(report, say)
    page = build_page(report, {name: each.svg for name, each in plots.items()})
    place.mkdir(parents=True, exist_ok=True)
    for old in place.glob("*.png"):
        if old.stem not in plots and (place / FIGURES).is_file():
            old.unlink()
    _write(place / FIGURES, orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS))
    for name, each in plots.items():
        _write(place / f"{name}.png", each.png)
    _write(place / PAGE, page.encode())


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)
