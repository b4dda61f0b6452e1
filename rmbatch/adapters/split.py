"""Splits rows into a training and a validation part so that no prompt is in both.

The part of a row is a hash of its prompt: it depends on no other row, so neither the order of rows, nor how files are
cut, nor further rows move a prompt from one part to the other. The share is met on average, over prompts.

    mask = validation_mask(table, by="prompt", share=0.1, seed=7)       # true: the row is for validation
    train, validation = table.filter(pc.invert(mask)), table.filter(mask)
"""

import hashlib
from collections.abc import Mapping, Sequence

import pyarrow as pa

from connectors.errors import UserError
from rmbatch.adapters.columns import read_values
from rmbatch.rows.messages import TEXT, combine_chunks, is_conversation, is_list, is_text, value_text
from rmbatch.rows.roles import Roles, flatten
from rmbatch.settings.names import nearest

Message = Mapping[str, str | None]


def validation_mask(table: pa.Table, by: str = "prompt", share: float = 0.1, seed: int = 0) -> pa.BooleanArray:
    """Whether each row is for validation, bool without nulls; rows without a prompt are for training.

    ``by``: a column of conversations, text, or other plain values. Conversations with the same first message of the
    user are one prompt, because datasets hold the turns of one conversation as several rows. Case and repeated spaces
    make no other prompt. ``share``: of the prompts, from 0 to 1. Raises UserError for a missing column.
    """
    if by not in table.column_names:
        raise UserError(f"split: no column {by!r}; {nearest(by, table.column_names)}")
    limit = round(share * 2**64)
    keys = split_keys(table, by)
    for_validation = {key for key in set(keys) if key is not None and _hash(key, seed) < limit}
    return pa.array([key in for_validation for key in keys], pa.bool_())


def split_keys(table: pa.Table, by: str) -> list[str | None]:
    """What must be equal for two rows to be in the same part: the opening of the conversation, normalised."""
    kind = table.schema.field(by).type
    if is_text(kind) or is_conversation(kind) or is_list(kind) or pa.types.is_struct(kind) or pa.types.is_null(kind):
        prompts = flatten(table, Roles(prompt=by)).column("prompt").to_pylist()
        openings = [None if prompt is None else find_opening(prompt) for prompt in prompts]
    else:
        openings = [value_text(value) for value in read_values(table, by)]
    return [None if each is None else normalise_prompt(each) or None for each in openings]


def find_opening(messages: Sequence[Message]) -> str | None:
    """The first message of the user; of the first who speaks, where the user never does."""
    said = [message for message in messages if message["content"]]
    first = next((each for each in said if each["role"] == "user"), said[0] if said else None)
    return None if first is None else first["content"]


def normalise_prompt(prompt: str) -> str:
    """The prompt without case and repeated spaces, which make no other prompt."""
    return " ".join(prompt.casefold().split())


def hash_prompt(prompt: str, seed: int) -> bytes:
    """16 bytes that order prompts at random; the seed draws another order."""
    return hashlib.blake2b(f"{seed}\0{prompt}".encode(errors="replace"), digest_size=16).digest()


def prompt_ids(prompts: pa.Array) -> pa.Array:
    """A name for each conversation, 16 letters, large_string: equal for equal conversations. Null stays null."""
    return pa.array([_name(prompt) for prompt in combine_chunks(prompts).to_pylist()], TEXT)


def _name(prompt: list[Message] | None) -> str | None:
    if prompt is None:
        return None
    told = repr([(each["role"], each["content"]) for each in prompt])
    return hashlib.blake2b(told.encode(errors="replace"), digest_size=8).hexdigest()


def _hash(key: str, seed: int) -> int:
    return int.from_bytes(hash_prompt(key, seed)[:8], "big")
