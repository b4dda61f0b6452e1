"""Models that a job file names once, and who asks them by name."""

from typing import Any

import pytest

from connectors.errors import UserError
from jobs.config.identity import job_identity
from jobs.config.job_types import parse_job

QWEN = {"endpoint": "http://host:8000", "model": "qwen3-32b", "rate": {"requests": 600}, "in_flight": 8}


def parse(models: Any, reward: dict[str, Any]) -> Any:
    data = {
        "job": "score",
        "input": {"path": "in.jsonl"},
        "output": {"path": "out"},
        "rewards": {"help": reward},
        **({"models": models} if models is not None else {}),
    }
    return parse_job(data, "job.yaml")


def judge(**settings: Any) -> dict[str, Any]:
    return {"judge": "pointwise", "principles": "helpfulness", **settings}


def test_a_judge_by_name_is_the_judge_with_the_model_spelled_out() -> None:
    named = parse({"qwen": QWEN}, judge(by="qwen", temperature=0.5))
    spelled = parse(None, judge(**QWEN, temperature=0.5))
    assert named.rewards == spelled.rewards
    assert job_identity(named) == job_identity(spelled)


def test_judges_in_compositions_and_library_find_their_model() -> None:
    inner = judge(by="qwen")
    gated = {"gate": {"require": {"reward": "reasoning_format"}, "then": inner, "otherwise": 0.0}}
    assert "qwen3-32b" in str(parse({"qwen": QWEN}, gated).rewards)
    library = {"reward": "base_helpfulness_pointwise", "by": "qwen"}
    assert "qwen3-32b" in str(parse({"qwen": QWEN}, library).rewards)


def test_more_keys_of_the_body_are_added_to_those_of_the_model() -> None:
    models = {"qwen": {**QWEN, "extra_body": {"top_k": 20, "min_p": 0.1}}}
    found = parse(models, judge(by="qwen", extra_body={"top_k": 5})).rewards["help"].root
    assert found.extra_body == {"top_k": 5, "min_p": 0.1}


@pytest.mark.parametrize(
    ("models", "reward", "words"),
    [
        ({"qwen": QWEN}, judge(by="qwn"), "no model is called 'qwn'; did you mean 'qwen'"),
        (None, judge(by="qwen"), "a job file names its models in models:"),
        ({"qwen": QWEN}, judge(by="qwen", endpoint="http://other"), "leave out endpoint"),
        ({"qwen": QWEN}, judge(by="qwen", budget={"usd": 1}), "leave out budget"),
        ({"qwen": QWEN}, judge(by=3), "no model is called 3"),
        ({"qwen": {**QWEN, "temperature": 1.0}}, judge(by="qwen"), "models.qwen: temperature belongs to who asks"),
        ({"qwen": {"model": "x"}}, judge(by="qwen"), "models.qwen: write endpoint: URL of a server"),
        ({"qwen": {**QWEN, "modle": "x"}}, judge(by="qwen"), "models.qwen.modle: unknown key"),
        ({"a b": QWEN}, judge(**QWEN), "models"),
        ([QWEN], judge(**QWEN), "models: got"),
    ],
)
def test_a_mistake_is_one_line_with_its_cure(models: Any, reward: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(models, reward)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
