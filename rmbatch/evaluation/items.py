"""Items of suites as rows: from standard columns to the columns that are scored, and from scored rows to ``Items``.

An item has a prompt and candidates of which some are right; or one candidate, a reasoning in steps. Rows of all suites
have the same columns, so one job scores them all.

    rows, left_out = to_rows(adapted, "mine", suite, "", np.arange(adapted.num_rows))       # pa.Table in ITEM_SCHEMA
    items = to_items(scored_rows)
    judged = to_judged(scored_rows, "rm", compares=False)
"""

from collections import Counter
from collections.abc import Collection
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from connectors.errors import UserError
from rmbatch.evaluation.base import Items, Judged, Suite, join_texts, to_objects
from rmbatch.evaluation.ragged import Floats, Ragged
from rmbatch.rows.messages import MESSAGES, TEXT, combine_chunks, is_list
from rmbatch.rows.roles import Roles, flatten, guess_roles

ITEM_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("suite", pa.string()),
        ("item", pa.string()),
        ("row", pa.int64()),
        ("subset", pa.string()),
        ("key", pa.uint64()),
        ("prompt", MESSAGES),
        ("responses", pa.list_(TEXT)),
        ("correct", pa.list_(pa.bool_())),
        ("lengths", pa.list_(pa.int64())),
        ("reference", TEXT),
        ("num_steps", pa.int32()),
        ("error_steps", pa.list_(pa.int32())),
        ("pairs", pa.list_(pa.int32())),
    ]
)
"""``id`` is unique over all suites: suite, subset and the item's own name; ``row`` is the number of its
row. ``key`` is equal for items of one prompt."""
METRIC_COLUMNS = ("suite", "item", "subset", "key", "correct", "lengths", "num_steps", "error_steps", "pairs")
"""What metrics read of an item, beside its scores."""
RECORDED = "recorded."
"""Prefix of the columns that hold recorded verdicts: recorded.NAME.scores, .games, .steps, .first_error."""
RECORDED_TYPES = {
    "scores": pa.list_(pa.float64()),
    "games": pa.list_(pa.float64()),
    "steps": pa.list_(pa.float64()),
    "first_error": pa.int32(),
}
_SEPARATOR = "\n\n"


def to_rows(
    table: pa.Table, name: str, suite: Suite, subset: str, numbers: NDArray[np.int64]
) -> tuple[pa.Table, Counter[str]]:
    """The rows to score, and how many rows were left out, by the reason.

    table: standard columns of one dataset. ``name``: what the job calls the suite. ``subset``: the subset of all these
    rows; empty: the column says it. ``numbers``: of the rows, which name rows without an id. Raises UserError for
    columns of which no item can be made.
    """
    num_rows = table.num_rows
    made = _steps(table) if suite.needs == "steps" else _candidates(table, suite)
    own = pa.array([str(number) for number in numbers], TEXT)
    item = pc.coalesce(_text(table, "id"), own)
    subsets = pa.repeat(pa.scalar(subset, TEXT), num_rows) if subset else pc.fill_null(_text(table, "subset"), "")
    asked = guess_roles(table.schema).prompt  # prompt, or question, instruction, …
    prompt = pa.nulls(num_rows, MESSAGES)
    if asked is not None:
        prompt = flatten(table, Roles(prompt=asked, response=asked)).column("prompt")
    whole = pc.binary_join_element_wise(pa.scalar(name, TEXT), subsets, item, pa.scalar("/", TEXT))
    columns = {
        "id": whole,
        "suite": pa.repeat(pa.scalar(name), num_rows),
        "item": item,
        "row": pa.array(numbers),
        "subset": subsets,
        "key": pa.array(hash_texts(_cluster_names(suite.cluster(table, item, prompt), whole))),
        "prompt": prompt,
        "reference": _text(table, "reference"),
        "pairs": _list_column(table, "pairs", pa.int32()),
        **made,
    }
    rows = pa.table({field.name: columns[field.name].cast(field.type) for field in ITEM_SCHEMA}, schema=ITEM_SCHEMA)
    return _drop_unusable(rows, suite)


def to_items(table: pa.Table) -> Items:
    """The items of scored rows of one suite."""
    return Items(
        id=to_objects(table["item"]),
        subset=to_objects(table["subset"]),
        key=table["key"].to_numpy(),
        correct=Ragged.from_arrow(table["correct"]),
        lengths=Ragged.from_arrow(table["lengths"]),
        num_steps=pc.fill_null(table["num_steps"], 0).to_numpy().astype(np.int64),
        error_steps=Ragged.from_arrow(table["error_steps"]),
        pairs=Ragged.from_arrow(table["pairs"]),
    )


def to_judged(table: pa.Table, name: str, compares: bool) -> Judged:
    """What the reward of this name says of scored rows."""
    scores = Ragged.from_arrow(table[f"score.{name}"])
    steps = None
    if f"steps.{name}" in table.column_names:
        first = pc.list_element(_padded(table[f"steps.{name}"]), 0)
        steps = Ragged.from_arrow(first)
    return Judged(_fit(scores, table), compares=compares, steps=steps)


def to_recorded(table: pa.Table, name: str, kinds: Collection[str] | None = None) -> Judged:
    """The recorded verdicts of this name on rows of one suite; no verdict where the columns are null.

    ``kinds``: the kinds of verdicts that the suite has, since a block may hold none. None: those that these rows have.
    """
    has = {kind: f"{RECORDED}{name}.{kind}" for kind in RECORDED_TYPES}
    found = {kind: table[column] for kind, column in has.items() if column in table.column_names}
    if kinds is None:
        kinds = [kind for kind, column in found.items() if column.null_count < len(column)]
    correct = Ragged.from_arrow(table["correct"])
    games = first_error = None
    scores = correct.with_values(np.full(len(correct.values), np.nan))
    if "games" in kinds:
        games = _games(found["games"])
        scores = _scores_of_games(games, correct)
    elif "scores" in kinds:
        scores = _fit(Ragged.from_arrow(found["scores"]), table)
    if "first_error" in kinds:
        first_error = pc.cast(found["first_error"], pa.float64()).to_numpy(zero_copy_only=False)
    steps = Ragged.from_arrow(found["steps"]) if "steps" in kinds else None
    return Judged(scores, games=games, steps=steps, first_error=first_error)


def hash_texts(texts: pa.Array) -> NDArray[np.uint64]:
    """The XXH3 of each text's UTF-8 bytes, read without a copy; null counts as empty."""
    array = pc.fill_null(combine_chunks(texts).cast(TEXT), "")
    _, ends, data = array.buffers()
    bounds = np.frombuffer(ends, dtype=np.int64)[array.offset : array.offset + len(array) + 1].tolist()
    text = memoryview(data or b"")
    spans = pairwise(bounds)
    return np.fromiter((xxhash.xxh3_64_intdigest(text[i:j]) for i, j in spans), np.uint64, count=len(array))


def _cluster_names(clusters: pa.Array, items: pa.Array) -> pa.Array:
    """The name of each row's prompt; its own where the prompt is unknown, which says nothing of other rows."""
    names = clusters.cast(TEXT)
    unknown = pc.fill_null(pc.equal(names, pa.scalar("", TEXT)), True)
    return pc.if_else(unknown, items.cast(TEXT), names)


def _candidates(table: pa.Table, suite: Suite) -> dict[str, pa.Array]:
    """The candidates, which of them are right, and their lengths."""
    names = table.column_names
    if "responses" in names and is_list(table.schema.field("responses").type):
        responses = combine_chunks(table["responses"]).cast(pa.list_(TEXT))
        if "correct" in names:
            correct = combine_chunks(table["correct"]).cast(pa.list_(pa.bool_()))
        elif "preference" in names:
            preference = np.nan_to_num(combine_chunks(table["preference"]).to_numpy(zero_copy_only=False).astype(float))
            flags = np.stack([preference < 0, preference > 0], axis=1).ravel()
            offsets = np.arange(table.num_rows + 1, dtype=np.int32) * 2
            correct = pa.ListArray.from_arrays(pa.array(offsets), pa.array(flags))
        else:
            raise UserError(f"suites: {suite.name}: the rows have responses, and no column correct or preference")
    elif {"chosen", "rejected"} <= set(names):
        chosen, rejected = (flatten(table, Roles(response=each)).column("response") for each in ("chosen", "rejected"))
        responses = _pairs_of(chosen, rejected)
        num_rows = table.num_rows
        correct = _pairs_of(pa.repeat(pa.scalar(True), num_rows), pa.repeat(pa.scalar(False), num_rows))
    else:
        raise UserError(
            f"suites: {suite.name} needs chosen and rejected, or responses and correct; the rows have "
            f"{', '.join(names)}; name an adapter that gives them: {{as: NAME}}"
        )
    return {
        "responses": responses,
        "correct": correct,
        "lengths": _lengths(responses),
        "num_steps": pa.nulls(table.num_rows, pa.int32()),
        "error_steps": pa.nulls(table.num_rows, pa.list_(pa.int32())),
    }


def _steps(table: pa.Table) -> dict[str, pa.Array]:
    """The reasoning as one candidate, its steps parted by blank lines, and its wrong steps."""
    if not {"steps", "error_steps"} <= set(table.column_names):
        raise UserError(
            f"this suite needs steps and error_steps; the rows have {', '.join(table.column_names)}; name an adapter "
            "that gives them: {as: NAME}"
        )
    steps = combine_chunks(table["steps"]).cast(pa.large_list(TEXT))
    flat = pc.fill_null(pc.list_flatten(steps), "")
    whole = pc.replace_substring_regex(
        pc.utf8_trim_whitespace(flat), r"\n\s*\n", "\n"
    )  # a blank line would cut the step
    counts = pc.fill_null(pc.list_value_length(steps), 0)
    text = join_texts(whole, counts.to_numpy(zero_copy_only=False), _SEPARATOR)
    one = np.arange(table.num_rows + 1, dtype=np.int32)
    responses = pa.ListArray.from_arrays(pa.array(one), text.cast(TEXT))
    return {
        "responses": responses,
        "correct": pa.ListArray.from_arrays(pa.array(one), pa.nulls(table.num_rows, pa.bool_())),
        "lengths": _lengths(responses),
        "num_steps": counts.cast(pa.int32()),
        "error_steps": combine_chunks(table["error_steps"]).cast(pa.list_(pa.int32())),
    }


def _drop_unusable(rows: pa.Table, suite: Suite) -> tuple[pa.Table, Counter[str]]:
    """Leave out rows that no verdict could be right about, and count them by the reason."""
    if suite.needs == "steps":
        reasons = {"no steps": pc.equal(rows["num_steps"], 0), "wrong steps unknown": pc.is_null(rows["error_steps"])}
    else:
        correct, texts = Ragged.from_arrow(rows["correct"]), rows["responses"]
        right = correct.sum(correct.values == 1)
        lengths = pc.fill_null(pc.list_value_length(texts), 0).to_numpy()
        missing = Ragged.from_arrow(rows["lengths"])
        reasons = {
            "a response is missing": pa.array(
                (missing.sum(np.isnan(missing.values)) > 0) | (lengths != correct.counts)
            ),
            "no response is right, or all are": pa.array((right == 0) | (right == correct.counts)),
            f"other than {suite.form}": pa.array(~suite.has_form(correct)),
        }
        if suite.keeps_hopeless:
            del reasons["no response is right, or all are"]
    counts: Counter[str] = Counter()
    usable = np.ones(rows.num_rows, dtype=bool)
    for reason, mask in reasons.items():
        bad = np.asarray(pc.fill_null(mask, True)) & usable
        if bad.any():
            counts[reason] += int(bad.sum())
            usable &= ~bad
    return (rows if usable.all() else rows.filter(pa.array(usable))), counts


def _pairs_of(first: pa.Array, second: pa.Array) -> pa.Array:
    """Lists of two values each."""
    num_rows = len(first)
    both = pa.concat_arrays([first, second]).take(pa.array(np.arange(2 * num_rows).reshape(2, num_rows).T.ravel()))
    return pa.ListArray.from_arrays(pa.array(np.arange(num_rows + 1, dtype=np.int32) * 2), both)


def _lengths(responses: pa.Array) -> pa.Array:
    """The characters of each response; null for a null one."""
    flat = pc.utf8_length(pc.list_flatten(responses)).cast(pa.int64())
    counts = pc.fill_null(pc.list_value_length(responses), 0).to_numpy(zero_copy_only=False)
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)), flat)


def _text(table: pa.Table, name: str) -> pa.Array:
    if name not in table.column_names:
        return pa.nulls(table.num_rows, TEXT)
    return combine_chunks(table[name]).cast(TEXT)


def _list_column(table: pa.Table, name: str, kind: pa.DataType) -> pa.Array:
    if name not in table.column_names:
        return pa.nulls(table.num_rows, pa.list_(kind))
    return combine_chunks(table[name]).cast(pa.list_(kind))


def _fit(scores: Ragged, table: pa.Table) -> Ragged:
    """The scores in lists as long as the candidates; NaN for all candidates of a row whose list has another length."""
    correct = Ragged.from_arrow(table["correct"])
    if np.array_equal(scores.offsets, correct.offsets):
        return scores
    values = np.full(len(correct.values), np.nan)
    same = scores.counts == correct.counts
    values[np.repeat(same, correct.counts)] = scores.values[np.repeat(same, scores.counts)]
    return correct.with_values(values)


def _padded(column: pa.ChunkedArray) -> pa.Array:
    """The lists, an empty or null one as a list of one null, so that each has a first element."""
    array = combine_chunks(column)
    counts = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    if (counts > 0).all():
        return array
    flat = pc.list_flatten(array)
    begins = np.concatenate([[0], np.cumsum(counts)])[:-1]
    places = pa.array(begins, mask=counts == 0)
    one = np.arange(len(array) + 1, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(one), flat.take(places))


def _games(column: pa.ChunkedArray) -> Floats:
    lists = Ragged.from_arrow(column)
    return np.stack([lists.column(0), lists.column(1)], axis=1)


def _scores_of_games(games: Floats, correct: Ragged) -> Ragged:
    """Scores that say what both games together say: the share of them that each candidate wins."""
    if not np.all(correct.counts == 2):
        return correct.with_values(np.full(len(correct.values), np.nan))
    first = games.mean(axis=1)
    return correct.with_values(np.stack([first, 1 - first], axis=1).ravel())
