"""Single answers with a verdict, for KTO: good at or above one threshold, bad at or below another.

Sources: TRL, dataset formats, "unpaired preference", conversational: prompt, completion, label; LLaMA-Factory,
data/README.md, KTO in ShareGPT form: kto_tag; ms-swift, docs "Custom dataset", KTO: messages and label.
"""

from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rmbatch.exports.base import Block, Exported, ExportRule, check_thresholds, count_reasons
from rmbatch.exports.conversations import alternates, answer_messages, append_answers, one_each
from rmbatch.exports.llama_factory import describe_dataset, to_sharegpt
from rmbatch.exports.single import SingleExport


class Labels(SingleExport):
    """prompt, completion: list<struct<role, content>>; label: bool."""

    about: ClassVar[str] = "single answers with a label, for TRL's KTOTrainer"
    reasons: ClassVar[Mapping[str, str]] = {
        "between": "no usable candidate of the prompt reaches a threshold",
    }

    reads: ClassVar[frozenset[str]] = frozenset({"above", "below"})

    def check(self, rule: ExportRule) -> None:
        super().check(rule)
        check_thresholds("kto", rule)

    def rows(self, block: Block, rule: ExportRule) -> Exported:
        pool = block.pool
        places, label, left_out = self._judge(block, rule)
        return Exported(
            pa.table(
                {
                    "prompt": pool.prompt.take(pa.array(pool.owner[places])),
                    "completion": one_each(answer_messages(pool.response.take(pa.array(places)))),
                    "label": label,
                    "lineage": block.lineage(places),
                }
            ),
            left_out,
        )

    def _judge(self, block: Block, rule: ExportRule) -> tuple[NDArray[np.int64], pa.Array, Counter[str]]:
        """The candidates that reach a threshold, whether they are good, and the prompts that have none."""
        pool = block.pool
        assert rule.above is not None  # ``check`` has said so
        assert rule.below is not None
        good = pool.usable & pool.passed & (pool.score >= rule.above)
        bad = pool.usable & (pool.score <= rule.below)
        places = np.flatnonzero(good | bad)
        found = np.zeros(pool.num_prompts, bool)
        found[pool.owner[places]] = True
        return places, pa.array(good[places]), count_reasons({"between": ~found})


class MsSwiftLabels(Labels):
    """messages: list<struct<role, content>>, the last of them the assistant's; label: bool."""

    about = "conversations with a label, for ms-swift's KTO"

    def rows(self, block: Block, rule: ExportRule) -> Exported:
        pool = block.pool
        places, label, left_out = self._judge(block, rule)
        prompts, answers = pool.prompt.take(pa.array(pool.owner[places])), pool.response.take(pa.array(places))
        columns = {"messages": append_answers(prompts, answers), "label": label, "lineage": block.lineage(places)}
        return Exported(pa.table(columns), left_out)


class LlamaFactoryLabels(Labels):
    """conversations: list<struct<from, value>>, the last of them gpt's; kto_tag: bool."""

    about = "ShareGPT conversations with kto_tag and dataset_info.json, for LLaMA-Factory's KTO"
    reasons: ClassVar[Mapping[str, str]] = {
        **Labels.reasons,
        "not_alternating": "an answer whose prompt is not user, assistant, …, user: LLaMA-Factory would drop it",
    }

    def rows(self, block: Block, rule: ExportRule) -> Exported:
        pool = block.pool
        places, label, left_out = self._judge(block, rule)
        fits = alternates(pool.prompt)[pool.owner[places]]
        if not fits.all():
            left_out["not_alternating"] += int(np.count_nonzero(~fits))
        label, places = label.filter(pa.array(fits)), places[fits]
        prompts, answers = pool.prompt.take(pa.array(pool.owner[places])), pool.response.take(pa.array(places))
        conversations = to_sharegpt(append_answers(prompts, answers))
        columns = {"conversations": conversations, "kto_tag": label, "lineage": block.lineage(places)}
        return Exported(pa.table(columns), left_out)

    def files_beside(self, name: str, file_format: str) -> dict[str, bytes]:
        return describe_dataset(name, {"messages": "conversations", "kto_tag": "kto_tag"})
