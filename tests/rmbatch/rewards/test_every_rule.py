"""What holds for every rule and every input: one number whichever way it comes in, and rows in are rows out."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmbatch.rewards.contract import GROUP_KINDS
from rmbatch.rewards.registry import resolve
from rmbatch.rows.roles import guess_roles
from rmbatch.stages.score import ScoreStage
from tests.rmbatch.rewards.every import RULES, made

PIECES = [
    *(
        "4",
        "5",
        "-1",
        r"\boxed{4}",
        r"\boxed{B}",
        "<think>",
        "</think>",
        "<answer>a</answer>",
        " the cat",
        "\n",
        "\n\n",
    ),
    *(
        "é",
        "中文",
        "$x$",
        "- ",
        "**",
        "B.",
        '{"a": 1}',
        '{"name": "f", "arguments": {}}',
        "<tool_call>",
        "</tool_call>",
    ),
    *("a@b.co", "```\n", "x = 1", "\n```", "[", "]", "I cannot help", "👍🏽", " this is a sentence in English. "),
]
TEXT = st.none() | st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
SIZES = st.lists(st.none() | st.integers(0, 3), min_size=1, max_size=3)
WORDS_AT_LEAST_2 = {"num_words": 2, "relation": "at least"}

# One column per role and per further column that some rule reads; those that begin with "response" are the candidates'.
COLUMNS: dict[str, Any] = {
    "response": (pa.string(), TEXT),
    "reference": (pa.string(), TEXT),
    "prompt": (pa.string(), TEXT),
    "response_messages": (pa.string(), TEXT),
    "response_tokens": (pa.int64(), st.none() | st.integers(0, 50_000)),
    "response_correct": (pa.bool_(), st.none() | st.booleans()),
    "response_step_scores": (pa.list_(pa.float64()), st.none() | st.lists(st.floats(0, 1), max_size=3)),
    "instruction_id_list": (
        pa.list_(pa.string()),
        st.sampled_from([None, [], ["length_constraints:number_words"], ["no:such"]]),
    ),
    "kwargs": (
        pa.list_(pa.struct([("num_words", pa.int64()), ("relation", pa.string())])),
        st.sampled_from([None, [], [WORDS_AT_LEAST_2]]),
    ),
    "tests": (pa.string(), st.none()),  # programs run in the tests of the sandbox
}


def drawn(data: st.DataObject, names: list[str], sizes: list[int | None]) -> list[dict[str, Any]]:
    """Nested rows: the candidates' columns as lists of ``sizes``, the others one value each."""

    def value(name: str, size: int | None) -> Any:
        kind = COLUMNS[name][1]
        if not name.startswith("response"):
            return data.draw(kind)
        return None if size is None else data.draw(st.lists(kind, min_size=size, max_size=size))

    return [{"responses" if name == "response" else name: value(name, size) for name in names} for size in sizes]


def table_of(rows: list[dict[str, Any]], names: list[str], *, nested: bool) -> pa.Table:
    fields = []
    for name in names:
        of_candidate = nested and name.startswith("response")
        kind = COLUMNS[name][0]
        key = "responses" if nested and name == "response" else name
        fields.append(pa.field(key, pa.list_(kind) if of_candidate else kind))
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def flat_rows(rows: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    """A row per candidate, with the number of its prompt."""
    return [
        {
            "group": number,
            **{
                name: row["responses" if name == "response" else name][place]
                if name.startswith("response")
                else row[name]
                for name in names
            },
        }
        for number, row in enumerate(rows)
        for place in range(len(row["responses"] or []))
    ]


def results_of(table: pa.Table, name: str) -> list[Any]:
    """Score, error and reason of each row, as lists where the rows are nested."""
    parts = [f"{part}.{name}" for part in ("score", "error", "reason")]
    columns = [table[part].to_pylist() if part in table.schema.names else [None] * table.num_rows for part in parts]
    return list(zip(*columns))


def triples(results: Any) -> list[tuple[Any, Any, Any]]:
    listed = results if isinstance(results, list) else [results]
    return [(one.score, one.error, one.reason) for one in listed]


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=10, deadline=None)
@given(data=st.data(), sizes=SIZES)
def test_one_number_whichever_way(name: str, data: st.DataObject, sizes: list[int | None]) -> None:
    rm, spec = made(name), resolve(name)
    names = list(dict.fromkeys(["response", *spec.columns]))
    rows = drawn(data, names, sizes)

    table = table_of(rows, names, nested=True)
    scored = results_of(rm.score(table), name)
    evaluated = [rm.evaluate(row) for row in rows]
    assert rm.evaluate_batch(rows) == evaluated
    in_batch = []
    for size, (score, error, reason), results in zip(sizes, scored, evaluated):
        assert (score is None) == (size is None)
        column = list(zip(score or [], error or [], reason or [None] * len(score or [])))
        assert triples(results) == column
        in_batch += column

    flat = flat_rows(rows, names)
    flat_table = table_of(flat, names, nested=False).append_column(
        "group", pa.array([r["group"] for r in flat], pa.int64())
    )
    if spec.kind in GROUP_KINDS:
        stage = ScoreStage({name: rm}, roles=guess_roles(flat_table.schema), group="group")
        assert results_of(stage(flat_table), name) == in_batch
    else:
        assert results_of(rm.score(flat_table), name) == in_batch
        assert [one for row in flat for one in triples(rm.evaluate(row))] == in_batch


@pytest.mark.parametrize("name", RULES)
def test_an_empty_batch(name: str) -> None:
    spec = resolve(name)
    names = list(dict.fromkeys(["response", *spec.columns]))
    scored = made(name).score(table_of([], names, nested=True))
    assert scored.num_rows == 0
    assert scored.schema.field(f"score.{name}").type == pa.list_(pa.float64())
