"""Preferences: a prompt, the answer that was preferred and those that were not, out of the rows of a table.

What cannot be used is counted by its reason and is no preference. Nothing is judged here.

    found = read_preferences(table, roles, PreferenceColumns(chosen="chosen", rejected="rejected"), ids)
    found.preferences, found.unusable                    # [Preference(…), …], {"chosen_missing": 2}
    train, held_out = split_by_prompt(found.preferences, held_out=0.3, seed=0)
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Self

import pyarrow as pa
from pydantic import Field, model_validator

from connectors.errors import UserError
from rmbatch.judges.kinds.order import shuffle_texts
from rmbatch.judges.prompt import format_conversation
from rmbatch.rows.messages import is_list, is_text, json_values, one_array, text_of
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
        """All that are named."""
        several = self.responses if isinstance(self.responses, tuple) else (self.responses,)
        return [name for name in (self.chosen, self.rejected, *several, self.best) if name is not None]


@dataclass(frozen=True)
class Preference:
    """One row."""

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

    def shown(self, seed: int) -> list[str]:
        """All answers in an order that says nothing of which is preferred."""
        return shuffle_texts([self.chosen, *self.rejected], self.prompt, seed, 0)


@dataclass(frozen=True)
class ReadPreferences:
    """What a table holds."""

    preferences: list[Preference]
    unusable: Mapping[str, int]
    """Rows that are none, by why."""


def read_preferences(table: pa.Table, roles: Roles, columns: PreferenceColumns, rows: Sequence[str]) -> ReadPreferences:
    """The preferences in a table; ``rows`` names its rows. Raises UserError for a column that cannot be read."""
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
    """Rows to learn from and rows to measure on, about ``held_out`` of the prompts; no prompt is in both.

    Raises UserError where one of them would be empty.
    """
    drawn = sorted({_normalise_prompt(each) for each in preferences}, key=lambda prompt: _hash_prompt(prompt, seed))
    held_apart = set(drawn[: round(held_out * len(drawn))])
    train = [each for each in preferences if _normalise_prompt(each) not in held_apart]
    apart = [each for each in preferences if _normalise_prompt(each) in held_apart]
    if not train or not apart:
        raise UserError(
            f"held_out: {held_out:g} of {len(drawn)} different prompts leaves {len(train)} rows to learn from and "
            f"{len(apart)} to measure on; more prompts are needed, or another share"
        )
    return train, apart


def _read_answers(table: pa.Table, columns: PreferenceColumns) -> Iterator[tuple[str | None, list[str | None]]]:
    """Of each row the preferred answer, None where there is none, and the others."""
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
    """The answers of a column in which a row has one, or a list of them."""
    field = table.schema.field(column)
    if (field.metadata or {}).get(JSON_MARK[0]) == JSON_MARK[1]:
        values = json_values(one_array(table[column]), column)
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


def _normalise_prompt(preference: Preference) -> str:
    """The prompt without what makes no other prompt: case and spaces."""
    return " ".join(preference.prompt.casefold().split())


def _hash_prompt(prompt: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}\0{prompt}".encode(errors="replace"), digest_size=16).digest()
