"""PKU-SafeRLHF (CC-BY-NC-4.0): two answers to a prompt, which one is better, which one is safer, and how harmful.

Source: hf://datasets/PKU-Alignment/PKU-SafeRLHF (arXiv 2406.15513).
"""

from typing import Any

import pyarrow as pa

from rmbatch.adapters.base import reads
from rmbatch.adapters.columns import NUMBERS, TRUTHS, number_of, read_numbers, read_text, read_values
from rmbatch.adapters.pairs import compare_table
from rmbatch.rows.messages import prompt_messages

_COLUMNS = ("prompt", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe")
_LEVELS = ("response_0_severity_level", "response_1_severity_level")


@reads(*_COLUMNS, "better_response_id", optional=_LEVELS)
def pku_safe_rlhf(table: pa.Table) -> pa.Table:
    """PKU-SafeRLHF by helpfulness: ``preference`` -1 or 1; ``is_safe`` and ``severity`` (0 to 3) of both responses."""
    return _compare(table, "better_response_id")


@reads(*_COLUMNS, "safer_response_id", optional=_LEVELS)
def pku_safe_rlhf_safer(table: pa.Table) -> pa.Table:
    """PKU-SafeRLHF by safety: the same columns, and ``preference`` by which response is safer."""
    return _compare(table, "safer_response_id")


def _compare(table: pa.Table, by: str) -> pa.Table:
    sides = {0.0: -1, 1.0: 1}
    preference = [None if each is None else sides.get(each) for each in read_numbers(table, by).to_pylist()]
    prompts = prompt_messages(read_text(table, "prompt"))
    adapted = compare_table(prompts, read_text(table, "response_0"), read_text(table, "response_1"), preference)
    adapted = adapted.set_column(
        adapted.column_names.index("margin"), "margin", pa.nulls(table.num_rows, pa.float64())
    )  # which is better is known, not by how much
    safe = [read_values(table, f"is_response_{side}_safe") for side in (0, 1)]
    level = [read_values(table, name) for name in _LEVELS]
    adapted = adapted.append_column("is_safe", pa.array([list(map(_truth_of, both)) for both in zip(*safe)], TRUTHS))
    levels = [[number_of(each) for each in both] for both in zip(*level)]
    return adapted.append_column("severity", pa.array(levels, NUMBERS))


def _truth_of(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None
