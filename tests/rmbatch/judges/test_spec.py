"""What a judge may be told, what it is told by default, and what is said of mistakes."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rmbatch
from connectors.errors import UserError
from rmbatch.chat.spec import ChatSpec
from rmbatch.judges.describe import describe_judge
from rmbatch.judges.kinds import KINDS
from rmbatch.judges.kinds.base import parse_judge
from rmbatch.judges.library import LIBRARY
from rmbatch.judges.reward import JudgeReward, judge_rewards
from rmbatch.rewards.composition import Gate

ASKS: dict[str, Any] = {"endpoint": "http://host:8000", "model": "judge"}


@pytest.mark.parametrize("name", [*KINDS, *LIBRARY])
def test_every_name_is_a_judge(name: str) -> None:
    judge = rmbatch.judge(name, **ASKS)
    assert isinstance(judge, JudgeReward)
    assert judge.takes_offsets == (judge.spec.judge in ("pairwise", "listwise"))
    assert judge.columns == ("prompt", "response")
    assert pickle.loads(pickle.dumps(judge)).spec == judge.spec
    assert "temperature = 0.0" in describe_judge(name)


def test_library_name_sets_kind_and_replaceable_principles() -> None:
    spec = parse_judge({"judge": "base_honesty_pointwise", **ASKS})
    assert (spec.judge, spec.principles, spec.score) == ("pointwise", "honesty", "violations")
    spec = parse_judge({"judge": "base_honesty_pointwise", "score": "scale", "principles": ["Be true."], **ASKS})
    assert (spec.principles, spec.score) == (("Be true.",), "scale")
    assert rmbatch.reward("base_honesty_listwise", **ASKS).spec.judge == "listwise"  # type: ignore[attr-defined]
    assert "score = 'violations'" in describe_judge("base_honesty_pointwise")
    assert "principles = 'honesty'" in describe_judge("base_honesty_pointwise")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("pairvise", {}, "did you mean 'pairwise'"),
        ("pairwise", {"order": "both"}, "judge 'pairwise': order: unknown setting; did you mean 'orders'"),
        (
            "base_honesty_pointwise",
            {"scal": 1},
            "judge 'base_honesty_pointwise': scal: unknown setting; did you mean 'scale'",
        ),
        ("pointwise", {"scale": [3, 3]}, "must begin below its end"),
        ("stepwise", {"scale": [1, 0]}, "must begin below its end"),
        ("pointwise", {"scale": [0.2, 0.8]}, "has no two whole numbers"),
        ("pointwise", {"logprobs": 3}, "no judge reads log probabilities"),
        ("pointwise", {"template": "prompts/mine.txt"}, "the name of a file ends in .jinja"),
        (
            "listwise",
            {"template": "{{ responses }} {{ response_tokens }} {{ answer_format }}"},
            "belongs to one response",
        ),
        ("pointwise", {"n": 3}, "3 samples of temperature 0 are the same"),
        ("pointwise", {"min_votes": 2}, "2 of 1 votes"),
        ("pointwise", {"rate": {}}, "at least one of requests, tokens and usd"),
        ("pointwise", {"rate": {"usd": 3}}, "write price"),
        ("pointwise", {"endpoints": ["http://other:1"]}, "not both"),
        ("pointwise", {"endpoint": ["http://other:1"]}, "write several as endpoints"),
        ("pointwise", {"extra_body": {"temperature": 1}}, "has a key of its own"),
        ("pointwise", {"template": "{{ response"}, "template: line 1"),
        ("pointwise", {"principles": "nothing.yaml"}, "nothing.yaml"),
    ],
)
def test_mistake_in_settings_is_one_line(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        rmbatch.judge(name, **{**ASKS, **settings})
    assert "\n" not in str(error.value)


def test_judges_that_ask_alike_share_a_client() -> None:
    one, other = (parse_judge({"judge": kind, "principles": "honesty", **ASKS}) for kind in ("pairwise", "listwise"))
    assert one.chat().client_key == other.chat().client_key
    warmer = parse_judge({"judge": "pairwise", "temperature": 1.0, **ASKS})
    assert warmer.chat().client_key == one.chat().client_key  # each request says how it is sampled
    patient = parse_judge({"judge": "pairwise", "timeout_s": 900, **ASKS})
    assert patient.chat().client_key != one.chat().client_key
    assert one.chat() == ChatSpec(endpoints=["http://host:8000"], model="judge")  # type: ignore[list-item]


def test_principles_and_templates_pickle_as_text(tmp_path: Path) -> None:
    template, principles = tmp_path / "mine.jinja", tmp_path / "mine.yaml"
    template.write_text("{{ principles[0].text }} {{ response }} {{ answer_format }} {{ tone }}")
    principles.write_text("topic: mine\nabout: What counts is tone.\nprinciples: [{text: Be kind.}]\n")
    judge = rmbatch.judge("pointwise", template=str(template), principles=str(principles), **ASKS)
    shipped = pickle.dumps(judge)
    template.unlink()
    principles.unlink()
    there: JudgeReward = pickle.loads(shipped)
    assert there.columns == ("prompt", "response", "tone")


def test_judges_inside_compositions_are_found() -> None:
    judge = rmbatch.judge("pointwise", **ASKS)
    gate = Gate(rmbatch.reward("accuracy"), judge)
    assert [name for name, _ in judge_rewards({"plain": rmbatch.reward("accuracy"), "g": gate})] == ["g.then"]


def test_making_a_judge_loads_no_client() -> None:
    script = (
        "import sys, rmbatch, jobs.cli, jobs.config.rewards\n"
        "rmbatch.judge('base_honesty_listwise', endpoint='http://host:1', model='m')\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not set(told) & {"openai", "httpx2", "ray", "torch", "vllm"}
