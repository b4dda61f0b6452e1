"""HelpSteer2 and HelpSteer3 (NVIDIA, CC-BY-4.0): ratings by people, and preferences between two responses.

Sources: hf://datasets/nvidia/HelpSteer2 (arXiv 2406.08673, 2410.01257), hf://datasets/nvidia/HelpSteer3 (2505.11475).
"""

import re

import pyarrow as pa

from rmbatch.adapters.base import reads
from rmbatch.adapters.columns import read_conversations, read_numbers, read_plain, read_text
from rmbatch.adapters.pairs import compare_table, whole_number
from rmbatch.adapters.split import prompt_ids
from rmbatch.rows.messages import MESSAGES

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
STRONGEST = 3
"""A preference is a whole number from -3 (the first response is much better) to 3."""

_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")
"""How a prompt of several turns marks each turn after the first."""


@reads("prompt", "response", *ATTRIBUTES)
def helpsteer2(table: pa.Table) -> pa.Table:
    """HelpSteer2's ratings, one response a row: ``label`` is helpfulness, 0 to 4; all five ratings stay, as double."""
    ratings = {name: read_numbers(table, name) for name in ATTRIBUTES}
    prompts = _read_prompts(table)
    return pa.table(
        {
            "prompt": prompts,
            "prompt_id": prompt_ids(prompts),
            "response": read_text(table, "response"),
            "label": ratings["helpfulness"],
            **ratings,
        }
    )


@reads("prompt", "response_1", "response_2", "preference_strength", optional=("split",))
def helpsteer2_pairs(table: pa.Table) -> pa.Table:
    """HelpSteer2-Preference: ``preference`` -3 to 3; ``subset`` is the dataset's own split, train or val.

    A preference of 0 is a tie: it has no chosen and no rejected. Judges and training show both orders themselves.
    """
    strengths = [whole_number(each, STRONGEST) for each in read_numbers(table, "preference_strength").to_pylist()]
    first, second = read_text(table, "response_1"), read_text(table, "response_2")
    adapted = compare_table(_read_prompts(table), first, second, strengths)
    return adapted.append_column("subset", read_plain(table, "split"))


@reads("context", "response1", "response2", "overall_preference", optional=("domain", "language"))
def helpsteer3(table: pa.Table) -> pa.Table:
    """HelpSteer3-Preference: ``preference`` -3 to 3; ``subset`` is the domain (general, stem, code, multilingual)."""
    strengths = [whole_number(each, STRONGEST) for each in read_numbers(table, "overall_preference").to_pylist()]
    prompts = read_conversations(table, "context")
    first, second = read_text(table, "response1"), read_text(table, "response2")
    adapted = compare_table(prompts, first, second, strengths)
    adapted = adapted.append_column("subset", read_plain(table, "domain"))
    return adapted.append_column("language", read_plain(table, "language"))


def _read_prompts(table: pa.Table) -> pa.Array:
    return pa.array([split_turns(text) for text in read_text(table, "prompt").to_pylist()], MESSAGES)


def split_turns(text: str | None) -> list[dict[str, str]] | None:
    """The turns of a prompt; the first is the user's."""
    if text is None:
        return None
    first, *rest = _TURN.split(text)
    turns = [("user", first), *((who.lower(), said) for who, said in zip(rest[::2], rest[1::2]))]
    return [{"role": who, "content": said} for who, said in turns]
