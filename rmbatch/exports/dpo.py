"""Pairs as TRL and OpenRLHF read them: the prompt, the chosen and the rejected answer, each a list of messages.

Sources: TRL, dataset formats, "preference" with an explicit prompt (https://huggingface.co/docs/trl/dataset_formats);
OpenRLHF, openrlhf/datasets/reward_dataset.py, which joins the lists of ``prompt_key`` and ``chosen_key``.
"""

from typing import ClassVar

import pyarrow as pa

from rmbatch.exports.base import Block, Exported, ExportRule, PairExport
from rmbatch.exports.conversations import answer_messages, one_each


class TrlPairs(PairExport):
    """prompt, chosen, rejected: list<struct<role, content>>."""

    about = "preference pairs with an explicit prompt, for TRL's DPOTrainer"
    has_margin: ClassVar[bool] = False

    def rows(self, block: Block, rule: ExportRule) -> Exported:
        pool = block.pool
        pairs, left_out = self.find_pairs(block, rule)
        chosen, rejected = pa.array(pairs.chosen), pa.array(pairs.rejected)
        columns = {
            "prompt": pool.prompt.take(pa.array(pool.owner[pairs.chosen])),
            "chosen": one_each(answer_messages(pool.response.take(chosen))),
            "rejected": one_each(answer_messages(pool.response.take(rejected))),
        }
        if self.has_margin:
            columns["margin"] = pa.array(pool.score[pairs.chosen] - pool.score[pairs.rejected])
        columns["lineage"] = block.lineage(pairs.chosen, pairs.rejected)
        return Exported(pa.table(columns), left_out)


class RewardPairs(TrlPairs):
    """The same with ``margin``: double above 0, in the score's unit; TRL's RewardTrainer uses it where it stands."""

    about = "preference pairs with the margin of their scores, for TRL's RewardTrainer"
    has_margin = True


class OpenRlhfPairs(TrlPairs):
    """The same columns, for ``--data.prompt_key prompt --data.chosen_key chosen --data.rejected_key rejected``."""

    about = "preference pairs with margin, for OpenRLHF's train_dpo and train_rm with a chat template"
    has_margin = True
