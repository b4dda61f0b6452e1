"""The contract of a kind of judge: a new one is one file (acceptable.py) and one line in the table."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rmbatch
from connectors.errors import UserError
from jobs.config.identity import job_identity
from jobs.config.sections import parse_job
from rmbatch.judges.describe import describe_judge
from rmbatch.judges.kinds import KINDS
from rmbatch.judges.kinds.base import load_kind
from tests.judging import Seen, judge_server, questions
from tests.servers.hostile import HostileServer

SAMPLE = {"prompt": "What is 2 + 2?", "responses": ["four 4", "five 1", None]}


@pytest.fixture(autouse=True)
def new_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "acceptable", "tests.rmbatch.judges.kinds.acceptable:Acceptable")


@pytest.fixture
def server() -> Iterator[HostileServer]:
    def answer(seen: Seen) -> dict[str, Any]:
        return {"acceptable": "yes" if seen.quality("response") > 2 else "no"}

    with judge_server(answer) as server:
        yield server


def test_new_kind_scores_in_python(server: HostileServer) -> None:
    judge = rmbatch.judge("acceptable", endpoint=server.url, model="judge", rejected=-1)
    results = judge.evaluate(SAMPLE)
    assert [each.score for each in results] == [1.0, -1.0, None]  # type: ignore[union-attr]
    assert results[0].reason == "so it is"  # type: ignore[index]
    assert str(results[2].error).startswith("missing_response: ")  # type: ignore[index]
    assert len(questions(server)) == 2


def test_new_kind_scores_in_a_job_file(server: HostileServer, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(
        "job: score\ninput: {path: in}\noutput: {path: out}\nrewards:\n  good:\n    gate:\n"
        f"      require: {{judge: acceptable, endpoint: '{server.url}', model: judge}}\n      then: accuracy\n"
    )
    results = rmbatch.reward(str(file)).evaluate({**SAMPLE, "reference": "four 4"})
    assert [each.score for each in results] == [1.0, 0.0, None]  # type: ignore[union-attr]


def test_new_kind_has_its_settings_everywhere() -> None:
    asks = {"judge": "acceptable", "endpoint": "http://host:8000", "model": "judge"}
    job = {"job": "score", "input": {"path": "in"}, "output": {"path": "out"}, "rewards": {"good": asks}}
    assert job_identity(parse_job(job, "JOB"))["rewards"]["good"]["rejected"] == 0.0
    assert "rejected = 0.0" in describe_judge("acceptable")
    with pytest.raises(UserError, match=r"JOB: rewards.good.rejcted: unknown key; did you mean 'rejected'"):
        parse_job({**job, "rewards": {"good": {**asks, "rejcted": 1}}}, "JOB")
    with pytest.raises(UserError, match=r"judge 'acceptable': rejcted: unknown setting; did you mean 'rejected'"):
        rmbatch.reward("acceptable", **{**asks, "rejcted": 1})
    with pytest.raises(UserError, match=r"it never shows {{ response }}, which a acceptable judge judges"):
        rmbatch.judge("acceptable", template="{{ prompt }} {{ answer_format }}", endpoint="http://h", model="m")


@pytest.mark.parametrize("name", [*KINDS, "acceptable"])
def test_kind_keeps_what_it_promises(name: str) -> None:
    kind = load_kind(name)
    assert kind.model_fields["judge"].default == name
    assert "" in kind.part_names
    assert all(set(beside) <= {"reason", "steps"} for beside in kind.part_names.values())
    assert kind.make_prompt(None).columns == ()  # its own template shows what is judged, and reads no column
