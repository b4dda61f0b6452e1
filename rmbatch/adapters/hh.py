"""Anthropic's HH-RLHF (MIT): pairs of dialogues as text. Source: hf://datasets/Anthropic/hh-rlhf (arXiv 2204.05862)."""

import re

import pyarrow as pa

from rmbatch.adapters.base import reads
from rmbatch.adapters.columns import read_text
from rmbatch.adapters.pairs import Messages, Pair, pair_table, split_pair

_TURN = re.compile(r"\n\n(Human|Assistant): ?")
_ROLES = {"Human": "user", "Assistant": "assistant"}


@reads("chosen", "rejected")
def hh(table: pa.Table) -> pa.Table:
    r"""HH-RLHF: ``"\n\nHuman: …\n\nAssistant: …"`` becomes messages; the prompt is what both dialogues share.

    A dialogue that begins with something else than a turn of Human has no prompt and no pair; dialogues that differ
    before their last turn have no pair. White space at the end of a turn is dropped; ``margin`` is unknown.
    """
    both = zip(read_text(table, "chosen").to_pylist(), read_text(table, "rejected").to_pylist())
    return pair_table([_read_pair(*texts) for texts in both], pa.nulls(table.num_rows, pa.float64()))


def _read_pair(chosen: str | None, rejected: str | None) -> Pair:
    better, worse = parse_dialogue(chosen), parse_dialogue(rejected)
    return Pair(None, None, None) if better is None or worse is None else split_pair(better, worse)


def parse_dialogue(text: str | None) -> Messages | None:
    """The messages of a dialogue; None where it is none."""
    if text is None:
        return None
    before, *turns = _TURN.split(text if text.startswith("\n\n") else f"\n\n{text}")
    if before.strip() or not turns or turns[0] != "Human":
        return None
    return [{"role": _ROLES[who], "content": said.rstrip()} for who, said in zip(turns[::2], turns[1::2])]
