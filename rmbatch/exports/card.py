"""The dataset card of an export: ``README.md`` with the head that ``datasets`` and the Hugging Face hub read.

build_card(facts)          # text; nothing in it depends on the time or the machine
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from rmbatch.exports.base import Export, ExportRule, Origin
from rmbatch.exports.pairs import MANY
from rmbatch.exports.pool import REASONS

_SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
_SHOWN = ("reward", "judge", "model", "principles")
"""What the card tells of a reward: who it is, and no address, which may hold a secret."""


@dataclass(frozen=True)
class ExportFacts:
    """What is known of an export when all its rows are written."""

    name: str
    """Of its folder."""
    format: str
    """A name in ``FORMATS``."""
    file_format: str
    """parquet or jsonl."""
    rule: ExportRule
    by: str | None
    """The column of the score that decided."""
    output: str
    """Where the rows came from."""
    origin: Origin
    """Who made them."""
    version: str
    """Of rmbatch."""
    job: Mapping[str, Any] = field(default_factory=dict)
    """The job's settings, as its manifest has them."""
    rows: int = 0
    prompts: int = 0
    candidates: int = 0
    prompts_left_out: Mapping[str, int] = field(default_factory=dict)
    candidates_left_out: Mapping[str, int] = field(default_factory=dict)
    files: tuple[str, ...] = ()


def build_card(facts: ExportFacts, export: Export) -> str:
    """The text of the card."""
    head = {
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": f"data/*.{facts.file_format}"}],
            }
        ],
        "size_categories": [_size_category(facts.rows)],
        "task_categories": ["text-generation"],
        "tags": ["rmbatch", facts.format],
    }
    counts = [f"- rows: {facts.rows:,}", f"- prompts read: {facts.prompts:,}"]
    if export.reads_candidates:
        counts.append(f"- candidates read: {facts.candidates:,}")
    sections = [
        "---",
        yaml.safe_dump(head, sort_keys=False).rstrip(),
        "---",
        f"# {facts.name}",
        "",
        f"{export.about[0].upper()}{export.about[1:]}. Made by rmbatch {facts.version}: `--to {facts.format}`.",
        "",
        *counts,
        "",
        "## Where the rows come from",
        "",
        *_describe_source(facts, export),
        "",
        "## What was left out",
        "",
        *_describe_left_out(facts, export),
        "",
        "## Known limits",
        "",
        *(f"- {line}" for line in _limits(facts, export)),
        "",
    ]
    return "\n".join(sections)


def _describe_source(facts: ExportFacts, export: Export) -> list[str]:
    job = facts.job
    lines = [
        f"- output: `{facts.output}`, of a job `{job.get('job', 'unknown')}` with the fingerprint `{facts.origin.job}`",
        f"- fingerprints: scorer `{facts.origin.scorer}`, policy (what generated or corrected) `{facts.origin.policy}`",
    ]
    rewards = job.get("rewards") or {}
    for name, settings in rewards.items():
        known = [f"{key} {settings[key]}" for key in _SHOWN if isinstance(settings, Mapping) and settings.get(key)]
        lines.append(f"- reward `{name}`: {', '.join(known) or 'see the job file'}")
    for key in ("combine", "select"):
        settings = {name: value for name, value in (job.get(key) or {}).items() if value is not None}
        if settings:
            lines.append(f"- {key}: `{', '.join(f'{name}: {value}' for name, value in settings.items())}`")
    if export.reads_candidates:
        lines.append(f"- the score that decided: `{facts.by or 'none'}`")
    if export.is_paired:
        rule = facts.rule
        parts = [rule.pairs, f"min_margin {rule.min_margin:g}"]
        if rule.same_length_band is not None:
            parts.append(f"same_length_band {rule.same_length_band:g}")
        if rule.pairs in MANY:
            parts.append(f"at most {rule.max_pairs} pairs a prompt")
        if rule.pairs == "threshold":
            parts.append(f"above {rule.above:g}, below {rule.below:g}")
        if rule.pairs == "random":
            parts.append(f"seed {rule.seed}")
        lines.append(f"- pairs: {', '.join(parts)}")
    if facts.format.startswith("kto"):
        lines.append(f"- good at or above {facts.rule.above:g}, bad at or below {facts.rule.below:g}")
    where = "`extra_info`" if facts.format == "verl" else "`lineage`"
    lines.append(f"- {where} of each row: the file and row of the output, the row's id, and fingerprints")
    return lines


def _describe_left_out(facts: ExportFacts, export: Export) -> list[str]:
    found = [
        (count, code, meaning)
        for counts, meanings in ((facts.prompts_left_out, export.reasons), (facts.candidates_left_out, REASONS))
        for code, meaning in meanings.items()
        if (count := counts.get(code))
    ]
    if not found:
        return ["Nothing."]
    return [
        "| count | reason | meaning |",
        "|---|---|---|",
        *(f"| {count:,} | {code} | {meaning} |" for count, code, meaning in found),
    ]


def _limits(facts: ExportFacts, export: Export) -> list[str]:
    lines = ["Scores are those of the rewards above; nobody has looked at the rows."]
    if export.reads_candidates:
        lines.append("A candidate that is the reference word for word is left out, where that has three words or more.")
    if export.is_paired:
        lines.append("Pairs of one prompt are not independent, and prompts where all candidates score alike have none.")
    if (facts.job.get("output") or {}).get("rejected") == "drop":
        lines.append("The job did not write the rows that it rejected, so of flat rows only kept candidates were seen.")
    lines.append("Nothing was deduplicated, and no licence is stated: those of the prompts and of the models hold.")
    return lines


def _size_category(rows: int) -> str:
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")
    return names[sum(rows >= size for size in _SIZES)]
