"""Conversations to imitate: each prompt with a candidate that was kept, as ``messages``.

Source: TRL, dataset formats, "language modeling", conversational; LLaMA-Factory, ms-swift and OpenRLHF read it too.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pyarrow as pa

from rmbatch.exports.base import Block, Exported, ExportRule, count_reasons
from rmbatch.exports.conversations import append_answers
from rmbatch.exports.single import SingleExport


class Answers(SingleExport):
    """messages: list<struct<role, content>>, the last of them the assistant's."""

    about = "conversations to imitate, for supervised fine-tuning with TRL, LLaMA-Factory, ms-swift or OpenRLHF"
    reasons: ClassVar[Mapping[str, str]] = {
        "not_selected": "the job kept none of the prompt's candidates",
        "kept_not_usable": "what the job kept of the prompt may not be exported (see the candidates)",
    }

    def rows(self, block: Block, rule: ExportRule) -> Exported:
        pool = block.pool
        chosen = np.flatnonzero((pool.rank > 0) & pool.usable)
        chosen = chosen[np.lexsort((pool.rank[chosen], pool.owner[chosen]))]
        found = np.zeros(pool.num_prompts, bool)
        found[pool.owner[chosen]] = True
        columns = {
            "messages": append_answers(
                pool.prompt.take(pa.array(pool.owner[chosen])), pool.response.take(pa.array(chosen))
            ),
            "lineage": block.lineage(chosen),
        }
        left_out = count_reasons({"not_selected": ~pool.kept, "kept_not_usable": pool.kept & ~found})
        return Exported(pa.table(columns), left_out)
