"""Reads preferences from the rows of a table: a prompt, the answer that was preferred, and the others.

Rows that cannot be used are counted by their reason.

    found = read_preferences(table, roles, PreferenceColumns(chosen="chosen", rejected="rejected"), ids)
    found.preferences, found.unusable                    # [Preference(…), …], {"chosen_missing": 2}
    train, held_out = split_by_prompt(found.preferences, held_out=0.3, seed=0)
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Self

import pyarrow as pa
from pydantic import Field, model_validator

from connectors.errors import UserError
from rmbatch.adapters.split import hash_prompt, normalise_prompt
from rmbatch.chat.templates import format_conversation
from rmbatch.judges.kinds.order import shuffle_texts
from rmbatch.rows.messages import combine_chunks, decode_json, is_list, is_text, text_of
from rmbatch.rows.roles import JSON_MARK, Roles, flatten
from rmbatch.settings.base import Settings
from rmbatch.settings.names import nearest

Column = Annotated[str, Field(min_length=1)]


class PreferenceColumns(Settings):
    """Where a row says which answer is preferred: two columns of answers, or all answers and the place of the best."""

    chosen: Column | None = None
    """The preferred answer."""
    rejected: Column | None = None
    """The others: one answer, or a list of answers."""
    responses: Column | Annotated[tuple[Column, ...], Field(min_length=2)] | None = None
    """All answers: a column of lists, or several columns with one answer each."""
    best: Column | None = None
    """The place of the preferred one among ``responses``, from 0."""

    @model_validator(mode="after")
    def _is_one_way(self) -> Self:
        pairs = (self.chosen, self.rejected), (self.responses, self.best)
        whole = [None not in pair for pair in pairs]
        if sum(whole) != 1 or any(pair != (None, None) for pair, is_whole in zip(pairs, whole) if not is_whole):
            raise ValueError("write {chosen: COLUMN, rejected: COLUMN} or {responses: COLUMN, best: COLUMN}")
        return self

    def columns(self) -> list[str]:
        """The columns that are named."""
        several = self.responses if isinstance(self.responses, tuple) else (self.responses,)
        return [name for name in (self.chosen, self.rejected, *several, self.best) if name is not None]


@dataclass(frozen=True)
class Preference:
    """A prompt with a preferred answer and others."""

    row: str
    """Its id, or its place in the input."""
    messages: tuple[Mapping[str, str | None], ...]
    """The prompt."""
    chosen: str
    rejected: tuple[str, ...]
    """At least one; all are different, and none is like ``chosen``."""

    @property
    def prompt(self) -> str:
        """The conversation as text."""
        return format_conversation(self.messages)

    def shuffle_answers(self, seed: int) -> list[str]:
        """All answers, in an order that does not tell which is preferred."""
        return shuffle_texts([self.chosen, *self.rejected], self.prompt, seed, 0)


@dataclass(frozen=True)
class ReadPreferences:
    """The preferences of a table, and how many of its rows are none."""

    preferences: list[Preference]
    unusable: Mapping[str, int]
    """Rows that are none, by why."""


def read_preferences(table: pa.Table, roles: Roles, columns: PreferenceColumns, rows: Sequence[str]) -> ReadPreferences:
    """Read the preferences of a table; ``rows`` names its rows. Raises UserError for a column that cannot be read."""
    for name in columns.columns():
        if name not in table.column_names:
            raise UserError(f"preferences: no column {name!r}; {nearest(name, table.column_names)}")
    if roles.prompt is None:
        raise UserError(
            f"no column plays the role 'prompt'; set input.columns.prompt to one of: {', '.join(table.column_names)}"
        )
    prompts = flatten(table, Roles(prompt=roles.prompt)).column("prompt").to_pylist()
    unusable: Counter[str] = Counter()
    found: dict[tuple[str, str, tuple[str, ...]], Preference] = {}
    for row, messages, (chosen, rejected) in zip(rows, prompts, _read_answers(table, columns), strict=True):
        others = tuple(dict.fromkeys(each for each in rejected if _has_text(each) and each != chosen))
        if not messages or not any(_has_text(message["content"]) for message in messages):
            unusable["prompt_missing"] += 1
        elif not _has_text(chosen):
            unusable["chosen_missing"] += 1
        elif not others:
            unusable["equal_answers" if chosen in rejected else "rejected_missing"] += 1
        else:
            assert chosen is not None
            each = Preference(row, tuple(messages), chosen, tuple(str(other) for other in others))
            key = (each.prompt, each.chosen, each.rejected)
            unusable["repeated"] += key in found
            found.setdefault(key, each)
    return ReadPreferences(list(found.values()), dict(sorted((+unusable).items())))


def split_by_prompt(
    preferences: Sequence[Preference], held_out: float, seed: int
) -> tuple[list[Preference], list[Preference]]:
    """Split into rows to learn from and rows to measure on, about ``held_out`` of the prompts; no prompt is in both.

    Raises UserError where one of them would be empty.
    """
    prompts = [normalise_prompt(each.prompt) for each in preferences]
    drawn = sorted(set(prompts), key=lambda prompt: hash_prompt(prompt, seed))
    held_apart = set(drawn[: round(held_out * len(drawn))])
    train = [each for each, prompt in zip(preferences, prompts) if prompt not in held_apart]
    apart = [each for each, prompt in zip(preferences, prompts) if prompt in held_apart]
    if not train or not apart:
        raise UserError(
            f"held_out: {held_out:g} of {len(drawn)} different prompts leaves {len(train)} rows to learn from and "
            f"{len(apart)} to measure on; more prompts are needed, or another share"
        )
    return train, apart


def _read_answers(table: pa.Table, columns: PreferenceColumns) -> Iterator[tuple[str | None, list[str | None]]]:
    """For each row: the preferred answer, or None, and the other answers."""
    if columns.chosen is not None and columns.rejected is not None:
        chosen = flatten(table, Roles(response=columns.chosen)).column("response").to_pylist()
        yield from zip(chosen, _read_answer_lists(table, columns.rejected), strict=True)
        return
    view = flatten(table, Roles(responses=columns.responses))
    texts, offsets = view.column("response").to_pylist(), view.offsets
    assert offsets is not None
    assert columns.best is not None
    for (start, stop), best in zip(pairwise(offsets.tolist()), _read_places(table, columns.best), strict=True):
        answers = texts[start:stop]
        is_there = best is not None and 0 <= best < len(answers)
        yield (answers.pop(best) if is_there and best is not None else None), answers


def _read_answer_lists(table: pa.Table, column: str) -> list[list[str | None]]:
    """The answers of a column that holds one answer a row, or a list of them."""
    field = table.schema.field(column)
    if (field.metadata or {}).get(JSON_MARK[0]) == JSON_MARK[1]:
        values = decode_json(combine_chunks(table[column]), column)
        return [
            [text_of(each) for each in value] if _is_list_of_answers(value) else [text_of(value)] for value in values
        ]
    if is_list(field.type) and (is_text(field.type.value_type) or is_list(field.type.value_type)):
        view = flatten(table, Roles(responses=column))
        texts = view.column("response").to_pylist()
        assert view.offsets is not None
        return [texts[start:stop] for start, stop in pairwise(view.offsets.tolist())]
    return [[text] for text in flatten(table, Roles(response=column)).column("response").to_pylist()]


def _is_list_of_answers(value: Any) -> bool:
    return isinstance(value, list) and not any(isinstance(each, dict) for each in value)  # of messages: one answer


def _read_places(table: pa.Table, column: str) -> list[int | None]:
    kind = table.schema.field(column).type
    if not pa.types.is_integer(kind):
        raise UserError(
            f"preferences.best: column {column!r} is {kind}; the place of the best answer is a whole number"
        )
    places: list[int | None] = table[column].to_pylist()
    return places


def _has_text(text: str | None) -> bool:
    return text is not None and bool(text.strip())
