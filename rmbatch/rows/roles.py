"""Rows and their two shapes: which column plays which role, and the flat candidates of nested or flat rows.

Nested: a row holds a prompt and a list of candidates (or a column per candidate). Flat: a row holds one response. A
``FlatView`` gives a reward columns of one value per candidate, and brings the reward's result back to the shape of the
rows. It scores nothing; ``messages.py`` reads the forms of text and conversations.

    roles = guess_roles(table.schema, {"responses": "candidates"})
    view = flatten(table, roles)
    lengths = pc.utf8_length(view.column("response"))         # one per candidate
    table.append_column("length", view.nest(lengths))         # list<int64>, aligned with the candidates
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.errors import UserError
from connectors.schema import HIDDEN, ORIGIN_ROW, ORIGIN_URI, find_twins
from rmbatch.rows import messages
from rmbatch.rows.messages import MESSAGES, TEXT, is_list, is_text
from rmbatch.settings.names import nearest

ROLES = ("id", "prompt", "response", "responses", "reference", "group")
ALL_COLUMNS = "*"
"""The name of a column that holds the whole row; see ``FlatView.column``."""
JSON_MARK = (b"rmbatch.type", b"json")
"""Field metadata of a column whose text is JSON because its values had no common type."""
RATING_MARK = (b"rmbatch.type", b"rating")
"""Field metadata of a column that rates the response, so it is no reference to compare it with."""

_COMMON_NAMES: dict[str, tuple[str, ...]] = {
    "responses": ("responses", "candidates", "completions", "outputs", "generations", "samples"),
    "response": ("response", "completion", "output", "generation", "model_output", "prediction"),
    "prompt": ("prompt", "messages", "question", "instruction", "problem", "query", "input", "conversations"),
    "reference": (
        *("reference", "ground_truth", "reference_answer", "gold", "gold_answer", "target", "label", "answer"),
        *("solution", "expected_answer"),
    ),
    "group": ("group", "group_id", "prompt_id"),
    "id": ("id", "uid", "uuid", "unique_id"),
}
_PER_CANDIDATE = ("response_", "score.", "error.", "reason.", "steps.")
"""Prefixes of the columns that hold, in nested rows, a list aligned with the candidates."""


class MissingColumnError(UserError):
    """There is no such column."""


@dataclass(frozen=True)
class Roles:
    """Which column plays which role; None: no column does."""

    id: str | None = None
    prompt: str | None = None
    response: str | None = None
    responses: str | tuple[str, ...] | None = None
    """A column of lists, or several columns with one candidate each, in this order."""
    reference: str | None = None
    group: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)
    """Further parameters of rewards, and the columns they read."""

    def column_of(self, name: str) -> str:
        """The column that plays this role of a row, or is given for this parameter; else that of the name itself."""
        played = getattr(self, name) if name in ("prompt", "reference", "id", "group") else None
        return self.extra.get(name) or played or name

    def columns(self) -> tuple[str, ...]:
        """All columns that play a role, each once."""
        several = self.responses if isinstance(self.responses, tuple) else (self.responses,)
        named = (self.id, self.prompt, self.response, *several, self.reference, self.group, *self.extra.values())
        return tuple(dict.fromkeys(name for name in named if name is not None))


def guess_roles(schema: pa.Schema, given: Mapping[str, Any] | None = None) -> Roles:
    """The roles that ``given`` names; the others are guessed from common column names of a plausible type.

    A role given as None is not guessed. ``response`` and ``responses`` exclude each other. A key that is no role is a
    parameter of a reward. Raises UserError for a missing column, naming the nearest one.
    """
    roles: dict[str, Any] = {}
    extra: dict[str, str] = {}
    for role, column in (given or {}).items():
        checked = _check_columns(schema, role, column)
        if role in ROLES:
            roles[role] = checked
        else:
            extra[role] = column
    if roles.get("response") and roles.get("responses"):
        raise UserError("columns: response (one a row) and responses (a list a row) exclude each other; give one")
    if "response" in roles or "responses" in roles:
        roles = {"response": None, "responses": None, **roles}

    taken = set(Roles(**roles, extra=extra).columns())

    def guess(role: str, names: Iterable[str], plausible: Callable[[pa.Field], bool] | None = None) -> None:
        if role in roles:
            return
        present = {name.lower(): name for name in reversed(schema.names) if name not in taken}
        likely = (present[name] for name in names if name in present)
        found = next((name for name in likely if (plausible or _PLAUSIBLE[role])(schema.field(name))), None)
        if found is not None:
            roles[role] = found
            taken.add(found)

    for role in ("responses", "response", "prompt", "reference", "group"):
        if not (role == "response" and roles.get("responses")):
            guess(role, _COMMON_NAMES[role])
    pair = ("chosen", "rejected")
    if not roles.get("responses"):
        guess("response", ("answer",))  # a reference had the first choice
    if "response" not in roles and "responses" not in roles and all(_is_text_column(schema, name) for name in pair):
        roles["responses"] = pair
        taken.update(pair)
    if not roles.get("response"):
        guess("responses", _COMMON_NAMES["responses"], lambda column: bool(pa.types.is_null(column.type)))
    guess("id", (*_COMMON_NAMES["id"], *(name.lower() for name in schema.names if name.lower().endswith("_id"))))
    return Roles(**roles, extra=extra)


def refuse_misspelt(roles: Roles, read: Iterable[str]) -> None:
    """Raise UserError for a given name that is no role, that nothing reads, and that is nearly a role or a name in
    ``read``. Without it that role would be guessed, and another column compared with."""
    known = {*ROLES, *read}
    for name in roles.extra.keys() - known:
        if near := get_close_matches(name, sorted(known), n=1, cutoff=0.85):
            raise UserError(f"columns: {name}: no role, and nothing reads it; did you mean {near[0]!r}?")


def flatten(table: pa.Table, roles: Roles) -> "FlatView":
    """The table's candidates, one after the other. A column is computed only when somebody reads it."""
    return FlatView(table, roles)


class FlatView:
    """Columns of one value per candidate, over rows of either shape."""

    def __init__(self, table: pa.Table, roles: Roles) -> None:
        self._table, self.roles = table, roles
        self._cache: dict[str, pa.Array] = {}
        self._null_rows: pa.Array | None = None
        self._candidates: Callable[[], pa.Array] = lambda: self._read_texts("response", roles.response)
        self.offsets: np.ndarray[Any, np.dtype[np.int64]] | None = None
        """Nested rows: the candidates of row i are offsets[i]:offsets[i + 1], int64, rows + 1. None for flat rows."""
        if isinstance(roles.responses, tuple):
            self._nest_columns(roles.responses)
        elif roles.responses is not None:
            self._nest_lists(roles.responses)
        self.num_candidates: int = table.num_rows if self.offsets is None else int(self.offsets[-1])

    def column(self, name: str) -> pa.Array:
        """The column with this role or name, as one array of ``num_candidates`` values.

        ``response`` and ``reference`` are text, ``prompt`` is list<struct<role, content>>; other columns keep their
        type (text as large_string, lists as large_list, JSON as the text of each value). An odd value is read where the
        result is text or a prompt, and is null elsewhere (``connectors/formats/shapes.py``). In nested rows a value of
        the row is repeated for each of its candidates; a list named ``response_…``, ``score.…``, ``error.…``,
        ``reason.…`` or ``steps.…`` already has one value per candidate. Null stays null.

        ``*`` is a struct of the whole row: ``completion`` (the response) and ``prompt``, both text or both messages, as
        the data writes the prompt, and the other columns by their names.
        """
        if name not in self._cache:
            self._cache[name] = self._column(name)
        return self._cache[name]

    def has(self, name: str) -> bool:
        """Whether ``column(name)`` has a column to read."""
        if name == ALL_COLUMNS or (name == "response" and self.offsets is not None):
            return True
        return self._source(name) in self._table.schema.names

    def row_of(self, candidate: int) -> int:
        """The index of the row that a candidate belongs to."""
        if self.offsets is None:
            return candidate
        return int(np.searchsorted(self.offsets, candidate, side="right")) - 1

    def nest(self, array: pa.Array) -> pa.Array:
        """One value per candidate, back in the shape of the rows.

        Nested: list<…>, null where the row's list of candidates is null. Flat: unchanged.
        """
        if self.offsets is None:
            return array
        return pa.ListArray.from_arrays(pa.array(self.offsets, pa.int32()), array, mask=self._null_rows)

    def _column(self, name: str) -> pa.Array:
        roles = self.roles
        if name == "response":
            return self._candidates()
        if name == "prompt":
            return self._per_candidate(
                self._read(name, roles.prompt, messages.prompt_messages, messages.messages_of, MESSAGES)
            )
        if name == "reference":
            return self._per_candidate(
                self._read(name, roles.reference, messages.reference_text, messages.value_text, TEXT)
            )
        if name == ALL_COLUMNS:
            return self._all_columns()
        return self._plain_column(name, self._source(name))

    def _plain_column(self, name: str, source: str | None) -> pa.Array:
        """A column without a role."""
        values = self._read(name, source)
        if self.offsets is None or source is None or not name.startswith(_PER_CANDIDATE):
            return self._per_candidate(values)
        if self._is_json(source):
            raise UserError(f"{name}: column {source!r} is JSON of mixed types; a list of one type per row is needed")
        if not is_list(values.type):
            return self._per_candidate(values)
        try:
            return messages.fit_lists(values, self.offsets)
        except messages.MisfitError as misfit:
            raise UserError(
                f"{name}: the lists of column {source!r} are not as long as the lists of candidates"
                f"{self._describe_place(misfit.row)}"
            ) from None

    def _describe_place(self, row: int) -> str:
        """Where a row stands in the input, if the table says so."""
        if ORIGIN_URI not in self._table.column_names:
            return ""
        return f", first in row {self._table[ORIGIN_ROW][row]} of {self._table[ORIGIN_URI][row]}"

    def _all_columns(self) -> pa.Array:
        roles, schema = self.roles, self._table.schema
        several = roles.responses if isinstance(roles.responses, tuple) else (roles.responses,)
        used = {roles.response, roles.prompt, *several}
        written = roles.prompt or roles.response or several[0]
        kind = TEXT if written is None or self._is_json(written) else schema.field(written).type
        if roles.prompt is None and isinstance(roles.responses, str) and is_list(kind):
            kind = kind.value_type
        talks = messages.is_conversation(kind) or (written is not None and self._is_json(written))
        held = {"completion": messages.completion_messages(self._candidates()) if talks else self._candidates()}
        if roles.prompt is not None:
            held["prompt"] = self.column("prompt") if talks else self._plain_column("prompt", roles.prompt)
        for name in schema.names:
            if name not in used and name not in held and not name.startswith(HIDDEN):
                held[name] = self._plain_column(name, name)
        return pa.StructArray.from_arrays(list(held.values()), list(held))

    def _source(self, name: str) -> str | None:
        if name in ("response", "prompt", "reference"):
            column: str | None = getattr(self.roles, name)
            return column
        played = getattr(self.roles, name) if name in ("id", "group") else None
        return self.roles.extra.get(name) or played or name

    def _nest_lists(self, column: str) -> None:
        lists = self._load_column("responses", column)
        self._null_rows = pc.is_null(lists)
        if not self._is_json(column):
            if not is_list(lists.type) and not pa.types.is_null(lists.type):
                raise UserError(
                    f"responses: column {column!r} is {lists.type}, not a list; is it one `response` per row?"
                )
            if pa.types.is_null(lists.type):
                lists = pc.cast(lists, pa.large_list(TEXT))
            odd = self._odd_values(column)
            if odd:
                texts = messages.response_text(lists.flatten())
                lists = pa.LargeListArray.from_arrays(pa.array(messages.offsets_of(lists)), texts, mask=self._null_rows)
                found = {row: value if isinstance(value, list) else None for row, value in odd.items()}
                lists = _replace_rows(
                    lists, {row: value and list(map(messages.text_of, value)) for row, value in found.items()}
                )
                self._null_rows = pc.is_null(lists)
            self.offsets = messages.offsets_of(lists)
            self._candidates = lambda: messages.response_text(lists.flatten())
            return
        values = messages.decode_json(lists, column)
        self._null_rows = pa.array([value is None for value in values], pa.bool_())
        wrong = next((value for value in values if value is not None and not isinstance(value, list)), None)
        if wrong is not None:
            raise UserError(
                f"responses: column {column!r} holds {str(wrong)[:80]!r}, which is not a list of candidates"
            )
        self.offsets = np.concatenate([[0], np.cumsum([len(value or ()) for value in values], dtype=np.int64)])
        texts = [messages.text_of(candidate) for value in values for candidate in value or ()]
        self._candidates = lambda: pa.array(texts, TEXT)

    def _nest_columns(self, columns: tuple[str, ...]) -> None:
        num_rows, width = self._table.num_rows, len(columns)
        self.offsets = np.arange(num_rows + 1, dtype=np.int64) * width
        self._null_rows = pa.array(np.zeros(num_rows, dtype=bool))
        interleaved = np.arange(num_rows * width, dtype=np.int64).reshape(width, num_rows).T.ravel()

        def candidates() -> pa.Array:
            texts = [self._read_texts("responses", column) for column in columns]
            return pa.concat_arrays(texts).take(pa.array(interleaved))

        self._candidates = candidates

    def _per_candidate(self, values: pa.Array) -> pa.Array:
        if self.offsets is None:
            return values
        return values.take(pa.array(np.repeat(np.arange(len(values)), np.diff(self.offsets))))

    def _read_texts(self, role: str, column: str | None) -> pa.Array:
        return self._read(role, column, messages.response_text, messages.text_of, TEXT)

    def _read(
        self,
        role: str,
        column: str | None,
        of_array: Callable[[pa.Array], pa.Array] | None = None,
        of_value: Callable[[Any], Any] = messages.value_text,
        decoded_type: pa.DataType = TEXT,
    ) -> pa.Array:
        """The column per row, converted by ``of_array``; where it is JSON text, each decoded value by ``of_value``."""
        if column is None:
            raise MissingColumnError(f"no column plays the role {role!r}; name it in `columns`; {self._nearest(role)}")
        array = self._load_column(role, column)
        if self._is_json(column):
            values = messages.decode_json(array, column)
            return pa.array([of_value(value) for value in values], decoded_type)
        typed = array if of_array is None else of_array(array)
        odd = self._odd_values(column)
        if not odd or (of_array is None and not is_text(typed.type)):
            return typed
        return _replace_rows(typed, {row: of_value(value) for row, value in odd.items()})

    def _odd_values(self, column: str) -> dict[int, Any]:
        """By row: the values that do not fit the column's type, from the column's twin."""
        twin = find_twins(self._table.schema).get(column)
        if twin is None or self._table.column(twin).null_count == self._table.num_rows:
            return {}
        values = messages.decode_json(self._load_column(column, twin), twin)
        return {row: value for row, value in enumerate(values) if value is not None}

    def _load_column(self, role: str, column: str) -> pa.Array:
        if column not in self._table.schema.names:
            raise MissingColumnError(f"{role}: no column {column!r}; {self._nearest(column)}")
        return messages.combine_chunks(self._table.column(column))

    def _is_json(self, column: str) -> bool:
        return _is_json(self._table.schema.field(column))

    def _nearest(self, name: str) -> str:
        return nearest(name, self._table.schema.names)


def _replace_rows(array: pa.Array, values: Mapping[int, Any]) -> pa.Array:
    """The array with these values in some rows."""
    places = np.arange(len(array), dtype=np.int64)
    places[list(values)] = len(array) + np.arange(len(values))
    return pa.concat_arrays([array, pa.array(list(values.values()), array.type)]).take(pa.array(places))


def _check_columns(schema: pa.Schema, role: str, column: Any) -> Any:
    if column is None and role in ROLES:
        return None
    several = role == "responses" and isinstance(column, list | tuple) and len(column) > 0
    for name in column if several else (column,):
        if not isinstance(name, str):
            raise UserError(f"columns: {role}={column!r}: the name of a column is needed")
        if name not in schema.names:
            known = "" if role in ROLES else f" {role!r} is no role either ({', '.join(ROLES)})."
            raise UserError(f"columns: {role}: no column {name!r}; {nearest(name, schema.names)}{known}")
    return tuple(column) if several else column


def _is_text_column(schema: pa.Schema, name: str) -> bool:
    return name in schema.names and is_text(schema.field(name).type) and not _is_json(schema.field(name))


def _is_json(column: pa.Field) -> bool:
    return (column.metadata or {}).get(JSON_MARK[0]) == JSON_MARK[1]


def _is_answer(column: pa.Field) -> bool:
    kind = column.type
    if is_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    return _is_json(column) or is_text(kind) or pa.types.is_struct(kind) or pa.types.is_null(kind)


def _is_conversation(column: pa.Field) -> bool:
    return _is_answer(column) and not (is_list(column.type) and is_text(column.type.value_type))


def _is_plain(column: pa.Field) -> bool:
    return not pa.types.is_nested(column.type)


def _is_reference(column: pa.Field) -> bool:
    return _is_plain(column) and (column.metadata or {}).get(RATING_MARK[0]) != RATING_MARK[1]


_PLAUSIBLE: dict[str, Callable[[pa.Field], bool]] = {
    "responses": lambda column: is_list(column.type) or _is_json(column),
    "response": _is_answer,
    "prompt": _is_conversation,
    "reference": _is_reference,
    "group": _is_plain,
    "id": _is_plain,
}
