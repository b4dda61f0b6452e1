"""Pairs as LLaMA-Factory reads them: ShareGPT conversations, and ``dataset_info.json`` that tells where they are.

Source: LLaMA-Factory, data/README.md and src/llamafactory/data/converter.py. It empties conversations whose turns do
not alternate, with no more than a warning; these are left out here and counted.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from rmbatch.exports.base import Block, Exported, ExportRule, PairExport
from rmbatch.exports.conversations import alternates
from rmbatch.rows.messages import TEXT, offsets_of

_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
}
_NAMES = {"user": "human", "assistant": "gpt"}


class LlamaFactoryPairs(PairExport):
    """conversations: list<struct<from, value>>; chosen, rejected: struct<from, value>."""

    about = "preference pairs in ShareGPT form with dataset_info.json, for LLaMA-Factory"
    reasons: ClassVar[Mapping[str, str]] = {
        **PairExport.reasons,
        "not_alternating": "a pair whose prompt is not user, assistant, …, user: LLaMA-Factory would drop it",
    }

    def rows(self, block: Block, rule: ExportRule) -> Exported:
        pool = block.pool
        pairs, left_out = self.find_pairs(block, rule)
        fits = alternates(pool.prompt)[pool.owner[pairs.chosen]]
        if not fits.all():
            left_out["not_alternating"] += int(np.count_nonzero(~fits))
        chosen, rejected = pairs.chosen[fits], pairs.rejected[fits]
        columns = {
            "conversations": to_sharegpt(pool.prompt.take(pa.array(pool.owner[chosen]))),
            "chosen": _messages("gpt", pool.response.take(pa.array(chosen))),
            "rejected": _messages("gpt", pool.response.take(pa.array(rejected))),
            "lineage": block.lineage(chosen, rejected),
        }
        return Exported(pa.table(columns), left_out)

    def files_beside(self, name: str, file_format: str) -> dict[str, bytes]:
        columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
        return describe_dataset(name, columns, ranking=True)


def describe_dataset(name: str, columns: Mapping[str, str], **more: bool) -> dict[str, bytes]:
    """``dataset_info.json`` of a folder whose rows have ShareGPT conversations in these columns."""
    entry = {"file_name": "data", "formatting": "sharegpt", **more, "columns": columns, "tags": _TAGS}
    return {"dataset_info.json": orjson.dumps({name: entry}, option=orjson.OPT_INDENT_2)}


def to_sharegpt(prompts: pa.Array) -> pa.Array:
    """Conversations in ShareGPT form: list<struct<from, value>>[n]."""
    said = prompts.flatten()
    role = pc.struct_field(said, "role")
    for ours, theirs in _NAMES.items():
        role = pc.if_else(pc.equal(role, ours), pa.scalar(theirs, TEXT), role)
    turns = pa.StructArray.from_arrays([role, pc.struct_field(said, "content")], ["from", "value"])
    return pa.LargeListArray.from_arrays(pa.array(offsets_of(prompts)), turns)


def _messages(who: str, texts: pa.Array) -> pa.Array:
    return pa.StructArray.from_arrays([pa.repeat(pa.scalar(who, TEXT), len(texts)), texts], ["from", "value"])
