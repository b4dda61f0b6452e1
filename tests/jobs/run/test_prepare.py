"""A job fit_job to an input's schema: roles, what is read and written, and the mistakes that only a schema shows."""

from typing import Any

import pyarrow as pa
import pytest

from connectors.errors import UserError
from jobs.config.job_types import parse_job
from jobs.run.prepare import Prepared
from rmbatch.rows.roles import Roles
from tests.jobs.running import fit_job

TEXT = pa.string()
MESSAGES = pa.list_(pa.struct([("role", TEXT), ("content", TEXT)]))

NESTED = pa.schema([
    ("uid", TEXT),
    ("messages", MESSAGES),
    ("candidates", pa.list_(TEXT)),
    ("answer", TEXT),
    ("difficulty", pa.int64()),
    ("raw", pa.binary()),
])  # fmt: skip
FLAT = pa.schema([
    ("uid", TEXT),
    ("prompt_id", pa.int64()),
    ("question", TEXT),
    ("completion", TEXT),
    ("ground_truth", TEXT),
    ("raw", pa.binary()),
])  # fmt: skip


def prepared(schema: pa.Schema, kind: str = "score", **changes: Any) -> Prepared:
    """A job with one reward, some of its keys replaced, fit_job to the schema; nothing is read or written."""
    job = {"job": kind, "input": {}, "rewards": {"exact": "accuracy"}, "output": {}} | changes
    job["input"] = {"path": "in"} | job["input"]
    job["output"] = {"path": "out"} | job["output"]
    return fit_job(parse_job(job, "JOB"), schema)


def told(schema: pa.Schema, kind: str = "score", **changes: Any) -> str:
    """The message about a job that does not fit the schema: always one line."""
    with pytest.raises(UserError) as mistake:
        prepared(schema, kind, **changes)
    message = str(mistake.value)
    assert "\n" not in message
    return message


# --- roles ------------------------------------------------------------------------------------------------------------


def test_roles_are_guessed() -> None:
    nested = prepared(NESTED, "best_of_n")
    assert nested.roles == Roles(id="uid", prompt="messages", responses="candidates", reference="answer")
    flat = prepared(FLAT)
    assert flat.roles == Roles(
        id="uid", prompt="question", response="completion", reference="ground_truth", group="prompt_id"
    )
    assert (nested.group, flat.group) == (None, None)  # a guess groups nothing: input.group does


def test_roles_are_given() -> None:
    schema = pa.schema([("a", TEXT), ("b", TEXT), ("gold", TEXT), ("answer", TEXT)])
    several = prepared(schema, "best_of_n", input={"columns": {"responses": ["a", "b"], "reference": "answer"}})
    assert several.roles.responses == ("a", "b")
    assert several.roles.reference == "answer"


def test_missing_role_names_columns() -> None:
    said = pa.schema([("response", TEXT), ("truth", TEXT)])
    message = "reward 'exact' reads 'reference', and no column plays that role; set input.columns.reference to one of: "
    assert told(said) == message + "response, truth"
    alone = pa.schema([("text", TEXT), ("answer", TEXT)])  # the answer is what was said, so it cannot be the truth
    assert told(alone, input={"columns": {"response": "answer"}}) == message + "text, answer"


def test_role_can_be_taken_away() -> None:
    message = told(FLAT, input={"columns": {"reference": None}})
    assert message.startswith("reward 'exact' reads 'reference', and no column plays that role")


def test_input_without_responses_is_refused() -> None:
    message = (
        "reward 'exact' reads 'response', and no column plays that role; set input.columns.response to one of: text"
    )
    assert told(pa.schema([("text", TEXT)]), rewards={"exact": "length_penalty"}) == message


def test_unknown_column_names_nearest() -> None:
    message = told(NESTED, "best_of_n", input={"columns": {"reference": "anwser"}})
    assert message == "columns: reference: no column 'anwser'; did you mean 'answer'?"
    message = told(NESTED, "best_of_n", input={"columns": {"promt": "mesages"}})
    assert "no column 'mesages'; did you mean 'messages'?" in message
    assert "'promt' is no role either" in message


# --- what is read and written -----------------------------------------------------------------------------------------


def test_all_columns_are_written_by_default() -> None:
    job = prepared(NESTED, "best_of_n")
    added = ["score.exact", "error.exact", "select.rank", "select.reason", "select.response", "select.score"]
    assert job.read_columns == NESTED.names
    assert job.output_schema.names == [*NESTED.names, *added]
    for field in NESTED:
        assert job.output_schema.field(field.name).equals(field)


def test_only_needed_columns_are_read() -> None:
    job = prepared(NESTED, "best_of_n", output={"columns": ["difficulty", "uid"]})
    assert job.read_columns == ["uid", "candidates", "answer", "difficulty"]  # in the order of the input
    assert job.output_schema.names[:3] == ["difficulty", "uid", "score.exact"]  # in the order that was asked for
    assert "candidates" not in job.output_schema.names


def test_output_may_leave_out_all_input_columns() -> None:
    job = prepared(FLAT, output={"columns": []})
    assert job.read_columns == ["completion", "ground_truth"]
    assert job.output_schema.names == ["score.exact", "error.exact"]


def test_column_of_role_is_read() -> None:
    rewards = {"length": {"reward": "length_penalty"}}
    job = prepared(FLAT, rewards=rewards, input={"columns": {"response": "question"}}, output={"columns": []})
    assert job.read_columns == ["question"]


def test_group_key_is_read() -> None:
    job = prepared(FLAT, "best_of_n", input={"group": {"by": "prompt_id"}}, output={"columns": []})
    assert job.group == "prompt_id"
    assert job.read_columns == ["prompt_id", "completion", "ground_truth"]


def test_unknown_output_column_is_refused() -> None:
    message = told(NESTED, "best_of_n", output={"columns": ["uid", "anser"]})
    assert message == "output.columns names 'anser', which the input does not have; did you mean 'answer'?"
    message = told(FLAT, output={"columns": ["zzz"]})
    assert message.endswith(f"which the input does not have; known: {', '.join(sorted(FLAT.names))}.")


def test_types_of_flat_and_nested_scores() -> None:
    rewards = {"form": "reasoning_format"}
    flat, nested = prepared(FLAT, rewards=rewards).output_schema, prepared(NESTED, rewards=rewards).output_schema
    for name, kind in {"score.form": pa.float64(), "error.form": TEXT, "reason.form": TEXT}.items():
        assert flat.field(name).type == kind
        assert nested.field(name).type == pa.list_(kind)


def test_total_has_no_reason() -> None:
    job = prepared(FLAT, rewards={"a": "reasoning_format", "b": "accuracy"}, combine={"a": 1, "b": 2})
    assert job.output_schema.names[len(FLAT) :] == [
        *("score.a", "error.a", "reason.a", "score.b", "error.b", "score.total", "error.total"),
    ]


# --- clashes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["score.exact", "error.exact"])
def test_existing_score_is_refused(column: str) -> None:
    schema = FLAT.append(pa.field(column, pa.float64()))
    message = f"the input has a column {column!r} already; give the reward another name"
    assert told(schema) == message
    assert prepared(schema, rewards={"exact2": "accuracy"}).read_columns == schema.names
    assert told(schema, output={"columns": []}) == message  # even where it is not carried over


def test_existing_reason_is_refused_only_if_reward_gives_reasons() -> None:
    schema = FLAT.append(pa.field("reason.exact", TEXT))
    assert "reason.exact" in prepared(schema).output_schema.names
    assert told(schema, rewards={"exact": "reasoning_format"}).startswith("the input has a column 'reason.exact'")


@pytest.mark.parametrize("column", ["select.rank", "select.reason", "select.response", "select.score"])
def test_existing_choice_is_refused(column: str) -> None:
    schema = NESTED.append(pa.field(column, TEXT))
    assert told(schema, "best_of_n") == f"the input has a column {column!r} already; rename it"
    assert column in prepared(schema).output_schema.names  # a score job chooses nothing


# --- groups -----------------------------------------------------------------------------------------------------------


def test_flat_rows_need_group_to_choose_within() -> None:
    assert told(FLAT, "best_of_n") == (
        "the input has one response per row; name the column that tells which rows answer the same prompt "
        "(perhaps 'prompt_id'): input.group: {by: COLUMN}"
    )
    schema = FLAT.remove(FLAT.get_field_index("prompt_id"))
    assert "(perhaps" not in told(schema, "best_of_n")


def test_unknown_group_key_is_refused() -> None:
    message = told(FLAT, "best_of_n", input={"group": {"by": "prompt"}})
    assert (
        message
        == "input.group.by names 'prompt', which the input does not have; did you mean 'prompt_id' or 'completion'?"
    )


def test_nested_rows_need_no_group() -> None:
    assert prepared(NESTED, "best_of_n").group is None
    message = told(NESTED, "best_of_n", input={"group": {"by": "uid"}})
    assert message.startswith("input.group.by is for rows of one response each, and these hold lists in 'candidates'")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (pa.list_(TEXT), "reference: a column of type large_list<item: large_string> cannot be compared with as text"),
        (pa.struct([("a", TEXT)]), "reference: a column of type struct<a: large_string> cannot be compared with"),
    ],
)
def test_wrong_column_type_is_refused(kind: pa.DataType, message: str) -> None:
    schema = pa.schema([("response", TEXT), ("gold", kind)])
    assert told(schema, input={"columns": {"reference": "gold"}}).startswith(message)
    numbers = pa.schema([("response", pa.int64()), ("reference", TEXT)])
    assert "no text" in told(numbers, input={"columns": {"response": "response"}})


@pytest.mark.parametrize("rows", ["scattered", "adjacent"])
def test_flat_and_nested_rows_add_same_scores(rows: str) -> None:
    flat = prepared(FLAT, "best_of_n", input={"group": {"by": "prompt_id", "rows": rows}})
    added = [name for name in flat.output_schema.names if name not in FLAT.names]
    assert added == ["score.exact", "error.exact", "select.rank", "select.reason"]  # a flat row is its own response


# --- rewards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": {"a": "acuracy"}}, "no reward 'acuracy': did you mean 'accuracy'"),
        (
            {"rewards": {"a": {"reward": "f1_score", "tokeniser": "words"}}},
            "reward 'f1_score': tokeniser: unknown knob; did you mean 'tokenizer'",
        ),
        (
            {"rewards": {"a": {"reward": "f1_score", "tokenizer": "wrds"}}},
            "reward 'f1_score': tokenizer: got 'wrds'; write 'words', 'jieba' or 'tiktoken'",
        ),
        (
            {"rewards": {"exact": "accuracy"}, "combine": {"exat": 1}},
            "combine.exat: no reward has this name; did you mean 'exact'?",
        ),
    ],
)
def test_mistake_in_rewards_is_refused(changes: dict[str, Any], message: str) -> None:
    assert message in told(FLAT, **changes)
