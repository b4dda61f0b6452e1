"""Job files as they are written: what is read, what is put in, and the one line that each mistake comes to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.errors import UserError
from jobs.config.file import read_job_file
from rmbatch.settings.mistakes import show

HOME = {"HOME_FOLDER": "s3://team", "EMPTY": ""}


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    return tmp_path / "job.yaml"


def told(path: Path | str, overrides: Sequence[str] = (), environ: dict[str, str] = HOME) -> str:
    """The message about a job file that cannot be read: always one line; the file's path is written as JOB."""
    with pytest.raises(UserError) as mistake:
        read_job_file(str(path), overrides, environ)
    message = str(mistake.value).replace(str(path), "JOB")
    assert "\n" not in message
    return message


# --- YAML -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("job: score\njob: best_of_n\n", "JOB: line 2: the key 'job' occurs twice; keep one"),
        ("a: {b: 1, c: 2, b: 3}\n", "JOB: line 1: the key 'b' occurs twice; keep one"),  # also inside, in one line
        ("rewards:\n  true: accuracy\n", "JOB: line 2: the key 'true' reads as true in YAML; put it in quotes"),
        ("1: a\n", "JOB: line 1: the key '1' reads as 1 in YAML; put it in quotes"),
        ("~: a\n", "JOB: line 1: the key '~' reads as null in YAML; put it in quotes"),
        ("? [a, b]\n: c\n", "JOB: line 1: ['a', 'b'] cannot be a key; a key is text"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "JOB: line 3: << is not read; write the keys out"),
        ("a: [1, 2\n", "JOB:2:1: not YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: b\n  c: d\n", "JOB:2:4: not YAML: mapping values are not allowed here; text with `: ` in it needs quotes"),
        ("a:\n\tb: 1\n", "JOB:2:1: not YAML: found character '\\t' that cannot start any token"),
        (
            "a: {b: ${C}}\n",
            "JOB:1:9: not YAML: expected ',' or '}', but got '{'; between { } or [ ], put ${NAME} in quotes",
        ),
        ("a: 2026-13-01\n", "JOB: a value is not YAML: month must be in 1..12; put text in quotes"),
        ("a: *b\n", "JOB:1:4: not YAML: found undefined alias 'b'"),
        ("a: &a [*a]\n", "JOB:1:4: not YAML: found unconstructable recursive node"),
        ("a: 1\n---\nb: 2\n", "JOB:2:1: not YAML: but found another document"),
        ("a: \x00\n", "JOB: not YAML: unacceptable character #x0000: special characters are not allowed"),
        (
            "a: !!python/object/apply:os.system [true]\n",  # data, never code
            "JOB:1:4: not YAML: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object/apply:os.system'",
        ),
        ("", "JOB: a job file holds keys and values, such as `job: score`"),
        ("# only a comment\n", "JOB: a job file holds keys and values, such as `job: score`"),
        ("- job\n- score\n", "JOB: a job file holds keys and values, such as `job: score`"),
        ("score\n", "JOB: a job file holds keys and values, such as `job: score`"),
    ],
)
def test_bad_job_file_is_refused(job_file: Path, text: str, message: str) -> None:
    job_file.write_text(text)
    assert told(job_file) == message


LAUGHS = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"a0: &a0 [ha]\n{LAUGHS}", "JOB: its anchors come to more than 100,000 values; write out what is meant"),
        ("a: " + "[" * 5000, "JOB: line 1: nested more than 64 deep; is it the data?"),
        (
            "".join("  " * depth + "a:\n" for depth in range(100)),
            "JOB: line 64: nested more than 64 deep; is it the data?",
        ),
        ("a: " + "x" * (4 << 20), "JOB: 4,194,307 bytes; a job file has at most 4,194,304. Is it the data?"),
    ],
)
def test_oversized_job_file_is_refused(job_file: Path, text: str, message: str) -> None:
    job_file.write_text(text)
    assert told(job_file) == message


def test_oversized_override_is_refused(job_file: Path) -> None:
    job_file.write_text("job: score\n")
    assert "nested more than 64 deep" in told(job_file, ["a=" + "[" * 5000])
    assert "nested more than 64 deep" in told(job_file, [".".join("a" * 5000) + "=1"])


def test_missing_job_file_is_refused(tmp_path: Path) -> None:
    assert told(tmp_path / "job.yaml") == "no job file JOB"
    assert told(tmp_path) == "no job file JOB"  # a folder
    assert told("memory://nowhere/job.yaml") == "no job file JOB"
    assert told("nowhere://job.yaml") == "cannot open nowhere:// (Protocol not known: nowhere)"


def test_binary_job_file_is_refused(job_file: Path) -> None:
    job_file.write_bytes(b"PAR1\xff\xfe")
    assert told(job_file) == "JOB: not UTF-8 text; is it a job file?"


def test_byte_order_mark_is_ignored(job_file: Path) -> None:
    job_file.write_bytes("\ufeffjob: score\n".encode())
    assert read_job_file(str(job_file), [], {}) == {"job": "score"}


def test_job_file_at_url_is_read() -> None:
    with fsspec.open("memory://jobs/team/job.yaml", "wt") as file:
        file.write("job: score\ninput:\n  path: ${HOME_FOLDER}/in\n")
    found = read_job_file("memory://jobs/team/job.yaml", ["input.limit=3"], HOME)
    assert found == {"job": "score", "input": {"path": "s3://team/in", "limit": 3}}


# --- environment variables --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("${V}", "s3://a"),
        ("${V}/x/${V}", "s3://a/x/s3://a"),
        ("$V $ {V} $", "$V $ {V} $"),  # only ${NAME} is a variable
        ("$${V}", "${V}"),
        ("$${", "${"),
        ("a$$b$$", "a$$b$$"),  # $$ escapes nothing but a brace
        ("$$${V}", "$${V}"),
        ("${}${1}${a-b}", "${}${1}${a-b}"),  # no names of variables
        ("${EMPTY}", ""),  # set, and empty
        ("${NESTED}", "${V}"),  # put in once, not again
    ],
)
def test_variables(job_file: Path, written: str, value: str) -> None:
    job_file.write_text(f"a: {{b: ['{written}']}}\n")
    environ = {"V": "s3://a", "EMPTY": "", "NESTED": "${V}"}
    assert read_job_file(str(job_file), [], environ) == {"a": {"b": [value]}}


@pytest.mark.parametrize("value", ["{a: 1}", "[1", "null", "yes", "3", "a: b # c", "*x", "x\ny: z", "'", "!!set {a}"])
def test_variable_never_becomes_yaml(job_file: Path, value: str) -> None:
    job_file.write_text("a: ${V}\nb: {c: '${V}'}\n")
    assert read_job_file(str(job_file), [], {"V": value}) == {"a": value, "b": {"c": value}}


def test_keys_and_other_values_stay(job_file: Path) -> None:
    job_file.write_text("'${V}': 1\na: 2\nb: 1.5\nc: null\nd: true\n")
    assert read_job_file(str(job_file), [], {}) == {"${V}": 1, "a": 2, "b": 1.5, "c": None, "d": True}


def test_missing_variable_is_named_with_its_key(job_file: Path) -> None:
    job_file.write_text("input:\n  path: [a, '${NO_SUCH}/b']\n")
    assert told(job_file) == "JOB: input.path.1: the environment variable NO_SUCH is not set"


def test_override_may_hold_variable(job_file: Path) -> None:
    job_file.write_text("input: {path: a}\n")
    found = read_job_file(str(job_file), ["input.path=${HOME_FOLDER}/x"], HOME)
    assert found == {"input": {"path": "s3://team/x"}}
    assert told(job_file, ["input.path=${NO}"]) == "JOB: input.path: the environment variable NO is not set"
    assert read_job_file(str(job_file), ["input.path=$${NO}"], HOME) == {"input": {"path": "${NO}"}}


# --- overrides --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "change"),
    [
        ("job=best_of_n", {"job": "best_of_n"}),
        ("select.keep=2", {"select": {"keep": 2, "ties": "hash"}}),
        ("select.keep=null", {"select": {"keep": None, "ties": "hash"}}),
        ("select.keep=", {"select": {"keep": None, "ties": "hash"}}),
        ("select={keep: 3}", {"select": {"keep": 3}}),  # as a whole
        ("run.cpus=4", {"run": {"cpus": 4}}),  # `run:` was written and left empty
        ("input.storage.region=eu", {"input": {"path": ["a", "b"], "storage": {"region": "eu"}}}),
        ("input.path.1=c", {"input": {"path": ["a", "c"]}}),
        ("input.path=[d]", {"input": {"path": ["d"]}}),
        ("input.path=s3://b/day=1/x", {"input": {"path": "s3://b/day=1/x"}}),  # only the first = divides
        ("input.path=out/*/[ab].jsonl", {"input": {"path": "out/*/[ab].jsonl"}}),
        ("input.path='*.jsonl'", {"input": {"path": "*.jsonl"}}),
        ("input.path=a: b", {"input": {"path": {"a": "b"}}}),
        ("input.limit=1e3", {"input": {"path": ["a", "b"], "limit": "1e3"}}),  # YAML 1.1: text, the model converts
        ("input.path=", {"input": {"path": None}}),
        ("list.0.a=2", {"list": [{"a": 2, "b": 1}]}),
    ],
)
def test_overrides(job_file: Path, override: str, change: dict[str, Any]) -> None:
    job_file.write_text(
        "job: score\ninput: {path: [a, b]}\nselect: {keep: 1, ties: hash}\nrun:\nlist: [{a: 1, b: 1}]\n"
    )
    before = read_job_file(str(job_file), [], {})
    assert read_job_file(str(job_file), [override], {}) == before | change


def test_the_last_override_counts(job_file: Path) -> None:
    job_file.write_text("job: score\n")
    overrides = ["run.cpus=1", "run={unit_mb: 2}", "run.cpus=3"]
    assert read_job_file(str(job_file), overrides, {}) == {"job": "score", "run": {"unit_mb": 2, "cpus": 3}}


def test_override_changes_one_place_of_anchor(job_file: Path) -> None:
    job_file.write_text("input: {storage: &s {region: us}}\noutput: {storage: *s}\n")
    found = read_job_file(str(job_file), ["input.storage.region=eu"], {})
    assert found == {"input": {"storage": {"region": "eu"}}, "output": {"storage": {"region": "us"}}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("select.keep", "'select.keep' is no override; write key.sub=value, such as select.keep=2"),
        ("=2", "'=2' is no override; write key.sub=value, such as select.keep=2"),
        ("select..keep=2", "'select..keep=2' is no override; write key.sub=value, such as select.keep=2"),
        (".=2", "'.=2' is no override; write key.sub=value, such as select.keep=2"),
        ("job.kind=a", "job is 'score', which holds no keys; override job itself"),
        ("list.2=a", "list.2: '2' is no position in a list of 2; positions begin at 0"),
        ("list.-1=a", "list.-1: '-1' is no position in a list of 2; positions begin at 0"),
        ("list.x.y=a", "list.x: 'x' is no position in a list of 2; positions begin at 0"),
        ("list.²=a", "list.²: '²' is no position in a list of 2; positions begin at 0"),  # a digit that int() refuses
        ("list.0.a=b", "list.0 is 1, which holds no keys; override list.0 itself"),
        (
            "input.path=*.jsonl",  # an alias, in YAML
            "'input.path=*.jsonl': the value is not YAML; put text with such signs in quotes of its own: "
            "input.path='\"*.jsonl\"'",
        ),
        ("a={1: 1}", "'a={1: 1}': line 1: the key '1' reads as 1 in YAML; put it in quotes"),
        ("a={b: 1, b: 2}", "'a={b: 1, b: 2}': line 1: the key 'b' occurs twice; keep one"),
    ],
)
def test_bad_override_is_refused(job_file: Path, override: str, message: str) -> None:
    job_file.write_text("job: score\nlist: [1, 2]\n")
    assert told(job_file, [override]) == message


# --- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        *("api_key", "API_KEY", "api-key", "apikey", "openai_api_key", "access_key", "aws_secret_access_key"),
        *("token", "hf_token", "access_token", "aws_session_token", "secret", "client_secret", "Authorization"),
        *("password", "db_password", "passwd", "credentials"),
    ],
)
def test_secrets_are_refused(job_file: Path, key: str) -> None:
    job_file.write_text(f"rewards: {{judge: {{{key}: very-private}}}}\n")
    message = told(job_file)
    assert message.startswith(f"JOB: rewards.judge.{key}: secrets do not belong into a job file")
    assert "very-private" not in message
    assert "of a model OPENAI_API_KEY, or what api_key_env names" in message


@pytest.mark.parametrize("value", ["12345", "[a, b]", "${KEY}", "'${KEY}'"])
def test_secrets_are_refused_whatever_their_type(job_file: Path, value: str) -> None:
    job_file.write_text("job: score\n")
    message = told(job_file, [f"input.storage.secret={value}"], {"KEY": "very-private"})
    assert message.startswith("JOB: input.storage.secret: secrets do not belong into a job file")
    assert "very-private" not in message


def test_password_in_url_is_refused(job_file: Path) -> None:
    job_file.write_text("input: {storage: {endpoint: 'https://me:${PASSWORD}@minio:9000'}}\n")
    message = told(job_file, [], {"PASSWORD": "very-private"})
    assert message.startswith("JOB: input.storage.endpoint: secrets do not belong into a job file")
    assert "very-private" not in message


@pytest.mark.parametrize(
    "url", ["s3://very-private@bucket/rows/", "https://very-private@gateway/v1", "sftp://me:very-private@host/rows"]
)
def test_token_in_url_is_refused(job_file: Path, url: str) -> None:
    job_file.write_text(f"input: {{path: ['{url}']}}\n")
    message = told(job_file)
    assert message.startswith("JOB: input.path.0: secrets do not belong into a job file")
    assert "very-private" not in message


@pytest.mark.parametrize(
    "harmless",
    [
        *("tokenizer: words", "max_tokens: 3", "group_key: uid", "think_token: think", "stop_token: x", "keys: [a]"),
        *("secretary: a", "tokens: a", "passwords_seen: 2", "key: uid"),
        *("api_key: null", "api_key: ''", "token: false"),  # nothing is given away
        *("path: sftp://me@host/rows", "path: abfss://rows@account.dfs.core.windows.net/x"),
        *("endpoint: https://minio:9000/a@b", "path: 's3://team/a:b@c'", "email: mailto:me@example.org"),
    ],
)
def test_harmless_keys_are_no_secrets(job_file: Path, harmless: str) -> None:
    job_file.write_text(f"rewards: {{f1: {{{harmless}}}}}\n")
    assert read_job_file(str(job_file), [], {})["rewards"]["f1"]


# --- how values are shown ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"), [(None, "null"), (True, "true"), (1, "1"), ("1", "'1'"), ("a\nb", r"'a\nb'"), ([None], "[None]")]
)
def test_show(value: Any, text: str) -> None:
    assert show(value) == text


@given(st.text(max_size=200))
def test_show_is_one_short_line(text: str) -> None:
    assert len(show(text)) <= 80
    assert len(show(text).splitlines()) == 1
