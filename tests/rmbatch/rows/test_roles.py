"""Roles are guessed or refused, and nested and flat rows give the same candidates."""

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.errors import UserError
from rmbatch.rows.roles import JSON_MARK, Roles, flatten, guess_roles

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])


def table(**columns: pa.Array) -> pa.Table:
    return pa.table(columns)


def json_table(name: str, values: list[object], **columns: pa.Array) -> pa.Table:
    texts = pa.array([None if value is None else orjson.dumps(value).decode() for value in values], pa.string())
    fields = [pa.field(name, pa.string(), metadata=dict([JSON_MARK]))]
    fields += [pa.field(key, column.type) for key, column in columns.items()]
    return pa.Table.from_arrays([texts, *columns.values()], schema=pa.schema(fields))


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (
            {
                "uid": pa.int64(),
                "messages": pa.list_(MESSAGE),
                "candidates": pa.list_(pa.string()),
                "answer": pa.string(),
            },
            Roles(id="uid", prompt="messages", responses="candidates", reference="answer"),
        ),
        ({"question": pa.string(), "answer": pa.string()}, Roles(prompt="question", reference="answer")),  # gsm8k
        (
            {"query": pa.string(), "answer": pa.string(), "label": pa.float64()},  # the label is the reference
            Roles(prompt="query", response="answer", reference="label"),
        ),
        ({"Prompt": pa.string(), "Response": pa.large_string()}, Roles(prompt="Prompt", response="Response")),
        # a text called like a list is no list, a list called like text is steps
        ({"outputs": pa.string(), "completion": pa.list_(pa.string())}, Roles(response="completion")),
        ({"prompt": pa.int64(), "problem": pa.string()}, Roles(prompt="problem")),  # a number is no prompt
        ({"response": pa.dictionary(pa.int32(), pa.string())}, Roles(response="response")),
        ({"response": pa.string(), "responses": pa.null()}, Roles(response="response")),  # what is all null is no list
        ({"responses": pa.null()}, Roles(responses="responses")),  # unless there is nothing else
        ({"prompt_id": pa.string(), "sample_id": pa.string()}, Roles(group="prompt_id", id="sample_id")),
        ({}, Roles()),
    ],
)
def test_roles_are_guessed_by_name_and_type(types: dict[str, pa.DataType], expected: Roles) -> None:
    assert guess_roles(pa.schema(list(types.items()))) == expected


def test_what_the_user_names_wins() -> None:
    schema = pa.schema([("response", pa.string()), ("a", pa.string()), ("b", pa.string()), ("level", pa.string())])
    roles = guess_roles(schema, {"responses": ["a", "b"], "difficulty": "level", "reference": None})
    assert roles == Roles(responses=("a", "b"), extra={"difficulty": "level"})
    assert roles.columns() == ("a", "b", "level")


@pytest.mark.parametrize(
    ("given_roles", "message"),
    [
        ({"prompt": "promt"}, r"prompt: no column 'promt'; did you mean 'prompt'\?"),
        ({"responses": ["prompt", "respnse"]}, r"responses: no column 'respnse'; did you mean 'response'\?"),
        ({"response": "response", "responses": "many"}, "exclude each other"),
        ({"refrence": "nowhere"}, "'refrence' is no role either"),
        ({"prompt": 3}, "the name of a column is needed"),
    ],
)
def test_a_mistake_in_the_roles_is_one_line(given_roles: dict[str, object], message: str) -> None:
    schema = pa.schema([("prompt", pa.string()), ("response", pa.string()), ("many", pa.list_(pa.string()))])
    with pytest.raises(UserError, match=message) as raised:
        guess_roles(schema, given_roles)
    assert "\n" not in str(raised.value)


CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["a", None, ""]), ["a", None, ""]),
        (pa.array(["a", None], pa.string_view()), ["a", None]),
        (pa.array(["a", "a"]).dictionary_encode(), ["a", "a"]),
        (
            pa.array([["s1", "s2"], [], None, ["s1", None]]),
            ["s1\ns2", "", None, None],
        ),  # steps; a lost step is a lost text
        (pa.array([{"role": "assistant", "content": "a"}, None]), ["a", None]),
        (pa.array([CHAT, [], None, CHAT[:1]]), ["a\nb", None, None, None]),  # nobody answered: no response
        (pa.array([SHAREGPT]), ["a"]),
        (pa.array([[{"role": "assistant", "content": [{"type": "text", "text": "a"}]}]]), ["a"]),  # content in parts
        (pa.array([None, None]), [None, None]),
        (pa.array([], pa.string()), []),
    ],
)
def test_every_form_of_a_response_is_read_as_text(column: pa.Array, expected: list[str | None]) -> None:
    for rows in (column, pa.concat_arrays([column[:0], column]), pa.concat_arrays([column, column])[len(column) :]):
        view = flatten(table(response=rows), Roles(response="response"))
        assert view.column("response").to_pylist() == expected
        assert view.column("response").type == pa.large_string()
    nested = pa.ListArray.from_arrays(pa.array([0, len(column)], pa.int32()), column)
    assert flatten(table(r=nested), Roles(responses="r")).column("response").to_pylist() == expected


def test_json_text_is_read_as_what_it_says() -> None:
    flat = flatten(json_table("response", ["a", ["s1", "s2"], CHAT, None, 4, True]), Roles(response="response"))
    assert flat.column("response").to_pylist() == ["a", "s1\ns2", "a\nb", None, "4", "true"]
    nested = flatten(json_table("r", [["a", CHAT], None, []]), Roles(responses="r"))
    assert nested.column("response").to_pylist() == ["a", "a\nb"]
    assert nested.nest(pa.array([1, 2])).to_pylist() == [[1, 2], None, []]
    prompts = flatten(json_table("prompt", ["q", SHAREGPT, None]), Roles(prompt="prompt")).column("prompt").to_pylist()
    assert prompts[0] == [{"role": "user", "content": "q"}]
    assert [message["role"] for message in prompts[1]] == ["user", "assistant"]
    assert prompts[2] is None
    references = flatten(json_table("gold", [4, 0.5, 4.0, True, "x", {"a": 1}, None]), Roles(reference="gold"))
    assert references.column("reference").to_pylist() == ["4", "0.5", "4", "true", "x", '{"a":1}', None]
    with pytest.raises(UserError, match="not a list of candidates"):
        flatten(json_table("r", ["a"]), Roles(responses="r"))


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["q", None, ""]), [[("user", "q")], None, [("user", "")]]),
        (pa.array([CHAT[:2], [], None]), [[("user", "q"), ("assistant", "a")], [], None]),
        (pa.array([SHAREGPT]), [[("user", "q"), ("assistant", "a")]]),
        (pa.array([{"role": "system", "content": "q"}]), [[("system", "q")]]),
        (pa.array([None]), [None]),
    ],
)
def test_a_prompt_is_messages(column: pa.Array, expected: list[list[tuple[str, str]] | None]) -> None:
    padded = pa.concat_arrays([column, column])[len(column) :]
    given_messages = flatten(table(p=padded), Roles(prompt="p")).column("prompt").to_pylist()
    shown = [m if m is None else [(one["role"], one["content"]) for one in m] for m in given_messages]
    assert shown == expected


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["a", None]), ["a", None]),
        (pa.array([4, 2**60 + 1]), ["4", "1152921504606846977"]),  # no detour over floats
        (pa.array([4.0, 0.5]), ["4", "0.5"]),
        (pa.array([4.0, float("nan"), None]), ["4", None, None]),  # NaN is no number to compare with
        (pa.array([True, None]), ["true", None]),
    ],
)
def test_a_reference_is_text(column: pa.Array, expected: list[str | None]) -> None:
    assert flatten(table(r=column), Roles(reference="r")).column("reference").to_pylist() == expected


def test_a_list_of_references_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be compared"):
        flatten(table(r=pa.array([["a"]])), Roles(reference="r")).column("reference")


def test_nested_rows_keep_null_apart_from_empty() -> None:
    lists = pa.array([["skipped"], ["a", None], None, [], ["b"]])[1:]  # a slice: .values would start too early
    rows = table(r=lists, gold=pa.array(["x", "y", "z", None]), n=pa.array([1, 2, 3, 4]))
    view = flatten(rows, Roles(responses="r", reference="gold", extra={"level": "n"}))
    assert view.offsets is not None
    assert view.offsets.dtype == np.int64
    assert view.offsets.tolist() == [0, 2, 2, 2, 3]
    assert view.num_candidates == 3
    assert view.column("response").to_pylist() == ["a", None, "b"]
    assert view.column("reference").to_pylist() == ["x", "x", None]
    assert view.column("level").to_pylist() == view.column("n").to_pylist() == [1, 1, 4]
    assert view.nest(view.column("response")).to_pylist() == lists.to_pylist()
    assert view.column("response") is view.column("response")  # computed once


def test_columns_can_be_the_candidates() -> None:
    rows = table(a=pa.array([["s1", "s2"], None]), b=pa.array(["x", "y"]), gold=pa.array(["1", "2"]))
    view = flatten(rows, Roles(responses=("a", "b"), reference="gold"))
    assert view.column("response").to_pylist() == ["s1\ns2", "x", None, "y"]
    assert view.column("reference").to_pylist() == ["1", "1", "2", "2"]
    assert view.nest(pa.array([1, 2, 3, 4])).to_pylist() == [[1, 2], [3, 4]]


def test_other_json_is_text_whatever_a_batch_holds() -> None:
    values: list[object] = ["a", 4, [1, "b"], None]
    view = flatten(json_table("level", values, response=pa.array(["x"] * 4)), Roles(response="response"))
    assert view.column("level").to_pylist() == ["a", "4", '[1,"b"]', None]


def test_values_per_candidate_are_not_repeated() -> None:
    rows = table(r=pa.array([["a", "b"], None]), response_tokens=pa.array([[1, 2], None]))
    assert flatten(rows, Roles(responses="r")).column("response_tokens").to_pylist() == [1, 2]
    short = table(r=pa.array([["a", "b"]]), response_tokens=pa.array([[1]]))
    with pytest.raises(UserError, match="not as long"):
        flatten(short, Roles(responses="r")).column("response_tokens")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reference", "no column plays the role 'reference'"),
        ("response_tokens", r"no column 'response_tokens'; did you mean 'response'\?"),
    ],
)
def test_a_missing_column_is_named(name: str, message: str) -> None:
    view = flatten(table(response=pa.array(["a"])), Roles(response="response"))
    assert not view.has(name)
    with pytest.raises(UserError, match=message):
        view.column(name)


def test_a_text_is_no_list_of_candidates() -> None:
    with pytest.raises(UserError, match="not a list"):
        flatten(table(r=pa.array(["a"])), Roles(responses="r"))


def test_chunks_do_not_show() -> None:
    chunked = pa.table({"r": pa.chunked_array([[["a"]], [], [None, ["b", "c"]]], pa.list_(pa.string()))})
    assert flatten(chunked, Roles(responses="r")).column("response").to_pylist() == ["a", "b", "c"]
    empty = pa.table({"r": pa.chunked_array([], pa.list_(pa.string()))})
    view = flatten(empty, Roles(responses="r"))
    assert view.num_candidates == 0
    assert view.nest(pa.array([], pa.float64())).to_pylist() == []


@given(st.lists(st.none() | st.lists(st.none() | st.text(max_size=3), max_size=4), max_size=6), st.integers(0, 3))
def test_nesting_undoes_flattening(lists: list[list[str | None] | None], skip: int) -> None:
    column = pa.array(lists, pa.list_(pa.string()))[skip:]
    view = flatten(table(r=column), Roles(responses="r"))
    assert view.nest(view.column("response")).to_pylist() == column.to_pylist()
