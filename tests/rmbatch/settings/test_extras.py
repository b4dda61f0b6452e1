"""A package of an extra that is not installed is one line, with the command that installs it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rmbatch.settings.extras import EXTRAS
from tests.servers.s3 import REPOSITORY

JOB = """
job: score
input: {{path: rows.jsonl}}
rewards: {{good: {reward}}}
output: {{path: out}}
"""
JUDGE = "{judge: pointwise, principles: math, endpoint: 'http://127.0.0.1:9', model: m}"


@pytest.mark.parametrize(
    ("missing", "reward", "cure"),
    [
        ("jinja2", JUDGE, "the judge 'pointwise' needs the package 'jinja2', which is not installed: pip install 'rmb"),
        (
            "jsonschema_rs",
            JUDGE,
            "the judge 'pointwise' needs the package 'jsonschema_rs', which is not installed: pip",
        ),
        (
            "transformers",
            "{model: some/model}",
            "the model 'some/model' needs the package 'transformers', which is not",
        ),
        (
            "sacrebleu",
            "{reward: bleu}",
            "bleu or chrf needs the package 'sacrebleu', which is not installed: pip install",
        ),
        (
            "jsonschema_rs",
            "{reward: json_schema_match}",
            "json_schema_match needs the package 'jsonschema_rs', which is",
        ),
        (
            "py3langid",
            "{reward: language_match, language: en}",
            "telling languages needs the package 'py3langid', which",
        ),
        (
            "jieba",
            "{reward: f1_score, tokenizer: jieba}",
            "tokenizer='jieba' needs the package 'jieba', which is not installed: pip install 'rmb",
        ),
    ],
)
def test_missing_extra_is_one_line(tmp_path: Path, missing: str, reward: str, cure: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "2+2", "response": "4", "reference": "4"}\n')
    (tmp_path / "job.yaml").write_text(JOB.format(reward=reward))
    script = f"import sys; sys.modules[{missing!r}] = None; from jobs.cli import main; main(['run', 'job.yaml'])"
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    (line,) = ended.stderr.splitlines()
    assert (ended.returncode, line.startswith(f"error: {cure}")) == (2, True)
    assert not (tmp_path / "out").exists()


def test_every_module_of_an_extra_is_brought_by_it() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, modules in EXTRAS.items():
        for module in modules:
            assert any(line.startswith(module.replace("_", "-")) for line in extras[extra])
