"""Formats on made-up rows: whatever the rows hold, nothing forbidden comes out."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.errors import UserError
from rmbatch.exports.base import FORMATS, Block, ExportRule, Origin, load_export
from rmbatch.exports.conversations import alternates, append_answers, to_plain
from rmbatch.rows.messages import MESSAGES
from rmbatch.rows.roles import Roles

RULE = ExportRule(pairs="all_above_margin", above=0.75, below=0.25)
OF_CANDIDATES = sorted({*FORMATS} - {"verl", "critique", "edit"})
ROLES = Roles(id="id", prompt="prompt", responses="responses", reference="reference")
DETAILS = pa.struct([("error", pa.string()), ("finish_reason", pa.string())])

CONTENT = st.sampled_from([None, "hello", "say more"])
PROMPT = st.one_of(
    st.none(),
    st.lists(st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": CONTENT})),
)
CANDIDATE = st.fixed_dictionaries(
    {
        "text": st.sampled_from([None, "", "  ", "good", "bad", "fine", "A WHOLE REFERENCE", " A WHOLE REFERENCE\n"]),
        "score": st.sampled_from([None, float("nan"), 0.0, 0.5, 1.0]),
        "error": st.sampled_from([None, None, "cut_off: at its end", "endpoint_timeout: late"]),
        "finish_reason": st.sampled_from([None, "stop", "length"]),
        "rank": st.sampled_from([None, 1]),
    }
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.sampled_from([None, "x"]),
            "prompt": PROMPT,
            "reference": st.sampled_from([None, "A WHOLE REFERENCE"]),
            "candidates": st.one_of(st.none(), st.lists(CANDIDATE, max_size=4)),
        }
    ),
    max_size=4,
)


def make_block(rows: list[dict[str, Any]], *, with_rank: bool = True) -> Block:
    def lists(name: str) -> list[Any]:
        return [row["candidates"] and [each[name] for each in row["candidates"]] for row in rows]

    details = [
        row["candidates"] and [{k: c[k] for k in ("error", "finish_reason")} for c in row["candidates"]] for row in rows
    ]
    columns = {
        "id": pa.array([row["id"] for row in rows], pa.string()),
        "prompt": pa.array([row["prompt"] for row in rows], MESSAGES),
        "reference": pa.array([row["reference"] for row in rows], pa.string()),
        "responses": pa.array(lists("text"), pa.list_(pa.string())),
        "generation": pa.array(details, pa.list_(DETAILS)),
        "score.total": pa.array(lists("score"), pa.list_(pa.float64())),
    }
    if with_rank:
        columns["select.rank"] = pa.array(lists("rank"), pa.list_(pa.int32()))
    sources = pa.array([f"data/a.parquet#{number}" for number in range(len(rows))], pa.string())
    return Block(pa.table(columns), ROLES, "score.total", sources, Origin("f" * 16))


@pytest.mark.parametrize("name", ["dpo", "reward", "kto", "listwise"])
def test_what_a_veto_left_out_is_no_good_example(name: str) -> None:
    """Three answers, the best of them unsafe, and one that is unsafe and bad."""
    given = [("unsafe", 1.0, None, "veto"), ("good", 0.9, 1, None), ("bad", 0.2, None, "outranked")]
    given.append(("unsafe too", 0.1, None, "veto"))
    candidates = [
        {"text": text, "score": score, "rank": rank, "reason": why, "error": None, "finish_reason": "stop"}
        for text, score, rank, why in given
    ]
    row = {"id": "x", "prompt": [{"role": "user", "content": "hello"}], "reference": None, "candidates": candidates}
    block = make_block([row])
    reason = pa.array([[why for *_, why in given]], pa.list_(pa.string()))
    block = replace(block, table=block.table.append_column("select.reason", reason))
    rule = ExportRule(above=0.5, below=0.3) if name == "kto" else ExportRule()
    written = load_export(name).rows(block, rule).table.to_pylist()
    if name == "listwise":
        assert [each["completions"] for each in written] == [["good", "bad", "unsafe too"]]
    elif name == "kto":
        said = [(each["completion"][0]["content"], each["label"]) for each in written]
        assert said == [("good", True), ("bad", False), ("unsafe too", False)]
    else:
        said = [(each["chosen"][0]["content"], each["rejected"][0]["content"]) for each in written]
        assert said == [("good", "unsafe too")]


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from leaves(each)
    else:
        yield value


@given(ROWS, st.sampled_from(OF_CANDIDATES), st.booleans())
def test_no_null_cut_off_or_reference_comes_out(rows: list[dict[str, Any]], name: str, with_rank: bool) -> None:
    made = load_export(name).rows(make_block(rows, with_rank=with_rank), RULE)
    written = to_plain(made.table).to_pylist()
    assert not [value for value in leaves(written) if value is None or value != value]
    for row in written:
        lineage = row["lineage"]
        source = rows[int(lineage["source"].partition("#")[2])]
        places = [lineage["candidate"], *([lineage["rejected_candidate"]] if "rejected_candidate" in lineage else [])]
        assert lineage["candidates"] == len(source["candidates"])
        for place in places:
            candidate = source["candidates"][place]
            assert candidate["text"].strip() not in ("", source["reference"])
            assert candidate["error"] is None
            assert candidate["finish_reason"] != "length"
            assert candidate["text"] in leaves(row)


@pytest.mark.parametrize("name", ["critique", "edit"])
def test_an_edit_that_is_the_reference_does_not_come_out(name: str) -> None:
    def tried(number: int, text: str, decision: str) -> dict[str, Any]:
        return {
            "round": number,
            "critique": "Mend it.",
            "edits": [{"text": text, "score": number, "decision": decision}],
        }

    texts = [["bad", "fine", "A WHOLE REFERENCE", "good"], ["bad", "fine", "good"]]
    history = [[tried(n, text, "accepted" if n else "first") for n, text in enumerate(each)] for each in texts]
    table = pa.table(
        {
            "prompt": pa.array([[{"role": "user", "content": "hello"}]] * 2, MESSAGES),
            "reference": ["A WHOLE REFERENCE"] * 2,
            "response": ["bad"] * 2,
            "correct.response": ["good"] * 2,
            "correct.outcome": ["improved"] * 2,
            "correct.score_before": [0.0] * 2,
            "correct.score": [3.0, 2.0],
            "correct.history": history,
        }
    )
    roles = Roles(prompt="prompt", response="response", reference="reference")
    made = load_export(name).rows(Block(table, roles, None, pa.array(["a#0", "a#1"]), Origin("f" * 16)), ExportRule())
    assert [(row["lineage"]["source"], row["response"]) for row in made.table.to_pylist()] == [
        ("a#0", "bad"),
        ("a#1", "bad"),
        ("a#1", "fine"),
    ]
    assert "A WHOLE REFERENCE" not in leaves(made.table.to_pylist())


@given(ROWS, st.sampled_from(OF_CANDIDATES))
def test_each_prompt_gives_a_row_or_a_reason(rows: list[dict[str, Any]], name: str) -> None:
    made = load_export(name).rows(make_block(rows), RULE)
    left_out = made.left_out.copy()
    dropped_pairs = left_out.pop("not_alternating", 0)
    sources = {row["source"] for row in made.table["lineage"].to_pylist()}
    if not dropped_pairs:
        assert len(sources) + left_out.total() == len(rows)
    assert {*made.left_out} <= {*load_export(name).reasons}


@pytest.mark.parametrize("name", FORMATS)
def test_types_do_not_depend_on_rows(name: str) -> None:
    """The files of an export share one schema, so a block without rows has the types of one with rows."""
    if name in ("critique", "edit"):
        return
    rows = [
        {
            "id": "x",
            "prompt": [{"role": "user", "content": "hello"}],
            "reference": "A WHOLE REFERENCE",
            "candidates": [
                {"text": text, "score": score, "error": None, "finish_reason": "stop", "rank": rank}
                for text, score, rank in (("good", 1.0, 1), ("bad", 0.0, None))
            ],
        }
    ]
    export = load_export(name)
    full, empty = (export.rows(make_block(each), RULE).table for each in (rows, []))
    assert full.num_rows > 0
    assert empty.num_rows == 0
    assert to_plain(full).schema == to_plain(empty).schema


def test_unknown_format_names_the_nearest() -> None:
    with pytest.raises(UserError, match="dpo_openrlhf"):
        load_export("dpo_openrlfh")


CONVERSATIONS = [
    (["user"], True),
    (["system", "user"], True),
    (["user", "assistant", "user"], True),
    (["system", "user", "assistant", "user"], True),
    ([], False),
    (["system"], False),
    (["user", "assistant"], False),  # it ends with the assistant
    (["user", "user", "user"], False),
    (["assistant", "user"], False),
    (["user", "system", "user"], False),
    (["system", "system", "user"], False),
]


def test_conversations_that_alternate() -> None:
    prompts = pa.array([[{"role": role, "content": "x"} for role in roles] for roles, _ in CONVERSATIONS], MESSAGES)
    assert alternates(prompts).tolist() == [expected for _, expected in CONVERSATIONS]
    assert alternates(prompts.slice(2, 0)).tolist() == []


@given(st.lists(st.tuples(st.lists(st.sampled_from("ab"), max_size=3), st.sampled_from("xy"))))
def test_answers_stand_behind_their_prompts(rows: list[tuple[list[str], str]]) -> None:
    prompts = [[{"role": "user", "content": text} for text in prompt] for prompt, _ in rows]
    answers = pa.array([answer for _, answer in rows], pa.large_string())
    found = append_answers(pa.array(prompts, MESSAGES), answers).to_pylist()
    assert found == [[*prompt, {"role": "assistant", "content": answer}] for prompt, (_, answer) in zip(prompts, rows)]


def test_rows_that_were_sliced_are_read_right() -> None:
    """A slice of a table has offsets that do not begin at 0."""
    rows = [
        {
            "id": str(number),
            "prompt": [{"role": "user", "content": f"q{number}"}],
            "reference": None,
            "candidates": [
                {"text": f"{text}{number}", "score": score, "error": None, "finish_reason": None, "rank": None}
                for text, score in (("good", 1.0), ("bad", 0.0))
            ],
        }
        for number in range(4)
    ]
    whole = make_block(rows, with_rank=False)
    part = Block(whole.table.slice(2, 2), ROLES, "score.total", whole.sources.slice(2, 2), Origin("f" * 16))
    made = load_export("dpo").rows(part, ExportRule()).table.to_pylist()
    assert [
        (row["prompt"][0]["content"], row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in made
    ] == [
        ("q2", "good2", "bad2"),
        ("q3", "good3", "bad3"),
    ]
    assert np.array_equal([row["lineage"]["id"] for row in made], ["2", "3"])


def test_the_value_that_a_job_chose_by_may_be_any_column() -> None:
    candidates = [{"text": text, "error": None, "finish_reason": None, "rank": None, "score": None} for text in "ab"]
    prompt = [{"role": "user", "content": "q"}]
    block = make_block([{"id": "x", "prompt": prompt, "reference": None, "candidates": candidates}], with_rank=False)
    table = block.table.append_column("select.value", pa.array([[0.25, 0.5]]))
    made = (
        load_export("reward")
        .rows(Block(table, ROLES, "select.value", block.sources, Origin("f" * 16)), ExportRule())
        .table
    )
    assert made["margin"].to_pylist() == [0.25]
    assert made["lineage"].to_pylist()[0]["score_name"] == "select.value"
