"""``rmbatch doctor`` on judges: what it asks, what it prints, what fails."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jobs.config.job_types import parse_job
from jobs.run.doctor import JUDGE_ROWS, examine_job
from jobs.show.display import Display
from tests.judging import Policy, biased, honest, judge_server, questions
from tests.servers.hostile import HostileServer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "in.jsonl"
    lines = [{"prompt": f"question {n}", "responses": [f"is {n % 9 + 1}", f"is {n % 7 + 1}"]} for n in range(50)]
    found.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return found


def examine(path: Path, server: HostileServer, **judge: Any) -> tuple[bool, str]:
    out = io.StringIO()
    asked = {"endpoint": server.url, "model": "judge", **judge}
    job = {"job": "score", "input": {"path": str(path)}, "output": {"path": "nowhere"}, "rewards": {"kind": asked}}
    good = examine_job(parse_job(job, "test"), Display(Console(file=out, width=300)))
    return good, " ".join(out.getvalue().split())


@pytest.mark.parametrize(
    ("policy", "judge", "good", "message"),
    [
        (honest, {"judge": "pointwise"}, True, "ok spread scores from 1 to 8, mean"),
        (honest, {"judge": "pairwise"}, True, "ok places both orders agree in 100% of pairs"),
        (biased, {"judge": "pairwise"}, True, "warning places both orders agree in 0% of pairs"),
        (lambda seen: {"score": 7}, {"judge": "pointwise"}, True, "warning spread all 16 scores are 7"),
        (
            lambda seen: "hm",
            {"judge": "pointwise"},
            False,
            "failure verdicts 16 of 16 have no score, mostly verdict_",
        ),
    ],
)
def test_findings_of_good_and_bad_judge(
    path: Path, policy: Policy, judge: dict[str, Any], good: bool, message: str
) -> None:
    with judge_server(policy) as server:
        found, text = examine(path, server, **judge)
        assert found is good
        assert message in text
        assert 0 < len(questions(server)) <= 2 * JUDGE_ROWS


def test_missing_server_is_failure(path: Path) -> None:
    with judge_server(honest) as server:
        server.die()
        good, text = examine(path, server, judge="pointwise", connect_timeout_s=1.0)
    assert not good
    assert "failure server model 'judge': no endpoint answers" in text
