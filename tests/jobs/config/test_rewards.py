"""Rewards made of rewards in a job file: what each form builds, that it reads back as itself, its mistakes."""

import pyarrow as pa
import pytest
import yaml

from connectors.errors import UserError
from jobs.config.identity import job_identity
from jobs.config.job_types import parse_job
from tests.jobs.running import fit_job

SCHEMA = pa.schema([("response", pa.string()), ("reference", pa.string()), ("source", pa.string())])

GATE = "{x: {gate: {require: {reward: length_penalty, min_length: 2}, then: accuracy, min_score: 0}}}"
CASES = "{x: {route: {to: {maths: {when: {column: source, equals: gsm8k}, then: accuracy}}, default: f1_score}}}"
ROUTE = "{x: {route: {by: source, to: {gsm8k: accuracy, chat: {gate: {require: reasoning_format, then: f1_score}}}}}}"
CASCADE = "{x: {cascade: {parts: {words: f1_score, exact: accuracy}, bands: {words: [0.2, 0.8]}}}}"
SUM = "{x: {sum: {parts: {exact: accuracy, words: f1_score}, weights: {exact: 1.0, words: 0.5, on_null: null}}}}"


def job(rewards: str) -> dict[str, object]:
    return {"job": "score", "input": {"path": "in"}, "output": {"path": "out"}, "rewards": yaml.safe_load(rewards)}


@pytest.mark.parametrize(
    ("rewards", "rows", "expected", "scores"),
    [
        (GATE, [("44", "44", "m"), ("4", "4", "m")], [1.0, 0.0], ["", "require", "then"]),
        (CASES, [("a b", "a", "gsm8k"), ("a b", "a", None)], [0.0, 2 / 3], ["", "maths", "default"]),
        (
            ROUTE,
            [("4", "4", "gsm8k"), ("4", "4", "chat"), ("4", "4", "other")],
            [1.0, 0.0, None],
            ["", "gsm8k", "chat", "chat.require", "chat.then"],
        ),
        (CASCADE, [("a b", "a", "m"), ("a", "a", "m"), ("b", "a", "m")], [0.0, 1.0, 0.0], ["", "words", "exact"]),
        (SUM, [("a b", "a", "m"), ("a", None, "m")], [1 / 3, None], ["", "exact", "words"]),
    ],
)
def test_composition_in_job_file_scores(
    rewards: str, rows: list[tuple[str, ...]], expected: list[object], scores: list[str]
):
    parsed = parse_job(job(rewards), "JOB")
    assert parse_job(parsed.model_dump(mode="json"), "JOB") == parsed
    assert job_identity(parsed)["rewards"]
    stage = fit_job(parsed, SCHEMA).stages[0]
    table = pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], schema=SCHEMA)
    scored = stage(table)
    assert scored["score.x"].to_pylist() == pytest.approx(expected)
    assert scored.schema.equals(stage.output_schema(SCHEMA))
    assert [name for name in scored.column_names if name.startswith("score.")] == [
        f"score.x.{end}" if end else "score.x" for end in scores
    ]


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (
            "{x: {gate: {require: accuracy, the: accuracy}}}",
            "JOB: rewards.x.gate.the: unknown key; did you mean 'then'",
        ),
        (
            "{x: {gate: {require: {rewad: accuracy}, then: accuracy}}}",
            "JOB: rewards.x.gate.require: write which reward it is, like {reward: f1_score}, {model: FOLDER} or",
        ),
        (
            "{x: {gate: {require: {reward: base_honesty_pointwise, scal: 1}, then: accuracy}}}",
            "JOB: rewards.x.gate.require.scal: unknown key; did you mean 'scale'?",
        ),
        ("{x: {judge: pairwise, model: m}}", "JOB: rewards.x: write endpoint: URL of a server, or serve: a model"),
        ("{x: {reward: [accuracy]}}", "JOB: rewards.x.reward: got ['accuracy']; write text in quotes"),
        (
            "{x: {route: {to: {a: 3}}}}",
            "rewards.x.route.to.a: got 3; write keys and values: when, then or which reward it",
        ),
        ("{x: {gate: {require: acuracy, then: accuracy}}}", "no reward 'acuracy': did you mean 'accuracy'"),
        ("{x: {reward: f1_score, gate: {}}}", "and not several of them (gate, reward)"),
        (
            "{x: {sum: {parts: {exact: accuracy}, weights: {exat: 1.0}}}}",
            "combine.exat: no reward has this name; did you mean 'exact'?",
        ),
        (
            "{x: {route: {to: {maths: accuracy}}}}",
            "JOB: rewards.x.route: to.maths: write {when: {column: ...}, then: ...}, or name a column in by",
        ),
        ("{x: {route: {by: sorce, to: {maths: accuracy}}}}", "reward 'x' reads 'sorce', and no column plays that role"),
        (
            "{x: {route: {to: {maths: {when: {column: source, equal: 1}, then: accuracy}}}}}",
            "JOB: rewards.x.route.to.maths.when.equal: unknown key; did you mean 'equals'?",
        ),
        ("{x: {cascade: {parts: {a: accuracy, b: accuracy}, bands: {b: [0, 1]}}}}", "a band for each but the last"),
        ("{x: {cascade: {parts: {a: accuracy}, bands: {a: 0.2}}}}", "rewards.x.cascade.bands.a: got 0.2; write a list"),
        ("{x: {reward: }}", "JOB: rewards.x: write which reward it is, like {reward: f1_score}"),
        ("{x: {sum: null}}", "JOB: rewards.x: write which reward it is, like {reward: f1_score}"),
        ("{x: {route: {to: {a: {when: {equals: b}, then: accuracy}}}}}", "rewards.x.route.to.a.when.column: missing"),
        (
            "{x: {gate: {require: accuracy, then: accuracy, otherwise: .nan}}}",
            "otherwise: got nan; write a finite number",
        ),
        ("{x: {sum: {parts: {a.b: accuracy}, weights: {a.b: 1}}}}", "the name 'a.b' becomes part of column names"),
    ],
)
def test_mistake_in_composition_names_its_key(rewards: str, message: str) -> None:
    with pytest.raises(UserError) as mistake:
        fit_job(parse_job(job(rewards), "JOB"), SCHEMA)
    assert message in str(mistake.value)
