"""Conversations as trainers want them: a prompt with its answer, and the types that all readers know.

append_answers(prompts, answers)       # [[{user}, {assistant}], ...]
to_plain(table)                        # string and list in place of large_string and large_list
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rmbatch.rows.messages import MESSAGE, TEXT, offsets_of

ASSISTANT = "assistant"


def answer_messages(answers: pa.Array) -> pa.Array:
    """Each answer as one message of the assistant: struct<role, content>[n]. No answer is null."""
    role = pa.repeat(pa.scalar(ASSISTANT, TEXT), len(answers))
    return pa.StructArray.from_arrays([role, pc.cast(answers, TEXT)], fields=list(MESSAGE))


def append_answers(prompts: pa.Array, answers: pa.Array) -> pa.Array:
    """Each prompt with its answer behind it, large_list<struct<role, content>>[n]. Neither is null."""
    offsets = offsets_of(prompts)
    said = prompts.flatten()
    ends = offsets[1:] + np.arange(1, len(offsets))
    places = np.empty(len(said) + len(answers), np.int64)
    is_answer = np.zeros(len(places), bool)
    is_answer[ends - 1] = True
    places[~is_answer] = np.arange(len(said))
    places[is_answer] = len(said) + np.arange(len(answers))
    values = pa.concat_arrays([said, answer_messages(answers)]).take(pa.array(places))
    return pa.LargeListArray.from_arrays(pa.array(np.concatenate([[0], ends])), values)


def one_each(values: pa.Array) -> pa.Array:
    """A list of one for each value."""
    return pa.LargeListArray.from_arrays(pa.array(np.arange(len(values) + 1)), values)


def alternates(prompts: pa.Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether each conversation is user, assistant, user, …, user, after at most one message of the system."""
    offsets = offsets_of(prompts)
    role = pc.struct_field(prompts.flatten(), "role")
    is_user, is_assistant, is_system = (
        np.asarray(pc.fill_null(pc.equal(role, who), False)) for who in ("user", ASSISTANT, "system")
    )
    lengths = np.diff(offsets)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(role)) - offsets[owner]
    begins_with_system = np.zeros(len(lengths), bool)
    filled = lengths > 0
    begins_with_system[filled] = is_system[offsets[:-1][filled]]
    turn = place - begins_with_system[owner]
    right = (turn < 0) | np.where(turn % 2 == 0, is_user, is_assistant)
    wrong = np.bincount(owner[~right], minlength=len(lengths)) if len(owner) else np.zeros(len(lengths), np.int64)
    found: np.ndarray[Any, np.dtype[np.bool_]] = (wrong == 0) & ((lengths - begins_with_system) % 2 == 1)
    return found


def to_plain(table: pa.Table) -> pa.Table:
    """The table with string and list in place of the large ones, at every depth: readers of all ages know these."""
    return table.cast(pa.schema([each.with_type(_plain_type(each.type)) for each in table.schema]))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain_type(field.type)) for field in kind])
    return kind
