"""What a job file may say: each mistake is one line with the key, the value and the cure; what a job is known by."""

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from connectors.errors import UserError
from jobs.best_of_n import BestOfNJob
from jobs.config.identity import differences, job_identity
from jobs.config.job_types import parse_job
from jobs.score import ScoreJob
from rmbatch.rewards.totals import CombineRule

BEST = """
job: best_of_n
input: {path: in.jsonl}
rewards: {math: {reward: accuracy}}
output: {path: out}
"""


def written(changes: str = "") -> dict[str, Any]:
    """The content of a job file with some keys replaced: ``{select: {keep: 2}}``."""
    content: dict[str, Any] = yaml.safe_load(BEST)
    return content | (yaml.safe_load(changes) or {})


def best(changes: str = "") -> BestOfNJob:
    job = parse_job(written(changes), "JOB")
    assert isinstance(job, BestOfNJob)
    return job


def told(changes: str) -> str:
    """The message about a job that is not accepted: always one line, and it names the job file."""
    with pytest.raises(UserError) as mistake:
        parse_job(written(changes), "JOB")
    message = str(mistake.value)
    assert "\n" not in message
    assert message.startswith("JOB: ")
    return message.removeprefix("JOB: ")


# --- unknown keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("{selct: {keep: 1}}", "selct: unknown key; did you mean 'select'?"),
        ("{select: {kep: 2}}", "select.kep: unknown key; did you mean 'keep'?"),
        (
            "{input: {pth: x}}",
            "input.pth: unknown key; did you mean 'path' or 'split'?",
        ),  # and not that path is missing
        ("{output: {path: o, colums: [a]}}", "output.colums: unknown key; did you mean 'columns'?"),
        ("{run: {unit_md: 3}}", "run.unit_md: unknown key; did you mean 'unit_mb'?"),
        (
            "{input: {path: x, storage: {endpont: http://a}}}",
            "input.storage.endpont: unknown key; did you mean 'endpoint'?",
        ),
        ("{output: {path: o, storage: {profil: a}}}", "output.storage.profil: unknown key; did you mean 'profile'?"),
        ("{input: {path: x, group: {bye: uid}}}", "input.group.bye: unknown key; did you mean 'by'?"),
        (
            "{select: {zzz: 1}}",  # nothing is near: all are named
            "select.zzz: unknown key; known: by, cap, cut_off, diversity, duplicates, keep, length_band, "
            "length_control, min_margin, min_percentile, min_score, min_z, near_at, seed, solve_rate, "
            "ties, veto, vote.",
        ),
        (
            "{job: score, select: {keep: 1}}",  # a key of another job
            "select: unknown key; known: combine, generate, input, job, models, output, rewards, run.",
        ),
    ],
)
def test_unknown_key_names_the_nearest(changes: str, message: str) -> None:
    assert told(changes) == message


def test_message_holds_three_mistakes() -> None:
    message = told("{select: {kep: 2, keep: 0, ties: fist, seed: -1}}")
    assert message == (
        "select.keep: got 0; write 1 or more; "
        "JOB: select.ties: got 'fist'; write 'hash', 'first', 'shortest', 'all' or 'abstain'; "
        "JOB: select.seed: got -1; write 0 or more"
    )


# --- wrong values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("{job: scor}", "job: 'scor' is no job type; did you mean 'score' or 'correct'?"),
        (
            "{job: null}",
            "job: null is no job type; write one of: score, best_of_n, generate, select, correct, principles, "
            "evaluate, train_rm",
        ),
        ("{job: [score]}", "job: ['score'] is no job type; did you mean 'score' or 'correct'?"),  # a list has no hash
        (
            "{input: null}",
            "input: got null; write keys and values: path, format, as, split, columns, group, types, odd_values, "
            "max_line_mb, max_columns, limit, storage",
        ),
        ("{input: {format: jsonl}}", "input.path: missing; it has no default"),
        ("{input: {path: 3}}", "input.path: got 3; write text in quotes or a list"),
        ("{input: {path: null}}", "input.path: got null; write text in quotes or a list"),
        ("{input: {path: ''}}", "input.path: got ''; write some text or a list"),  # would be the current folder
        ("{input: {path: [a, '']}}", "input.path.1: got ''; write some text"),
        ("{input: {path: [a, 3]}}", "input.path.1: got 3; write text in quotes"),
        ("{input: {path: []}}", "input.path: got []; write text in quotes or at least 1 of them"),
        ("{input: {path: x, format: csv}}", "input.format: got 'csv'; write 'auto', 'parquet' or 'jsonl'"),
        ("{input: {path: x, limit: 0}}", "input.limit: got 0; write 1 or more"),
        ("{input: {path: x, limit: ten}}", "input.limit: got 'ten'; write a whole number"),
        ("{input: {path: x, limit: 1.5}}", "input.limit: got 1.5; write a whole number"),
        ("{input: {path: x, group: uid}}", "input.group: got 'uid'; write keys and values: by, rows"),
        ("{input: {path: x, group: {}}}", "input.group.by: missing; it has no default"),
        (
            "{input: {path: x, group: {by: a, rows: near}}}",
            "input.group.rows: got 'near'; write 'scattered' or 'adjacent'",
        ),
        ("{input: {path: x, columns: {id: 3}}}", "input.columns.id: got 3; write text in quotes or a list"),
        ("{input: {path: x, types: {a: text}}}", "input.types.a: got 'text'; write 'json'"),
        ("{output: {path: ''}}", "output.path: got ''; write some text"),
        ("{output: {path: o, columns: a}}", "output.columns: got 'a'; write a list"),
        ("{output: {path: o, file_mb: 5000}}", "output.file_mb: got 5000; write 4096 or less"),
        ("{output: {path: o, rejected: yes}}", "output.rejected: got true; write 'keep' or 'drop'"),  # YAML's yes
        (
            "{output: {path: o, format: jsonl, compression: snappy}}",
            "output: jsonl is not compressed with snappy; set output.compression to one of: none, zstd, gzip",
        ),
        ("{select: {keep: two}}", "select.keep: got 'two'; write a whole number"),
        ("{select: {min_score: .nan}}", "select.min_score: got nan; write a finite number"),
        ("{select: {min_score: low}}", "select.min_score: got 'low'; write a number"),
        (
            "{select: {keep: null}}",
            "select: keep: null without min_score would keep everything: write keep: 1, or give min_score",
        ),
        ("{run: {max_null_share: 30%}}", "run.max_null_share: got '30%'; write a number"),
        ("{run: {max_null_share: 1.5}}", "run.max_null_share: got 1.5; write 1.0 or less"),
        ("{run: {on_error: ignore}}", "run.on_error: got 'ignore'; write 'stop' or 'null'"),
        ("{rewards: {}}", "rewards: got {}; write at least 1 of them"),
        ("{rewards: [math]}", "rewards: got ['math']; write keys and values"),
        (
            "{rewards: {math: 3}}",
            "rewards.math: write which reward it is, like {reward: f1_score}, {model: FOLDER} or "
            "{judge: pointwise, ...}; or one of sum, gate, route, cascade",
        ),
        (
            "{rewards: {math: {rewrd: f1}}}",
            "rewards.math: write which reward it is, like {reward: f1_score}, {model: FOLDER} or "
            "{judge: pointwise, ...}; or one of sum, gate, route, cascade",
        ),
        ("{rewards: {math: {reward: 3}}}", "rewards.math.reward: got 3; write text in quotes"),
        (
            "{rewards: {total: {reward: accuracy}}}",
            "rewards: the name 'total' is taken by the weighted sum; name the reward differently",
        ),
        (
            "{rewards: {a.b: {reward: accuracy}}}",
            "rewards.a.b: the name 'a.b' becomes part of column names; use letters, digits, _ and -",
        ),
        ("{combine: 3}", "combine: write reward names and their weights, like {math: 1.0, length: 0.1}; got 3"),
        ("{combine: {math: much}}", "combine: the weight of 'math' must be a finite number; got 'much'"),
        ("{combine: {math: .inf}}", "combine: the weight of 'math' must be a finite number; got inf"),
        ("{combine: {}}", "combine: give at least one reward a weight other than 0, like {math: 1.0}"),
        ("{combine: {math: 0}}", "combine: give at least one reward a weight other than 0, like {math: 1.0}"),
        (
            "{combine: {math: 1, on_null: drop}}",
            "combine.on_null: on_null must be null, renormalise or a finite number; got 'drop'",
        ),
    ],
)
def test_wrong_value_is_named_with_cure(changes: str, message: str) -> None:
    assert told(changes) == message


def test_long_value_is_shortened_in_message() -> None:
    message = told(f"{{select: {{ties: {'x' * 1000}}}}}")
    assert message == f"select.ties: got '{'x' * 78}…; write 'hash', 'first', 'shortest', 'all' or 'abstain'"


# --- what a job comes to ----------------------------------------------------------------------------------------------


def test_defaults() -> None:
    job = best()
    assert (job.input.path, job.input.format, job.input.limit, job.input.group) == ("in.jsonl", "auto", None, None)
    assert (job.output.format, job.output.rejected, job.output.columns) == ("parquet", "keep", None)
    assert (job.select.keep, job.select.ties, job.select.by, job.combine) == (1, "hash", None, None)
    assert (job.run.on_error, job.run.max_null_share) == ("stop", None)


def test_empty_section_is_refused() -> None:
    assert told("{run: }").startswith("run: got null; write keys and values: on, address, cpus, ")


@pytest.mark.parametrize("null", ["null", "'null'", "~", ""])
def test_on_error_null_as_yaml_reads_it(null: str) -> None:
    assert best(f"run: {{on_error: {null}}}").run.on_error == "null"


@pytest.mark.parametrize("compression", ["zstd", "gzip", "none", "null"])
def test_jsonl_compressions(compression: str) -> None:
    best(f"{{output: {{path: o, format: jsonl, compression: {compression}}}}}")


def test_reward_entry_is_name_and_knobs() -> None:
    job = best("{rewards: {a: accuracy, b: {reward: f1_score, tokenizer: words, knobs: 3}}, select: {by: a}}")
    assert job.rewards["a"].model_dump() == {"reward": "accuracy", "knobs": {}}
    assert job.rewards["b"].model_dump() == {"reward": "f1_score", "knobs": {"tokenizer": "words", "knobs": 3}}


def test_two_rewards_need_weights_or_select_by() -> None:
    two = "rewards: {a: accuracy, b: f1_score}"
    assert told(f"{{{two}}}") == (
        "2 rewards, and nothing says which decides: give weights in combine: {a: 1.0, b: 1.0}, or name one in select.by"
    )
    assert best(f"{{{two}, select: {{by: b}}}}").select.by == "b"
    assert best(f"{{{two}, combine: {{a: 1}}}}").combine is not None
    assert isinstance(parse_job(written(f"{{{two}, job: score}}"), "JOB"), ScoreJob)  # nothing is chosen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("{select: {by: mth}}", "select.by: no score is called 'mth'; did you mean 'math'?"),
        ("{select: {by: total}}", "select.by: no score is called 'total'; known: math."),  # without combine
        (
            "{select: {by: lenght}, combine: {math: 1}}",
            "select.by: no score is called 'lenght'; known: math, total.",
        ),
    ],
)
def test_select_by_unknown_score_is_refused(changes: str, message: str) -> None:
    assert told(changes) == message


@pytest.mark.parametrize(
    ("combine", "weights", "on_null"),
    [
        ("{a: 1, b: 0.1}", {"a": 1.0, "b": 0.1}, None),
        ("{a: 1, b: -1, on_null: null}", {"a": 1.0, "b": -1.0}, None),
        ("{a: 1, on_null: renormalise}", {"a": 1.0}, "renormalise"),
        ("{a: 1, on_null: 0}", {"a": 1.0}, 0.0),
        ("{a: 1, on_null: -0.5}", {"a": 1.0}, -0.5),
        ("{a: 1e-3}", {"a": 0.001}, None),  # YAML 1.1 reads 1e-3 as text
        ("{weights: 1}", {"weights": 1.0}, None),  # a reward may be called so
    ],
)
def test_combine(combine: str, weights: dict[str, float], on_null: Any) -> None:
    rule = best(f"{{rewards: {{a: accuracy, b: accuracy, weights: accuracy}}, combine: {combine}}}").combine
    assert rule == CombineRule.model_validate({"weights": weights, "on_null": on_null})


# --- what a job is known by -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        *("{run: {cpus: 3}}", "{run: {address: auto}}", "{run: {unit_mb: 1}}", "{run: {block_rows: 7}}"),
        *("{run: {max_null_share: 0.5}}", "{run: {on_error: null}}"),  # a job that stopped goes on with them
        *("{output: {path: elsewhere}}", "{output: {path: out, storage: {region: eu}}}"),
        "{input: {path: in.jsonl, storage: {endpoint: http://a, profile: p, max_attempts: 2}}}",
        "{rewards: {math: accuracy}}",  # the short form says the same
        "{select: {}}",
        "{input: {path: in.jsonl, limit: null}}",
    ],
)
def test_identity_ignores_how_a_job_runs(changes: str) -> None:
    assert differences(job_identity(best()), job_identity(best(changes))) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ("{input: {path: other.jsonl}}", "input.path: 'in.jsonl' -> 'other.jsonl'"),
        ("{input: {path: in.jsonl, limit: 3}}", "input.limit: null -> 3"),
        ("{input: {path: in.jsonl, columns: {id: u}}}", "input.columns.id: (absent) -> 'u'"),
        ("{input: {path: in.jsonl, group: {by: u}}}", "input.group: null -> {'by': 'u', 'rows': 'scattered'}"),
        ("{select: {keep: 2}}", "select.keep: 1 -> 2"),
        ("{select: {seed: 1}}", "select.seed: 0 -> 1"),
        ("{rewards: {math: {reward: f1_score}}}", "rewards.math.reward: 'accuracy' -> 'f1_score'"),
        ("{rewards: {math: {reward: accuracy, a: 1}}}", "rewards.math.knobs.a: (absent) -> 1"),
        ("{rewards: {maths: accuracy}}", "rewards.math: {'reward': 'accuracy', 'knobs': {}} -> (absent)"),
        ("{combine: {math: 2}}", "combine: null -> {'weights': {'math': 2.0}, 'on_null': None}"),
        ("{output: {path: out, columns: [a]}}", "output.columns: null -> ['a']"),
        ("{output: {path: out, format: jsonl}}", "output.format: 'parquet' -> 'jsonl'"),
    ],
)
def test_difference_of_jobs_is_one_line(changes: str, line: str) -> None:
    assert differences(job_identity(best()), job_identity(best(changes)))[0] == line


@pytest.mark.parametrize(
    "value", [".inf", "-.inf", ".nan", "2026-01-02", "1.0", "[1, {a: .nan}]", "18446744073709551615"]
)
def test_identity_survives_json(value: str) -> None:
    """The plan is JSON, which has no inf, no NaN and no dates; a knob may be any of them."""
    fields = job_identity(best(f"{{rewards: {{math: {{reward: accuracy, knob: {value}}}}}}}"))
    assert differences(orjson.loads(orjson.dumps(fields)), fields) == []


def test_dumped_job_parses_to_same_job() -> None:
    job = best(
        "{rewards: {a: accuracy, b: {reward: f1_score, x: 1}}, combine: {a: 1, on_null: 0}, run: {on_error: null}}"
    )
    assert parse_job(job.model_dump(mode="json"), "JOB") == job


def test_files_behind_rewards_are_part_of_identity(tmp_path: Path) -> None:
    """A chat template may be a file or the text itself, which is too long for a file's name."""
    template, model = tmp_path / "t.jinja", tmp_path / "model"
    model.mkdir()
    template.write_text("{{ messages }}")
    (model / "config.json").write_text("{}")

    def files(chat_template: str) -> dict[str, str]:
        job = best().model_dump(mode="json")
        job |= {"rewards": {"math": {"model": str(model), "chat_template": chat_template}}, "combine": None}
        found: dict[str, str] = job_identity(parse_job(job, "JOB"))["reward_files"]
        return found

    before = files(str(template))
    assert set(before) == {str(template), str(model)}
    template.write_text("{{ other }}")
    (model / "config.json").write_text('{"a": 1}')
    after = files(str(template))
    assert all(after[path] != before[path] for path in before)
    assert set(files("{{ messages }}" * 500)) == {str(model)}
