"""Reads the forms in which data sets write a conversation or an answer, as text or as a list of messages.

It reads plain text, steps (list<string>), one message, lists of messages ({role, content}, or ShareGPT's {from, value})
and any of these as JSON text. It knows neither rows, candidates nor rewards; ``roles.py`` does.
All text is large_string and all lists are large_list, because a batch of long answers exceeds 2 GiB.

    response_text(pa.array([["step 1", "step 2"]]))          # ["step 1\\nstep 2"]
    prompt_messages(pa.array(["hello"]))                     # [[{"role": "user", "content": "hello"}]]
"""

import json
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.errors import UserError

TEXT = pa.large_string()
MESSAGE = pa.struct([("role", TEXT), ("content", TEXT)])
MESSAGES = pa.large_list(MESSAGE)

_ROLE_KEYS, _CONTENT_KEYS = ("role", "from"), ("content", "value", "text")
_NEWLINE = pa.scalar("\n", TEXT)
_SHAREGPT = {"human": "user", "gpt": "assistant"}
_ASSISTANT = ("assistant", "gpt")


def response_text(array: pa.Array) -> pa.Array:
    """The text of each response: steps, or the assistant's messages, joined by newlines.

    Null stays null, and so does a conversation in which no assistant speaks or a list of steps that holds a null.
    """
    kind = array.type
    if is_text(kind) or pa.types.is_null(kind):
        return pc.cast(array, TEXT)
    if is_list(kind) and is_text(kind.value_type):
        return pc.binary_join(array, _NEWLINE)
    if is_list(kind) and _is_message(kind.value_type):
        return _assistant_text(array)
    if _is_message(kind):
        return pc.cast(_field(array, _CONTENT_KEYS), TEXT)
    if is_list(kind) or pa.types.is_struct(kind):
        return pa.array([text_of(value) for value in array.to_pylist()], TEXT)
    raise UserError(f"response: a column of type {kind} is no text; steps, messages or text are read")


def prompt_messages(array: pa.Array) -> pa.Array:
    """Each prompt as list<struct<role, content>>; plain text is one message of the user. Null stays null."""
    kind = array.type
    if is_list(kind) and _is_message(kind.value_type):
        return _build_lists(offsets_of(array), _normalise_messages(array.flatten()), pc.is_null(array))
    if is_text(kind) or _is_message(kind) or pa.types.is_null(kind):
        there = array.drop_null()
        return _wrap_each(
            array, _normalise_messages(there) if _is_message(kind) else _build_messages("user", pc.cast(there, TEXT))
        )
    if is_list(kind) or pa.types.is_struct(kind):
        return pa.array([messages_of(value) for value in array.to_pylist()], MESSAGES)
    raise UserError(f"prompt: a column of type {kind} is no conversation; text or a list of messages is read")


def completion_messages(texts: pa.Array) -> pa.Array:
    """Each response as list<struct<role, content>>: one message of the assistant. Null stays null."""
    return _wrap_each(texts, _build_messages("assistant", texts.drop_null()))


def is_conversation(kind: pa.DataType) -> bool:
    """Whether values of this type are messages, not text."""
    return _is_message(kind.value_type if is_list(kind) else kind)


def reference_text(array: pa.Array) -> pa.Array:
    """Each reference as text: text unchanged, numbers, booleans and dates as Arrow writes them. Null stays null.

    NaN is null: it is how pandas says that there is no number.
    """
    kind = array.type
    if is_list(kind) or pa.types.is_struct(kind) or pa.types.is_map(kind):
        cure = "name a column with one reference per row, or one row per response"
        raise UserError(f"reference: a column of type {kind} cannot be compared with as text; {cure}")
    if pa.types.is_floating(kind):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, kind), array)
    return pc.cast(array, TEXT)


def decode_json(array: pa.Array, column: str) -> list[Any]:
    """The values of a column of JSON text. Raises UserError for text that is no JSON."""
    try:
        return [None if text is None else msgspec.json.decode(text) for text in array.to_pylist()]
    except msgspec.DecodeError as fault:
        raise UserError(f"column {column!r} is marked as JSON, but holds text that is none: {fault}") from None


def text_of(value: Any) -> str | None:
    """``response_text`` of one Python value."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict):
        return text_of(_first(value, _CONTENT_KEYS))
    if not isinstance(value, list):
        return value_text(value)
    if any(isinstance(item, dict) and _first(item, _ROLE_KEYS) for item in value):
        said = [text_of(item) for item in value if isinstance(item, dict) and _first(item, _ROLE_KEYS) in _ASSISTANT]
        parts = [text for text in said if text is not None]
        return "\n".join(parts) if parts else None
    steps = [text_of(item) for item in value]
    return None if None in steps else "\n".join(step for step in steps if step is not None)


def messages_of(value: Any) -> list[dict[str, str | None]] | None:
    """``prompt_messages`` of one Python value."""
    if value is None:
        return None
    if not isinstance(value, list):
        value = [value]
    return [_read_message(item) for item in value]


def value_text(value: Any) -> str | None:
    """A JSON value as text: text unchanged, a number or boolean as ``reference_text`` writes it, the rest as JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | float):
        text: str = pc.cast(pa.scalar(value), TEXT).as_py()
        return text
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def combine_chunks(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column as one array, its text as large_string and its lists as large_list at every depth."""
    wide = _wide_type(column.type)
    if wide != column.type:
        column = pc.cast(column, wide)
    if not isinstance(column, pa.ChunkedArray):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], wide)


def offsets_of(lists: pa.Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where each list begins and ends in ``lists.flatten()``, int64, rows + 1; a null list is empty."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def fit_lists(lists: pa.Array, offsets: np.ndarray[Any, np.dtype[np.int64]]) -> pa.Array:
    """The values of lists that have one for each candidate; row i has the candidates offsets[i]:offsets[i + 1].

    A null list says nothing of its row's candidates, so each has null. A row without candidates takes no values. Raises
    MisfitError for a list of any other length.
    """
    begin = offsets_of(lists)
    lengths, wanted = np.diff(begin), np.diff(offsets)
    if np.array_equal(lengths, wanted):
        return lists.flatten()
    is_null = lists.is_null().to_numpy(zero_copy_only=False)
    misfits = np.flatnonzero((lengths != wanted) & ~is_null & (wanted > 0))
    if len(misfits):
        raise MisfitError(int(misfits[0]))
    row = np.repeat(np.arange(len(lists)), wanted)
    places = begin[:-1][row] + np.arange(len(row)) - offsets[:-1][row]
    return lists.flatten().take(pa.array(places, mask=is_null[row]))


class MisfitError(ValueError):
    """A list is not as long as the list of candidates."""

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


def is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def _wide_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _wide_type(kind.value_type)
    if is_text(kind):
        return TEXT
    if is_list(kind):
        return pa.large_list(_wide_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_wide_type(field.type)) for field in kind])
    return kind


def _is_message(kind: pa.DataType) -> bool:
    """Whether it is a struct whose content is text, which can be read without a Python object per row."""
    if not pa.types.is_struct(kind):
        return False
    content = next((kind.field(key).type for key in _CONTENT_KEYS if kind.get_field_index(key) >= 0), None)
    return content is not None and (is_text(content) or pa.types.is_null(content))


def _field(messages: pa.Array, keys: tuple[str, ...]) -> pa.Array:
    key = next((key for key in keys if messages.type.get_field_index(key) >= 0), None)
    return pa.nulls(len(messages), TEXT) if key is None else pc.cast(pc.struct_field(messages, key), TEXT)


def _assistant_text(conversations: pa.Array) -> pa.Array:
    messages = conversations.flatten()
    content = _field(messages, _CONTENT_KEYS)
    spoken = pc.is_in(_field(messages, _ROLE_KEYS), value_set=pa.array(_ASSISTANT, TEXT))
    said = pc.and_(spoken, pc.is_valid(content))
    num_said = np.concatenate([[0], np.cumsum(said.to_numpy(zero_copy_only=False), dtype=np.int64)])
    offsets = num_said[offsets_of(conversations)]
    texts = pc.binary_join(pa.LargeListArray.from_arrays(pa.array(offsets), content.filter(said)), _NEWLINE)
    return pc.if_else(pa.array(np.diff(offsets) == 0), pa.scalar(None, TEXT), texts)


def _normalise_messages(messages: pa.Array) -> pa.Array:
    role = pc.fill_null(_field(messages, _ROLE_KEYS), "user")
    for theirs, ours in _SHAREGPT.items():
        role = pc.if_else(pc.equal(role, theirs), pa.scalar(ours, TEXT), role)
    return pa.StructArray.from_arrays([role, _field(messages, _CONTENT_KEYS)], fields=list(MESSAGE))


def _build_messages(who: str, content: pa.Array) -> pa.Array:
    role = pa.repeat(pa.scalar(who, TEXT), len(content))
    return pa.StructArray.from_arrays([role, content], fields=list(MESSAGE))


def _wrap_each(array: pa.Array, values: pa.Array) -> pa.Array:
    """A list of one for each value that is not null in the array."""
    ends = np.cumsum(pc.is_valid(array).to_numpy(zero_copy_only=False), dtype=np.int64)
    return _build_lists(np.concatenate([[0], ends]), values, pc.is_null(array))


def _build_lists(offsets: np.ndarray[Any, np.dtype[np.int64]], values: pa.Array, null: pa.Array) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values, mask=null)


def _read_message(item: Any) -> dict[str, str | None]:
    if not isinstance(item, dict):
        return {"role": "user", "content": text_of(item)}
    role = value_text(_first(item, _ROLE_KEYS) or "user") or "user"
    return {"role": _SHAREGPT.get(role, role), "content": text_of(_first(item, _CONTENT_KEYS))}


def _first(item: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((item[key] for key in keys if key in item), None)
