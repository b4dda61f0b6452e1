"""Pairs of a better and a worse response, in the shapes that most preference datasets have.

Sources: TRL, "Dataset formats and types" (explicit and implicit prompts); hf://datasets/HuggingFaceH4/
ultrafeedback_binarized (MIT), hf://datasets/Skywork/Skywork-Reward-Preference-80K-v0.2 (arXiv 2410.18451),
hf://datasets/allenai/llama-3.1-tulu-3-8b-preference-mixture (ODC-BY).
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from rmbatch.adapters.base import reads
from rmbatch.adapters.columns import TEXTS, read_numbers, read_plain, read_values
from rmbatch.adapters.split import prompt_ids
from rmbatch.rows.messages import MESSAGES, TEXT, messages_of, text_of

Messages = list[dict[str, str | None]]

_SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"))


class Pair(NamedTuple):
    """A prompt, its better and its worse response; None: unknown."""

    prompt: Messages | None
    chosen: str | None
    rejected: str | None


@reads(
    "chosen",
    "rejected",
    optional=("prompt", "margin", *(name for both in _SCORES for name in both)),
)
def pairs(table: pa.Table) -> pa.Table:
    """Chosen and rejected, each as text, as the last message, or as the whole conversation.

    Where the conversations hold the prompt, it is the beginning that both share, and ``prompt`` is not read. Else it is
    ``prompt``, text or messages; without one, texts are cut where they begin to differ. A row whose conversations
    differ in more than the last message of the assistant has no pair. ``margin`` is the column, or the difference of
    ``score_chosen`` and ``score_rejected``.
    """
    prompts = read_values(table, "prompt") if "prompt" in table.column_names else None
    chosen, rejected = read_values(table, "chosen"), read_values(table, "rejected")
    found = [
        read_pair(None if prompts is None else prompts[row], *both, is_explicit=prompts is not None)
        for row, both in enumerate(zip(chosen, rejected))
    ]
    return pair_table(found, read_margin(table))


@reads("prompt", "chosen", "rejected", "score_chosen", "score_rejected", optional=("prompt_id", "messages"))
def ultrafeedback_binarized(table: pa.Table) -> pa.Table:
    """HuggingFaceH4/ultrafeedback_binarized: ``margin`` is the difference of both scores, 1 to 10; 0 for a tie.

    The two scores stay; ``id`` is the dataset's prompt_id, which many rows may share.
    """
    adapted = pairs(table).append_column("id", read_plain(table, "prompt_id"))
    for name in ("score_chosen", "score_rejected"):
        adapted = adapted.append_column(name, read_numbers(table, name))
    return adapted


@reads("chosen", "rejected", "source")
def skywork_preference(table: pa.Table) -> pa.Table:
    """Skywork-Reward-Preference: whole conversations; ``subset`` is the source of the pair."""
    return pairs(table.select(["chosen", "rejected"])).append_column("subset", read_plain(table, "source"))


@reads("id", "prompt", "chosen", "rejected", "source")
def tulu3_preference(table: pa.Table) -> pa.Table:
    """Tulu 3's preference mixtures: ``subset`` is the source; system messages and earlier turns are in the prompt."""
    adapted = pairs(table.select(["prompt", "chosen", "rejected"]))
    return adapted.append_column("id", read_plain(table, "id")).append_column("subset", read_plain(table, "source"))


def read_pair(prompt: Any, chosen: Any, rejected: Any, *, is_explicit: bool) -> Pair:
    """The pair of a row. ``is_explicit``: the dataset has a column of prompts."""
    told = None if prompt is None else messages_of(prompt)
    sides = [[side] if isinstance(side, dict) else side for side in (chosen, rejected)]
    if any(isinstance(side, list) for side in sides) and not any(isinstance(side, str) for side in sides):
        better, worse = (messages_of(side) or None if isinstance(side, list) else None for side in sides)
        if better is not None and worse is not None and max(len(better), len(worse)) > 1:
            return split_pair(better, worse)
        whole = better or worse or []
        return Pair(whole[:-1] or told, _read_answer(better), _read_answer(worse))
    if is_explicit or not isinstance(chosen, str) or not isinstance(rejected, str):
        return Pair(told, text_of(chosen), text_of(rejected))
    return _cut_texts(chosen, rejected)


def split_pair(chosen: Messages, rejected: Messages) -> Pair:
    """The shared beginning of two conversations, and the last message of each where it is all that differs."""
    most = min(len(chosen), len(rejected)) - 1
    shared = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(chosen[:most], rejected[:most])))
    ends = chosen[shared:], rejected[shared:]
    if any(len(end) != 1 or end[0]["role"] != "assistant" for end in ends) or not shared:
        return Pair(chosen[:shared] or None, None, None)
    return Pair(chosen[:shared], ends[0][0]["content"], ends[1][0]["content"])


def pair_table(found: Sequence[Pair], margin: pa.Array) -> pa.Table:
    """The standard columns of pairs."""
    prompts = pa.array([pair.prompt for pair in found], MESSAGES)
    return pa.table(
        {
            "prompt": prompts,
            "prompt_id": prompt_ids(prompts),
            "chosen": pa.array([pair.chosen for pair in found], TEXT),
            "rejected": pa.array([pair.rejected for pair in found], TEXT),
            "margin": margin,
        }
    )


def compare_table(prompts: pa.Array, first: pa.Array, second: pa.Array, preference: Sequence[int | None]) -> pa.Table:
    """The standard columns of two responses and a preference between them: negative: the first is better.

    ``margin`` is how strong the preference is. A tie and an unknown preference have no chosen and no rejected.
    """
    both = list(zip(first.to_pylist(), second.to_pylist()))
    sides = [None if not side else (pair if side < 0 else pair[::-1]) for side, pair in zip(preference, both)]
    return pa.table(
        {
            "prompt": prompts,
            "prompt_id": prompt_ids(prompts),
            "responses": pa.array([list(pair) for pair in both], TEXTS),
            "preference": pa.array(preference, pa.int8()),
            "chosen": pa.array([side and side[0] for side in sides], TEXT),
            "rejected": pa.array([side and side[1] for side in sides], TEXT),
            "margin": pa.array([None if side is None else float(abs(side)) for side in preference], pa.float64()),
        }
    )


def whole_number(value: float | None, limit: int) -> int | None:
    """A whole number from -limit to limit; None for everything else."""
    return None if value is None or value != int(value) or abs(value) > limit else int(value)


def read_margin(table: pa.Table) -> pa.Array:
    """The margin of each pair, double: a column of it, or the difference of two scores; null where neither is there."""
    if "margin" in table.column_names:
        return read_numbers(table, "margin")
    for better, worse in _SCORES:
        if better in table.column_names and worse in table.column_names:
            return pc.subtract(read_numbers(table, better), read_numbers(table, worse))
    return pa.nulls(table.num_rows, pa.float64())


def _read_answer(messages: Messages | None) -> str | None:
    """What the assistant says at the end of a conversation."""
    return messages[-1]["content"] if messages and messages[-1]["role"] == "assistant" else None


def _cut_texts(chosen: str, rejected: str) -> Pair:
    """The prompt is what both texts begin with, up to a space before the first difference, as TRL cuts it."""
    most = min(len(chosen), len(rejected))
    cut = next((place for place in range(most) if chosen[place] != rejected[place]), most)
    if cut and chosen[cut - 1] == " ":
        cut -= 1
    prompt = chosen[:cut]
    return Pair(messages_of(prompt) if prompt else None, chosen[cut:], rejected[cut:])
