"""Prompts with their references, for reinforcement learning with verl: no response is exported.

Source: verl, docs "Prepare data for post-training": data_source, prompt, ability, reward_model, extra_info.
"""

from collections.abc import Collection, Mapping
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.errors import UserError
from rmbatch.exports.base import Block, Exported, ExportRule, as_struct, count_reasons
from rmbatch.exports.single import SingleExport
from rmbatch.rows.messages import TEXT
from rmbatch.rows.roles import Roles


class Prompts(SingleExport):
    """data_source: text; prompt: list<struct<role, content>>; ability: text; reward_model: struct<style,
    ground_truth>; extra_info: struct<split, index, source, id, job>. ``index`` counts the rows of the export."""

    about = "prompts with their ground truth, for reinforcement learning with verl"
    reads_candidates = False
    reads = frozenset({"data_source"})
    reasons: ClassVar[Mapping[str, str]] = {
        "no_reference": "the prompt has no reference, so no rule can score an answer",
        "no_prompt": "the prompt, or one of its messages, is missing",
    }

    def check_columns(self, roles: Roles, names: Collection[str]) -> None:
        if roles.reference is None:
            raise UserError(
                "verl needs a ground truth, and no column plays the role 'reference': input.columns.reference"
            )

    def rows(self, block: Block, rule: ExportRule) -> Exported:
        pool = block.pool
        assert pool.reference is not None  # ``check_columns`` has said so
        has_reference = np.asarray(pc.is_valid(pool.reference))
        readable = pool.readable
        prompts = np.flatnonzero(has_reference & readable)
        taken = pa.array(prompts)
        count = len(prompts)

        def same(text: str) -> pa.Array:
            return pa.repeat(pa.scalar(text, TEXT), count)

        origin = block.origin(pool.prompt_row[prompts])
        index = pa.array(block.start + np.arange(count))
        columns = {
            "data_source": same(rule.data_source),
            "prompt": pool.prompt.take(taken),
            "ability": same("unknown"),
            "reward_model": as_struct({"style": same("rule"), "ground_truth": pool.reference.take(taken)}),
            "extra_info": as_struct({"split": same("train"), "index": index, **origin}),
        }
        left_out = count_reasons({"no_prompt": ~readable, "no_reference": readable & ~has_reference})
        return Exported(pa.table(columns), left_out)
