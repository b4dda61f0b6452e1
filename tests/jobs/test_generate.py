"""The generate job, and jobs that generate what they score, against a chat server on loopback."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.errors import UserError
from jobs.config.job_types import parse_job
from tests.jobs import running
from tests.servers.hostile import HostileServer


def answer_sum(path: str, body: Any) -> Any:
    """A model that is right about a sum in one of four seeds, and sometimes says too much."""
    if body is None:
        return {"data": [{"id": "sums"}]}
    a, b = map(int, re.findall(r"\d+", body["messages"][-1]["content"])[:2])
    seed = body["seed"]
    text, reason = str(a + b + (seed % 4)), "stop"
    if seed % 7 == 0:
        text, reason = f"{a + b}, because", "length"
    message = {"role": "assistant", "content": text}
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 3},
    }


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with HostileServer(answer_sum, lambda path, body: path) as server:
        yield server


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    rows = [f'{{"id": {n}, "prompt": "What is {n} + {n + 1}?", "answer": "{2 * n + 1}"}}' for n in range(20)]
    path.write_text("\n".join(rows))
    return path


def run(tmp_path: Path, server: HostileServer, sums: Path, out: str = "out", **job: Any) -> Any:
    """Run a job over the sums with the server as the model ``sums``."""
    return running.run(
        {
            "input": {"path": str(sums)},
            "output": {"path": str(tmp_path / out)},
            "models": {"sums": {"endpoint": server.url, "model": "sums"}},
            **job,
        }
    )


def read(tmp_path: Path, out: str = "out") -> list[dict[str, Any]]:
    return sorted(running.rows(tmp_path / out), key=lambda row: int(row["id"]))


def num_asked(server: HostileServer) -> int:
    return len([body for _, body, _ in server.asked if body is not None])


def test_every_prompt_gets_its_candidates_and_their_details(tmp_path: Path, server: HostileServer, sums: Path) -> None:
    summary = run(tmp_path, server, sums, job="generate", generate={"by": "sums", "n": 4, "max_tokens": 50})
    rows = read(tmp_path)
    assert [row["id"] for row in rows] == list(range(20))
    assert all(len(row["responses"]) == len(row["generation"]) == 4 for row in rows)
    seeds = [each["seed"] for row in rows for each in row["generation"]]
    assert len(set(seeds)) == 80
    assert {each["tokens"] for row in rows for each in row["generation"]} == {3}
    assert summary.judged["generate"]["answers"] == 80


def test_a_job_generates_scores_and_selects_in_one_pass(tmp_path: Path, server: HostileServer, sums: Path) -> None:
    settings = {"rewards": {"math": {"reward": "math_verify"}}, "select": {"min_score": 1.0}}
    run(tmp_path, server, sums, job="best_of_n", generate={"by": "sums", "n": 8, "max_tokens": 50}, **settings)
    kept = read(tmp_path)
    assert kept
    for row in kept:
        reasons = [str(each["error"]).partition(":")[0] for each in row["generation"]]
        assert row["select.response"] == row["answer"]
        assert all(
            reason == "cut_off" and rank is None
            for reason, rank, error in zip(row["select.reason"], row["select.rank"], reasons)
            if error == "cut_off"
        )


def test_a_prompt_is_stopped_when_enough_candidates_have_passed(
    tmp_path: Path, server: HostileServer, sums: Path
) -> None:
    stop = {"by": "sums", "n": 16, "max_tokens": 50, "stop_when": {"math": 1.0, "count": 1, "wave": 2}}
    rewards = {"math": {"reward": "math_verify"}}
    run(tmp_path, server, sums, job="score", generate=stop, rewards=rewards)
    for row in read(tmp_path):
        usable = [score == 1.0 and each["error"] is None for score, each in zip(row["score.math"], row["generation"])]
        assert len(usable) % 2 == 0
        assert not any(usable[:-2])
        assert any(usable) or len(usable) == 16
    assert num_asked(server) == sum(len(row["responses"]) for row in read(tmp_path))


def test_a_reference_in_a_column_called_response_does_not_pass_every_candidate(
    tmp_path: Path, server: HostileServer
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    rows = [f'{{"id": {n}, "prompt": "What is {n} + 1?", "response": "{n + 1}"}}' for n in range(9)]
    prompts.write_text("\n".join(rows))
    stop = {"by": "sums", "n": 16, "max_tokens": 50, "stop_when": {"math": 1.0, "wave": 1}}
    source = {"path": str(prompts), "columns": {"reference": "response"}}
    rewards = {"math": {"reward": "math_verify"}}
    run(tmp_path, server, prompts, job="score", generate=stop, rewards=rewards, input=source)
    for row in read(tmp_path):
        assert row["response"] == str(row["id"] + 1)
        assert row["score.math"][-1] == 1.0


def test_more_candidates_later_cost_only_the_new_ones(tmp_path: Path, server: HostileServer, sums: Path) -> None:
    cache = {"models": {"sums": {"endpoint": server.url, "model": "sums", "cache": str(tmp_path / "kept")}}}
    run(tmp_path, server, sums, "few", job="generate", generate={"by": "sums", "n": 2}, **cache)
    run(tmp_path, server, sums, "many", job="generate", generate={"by": "sums", "n": 5}, **cache)
    assert num_asked(server) == 100
    few, many = read(tmp_path, "few"), read(tmp_path, "many")
    assert [row["responses"] for row in few] == [row["responses"][:2] for row in many]


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"job": "generate", "generate": {"by": "sums", "stop_when": {"math": 1}}}, "this job scores nothing"),
        ({"job": "generate", "generate": {"by": "sums", "n": 0}}, "generate.n: got 0"),
        ({"job": "generate", "generate": {"by": "sum"}}, "no model is called 'sum'"),
        ({"job": "generate", "generate": {"by": "sums", "n": 2, "temperature": 0}}, "samples of temperature 0"),
        (
            {"job": "generate", "generate": [{"by": "sums", "n": 2}, {"by": "sums", "n": 3, "thinking": "drop"}]},
            "sources 1 and 2 ask the same with the same seeds",
        ),
        ({"job": "generate", "generate": {"by": "sums", "template": "{{ promt }}"}}, "reads a column 'promt'"),
        (
            {
                "job": "score",
                "rewards": {"math": {"reward": "math_verify"}},
                "generate": {"by": "sums", "stop_when": {"maths": 1}},
            },
            "no reward is called 'maths'",
        ),
        (
            {"job": "generate", "generate": {"by": "sums"}, "input": {"path": "x", "columns": {"response": "answer"}}},
            "the candidates come from generate",
        ),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, server: HostileServer, sums: Path, job: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        run(tmp_path, server, sums, **job)
    assert "\n" not in str(caught.value)
    assert not os.listdir(tmp_path / "out") if (tmp_path / "out").exists() else True


def test_plan_counts_requests_and_asks_nobody(tmp_path: Path, server: HostileServer, sums: Path) -> None:
    job = parse_job(
        {
            "job": "best_of_n",
            "input": {"path": str(sums)},
            "output": {"path": str(tmp_path / "out")},
            "models": {"sums": {"endpoint": server.url, "model": "sums", "price": {"input": 1.0, "output": 2.0}}},
            "generate": {"by": "sums", "n": 4, "max_tokens": 100},
            "rewards": {"help": {"judge": "pointwise", "principles": "helpfulness", "by": "sums", "max_tokens": 50}},
        },
        "job.yaml",
    )
    plan = running.make_plan(job)
    assert plan.asked["generate"]["requests"] == "about 80, 80 answers"
    assert plan.asked["generate"]["first question"] == "[user]\nWhat is 0 + 1?"
    assert plan.asked["help"]["requests"] == "about 80, 80 answers"
    (shared,) = plan.shared.values()
    assert shared["asked by"] == "generate, help"
    assert shared["requests"] == "about 160"
    assert not server.asked
