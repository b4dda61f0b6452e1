"""``rmbatch doctor`` on judges: what it asks, what it prints, what fails."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jobs.config.job_types import parse_job
from jobs.run.doctor import JUDGED_ROWS, show_doctor
from jobs.show.display import Display
from tests.judging import Policy, biased, honest, judge_server, questions
from tests.servers.hostile import HostileServer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "in.jsonl"
    lines = [{"prompt": f"question {n}", "responses": [f"is {n % 9 + 1}", f"is {n % 7 + 1}"]} for n in range(50)]
    found.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return found


def looked_over(path: Path, server: HostileServer, **judge: Any) -> tuple[bool, str]:
    out = io.StringIO()
    asked = {"endpoint": server.url, "model": "judge", **judge}
    job = {"job": "score", "input": {"path": str(path)}, "output": {"path": "nowhere"}, "rewards": {"kind": asked}}
    good = show_doctor(parse_job(job, "test"), Display(Console(file=out, width=300)))
    return good, " ".join(out.getvalue().split())


@pytest.mark.parametrize(
    ("policy", "judge", "good", "told"),
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
def test_what_is_found(path: Path, policy: Policy, judge: dict[str, Any], good: bool, told: str) -> None:
    with judge_server(policy) as server:
        found, text = looked_over(path, server, **judge)
        assert found is good
        assert told in text
        assert 0 < len(questions(server)) <= 2 * JUDGED_ROWS


def test_a_server_that_is_not_there_is_a_failure(path: Path) -> None:
    with judge_server(honest) as server:
        server.die()
        good, text = looked_over(path, server, judge="pointwise", connect_timeout_s=1.0)
    assert not good
    assert "failure server model 'judge': no endpoint answers" in text
