"""Recorded runs of LLMBar's judges through the whole job: every number of their published statistics."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.evaluate import Evaluation
from tests.jobs.running import run

RUNS = ("ChatGPT-0301_CoT", "ChatGPT-0301_Swap", "GPT-4_Swap", "GPT-4_Vanilla")


@pytest.fixture(scope="module")
def llmbar(shared_data: Path) -> Path:
    return shared_data / "llmbar"


def test_recorded_judges_come_to_their_published_statistics(here: None, llmbar: Path, tmp_path: Path) -> None:
    recorded = {
        name.replace("-", "_"): {
            "llmbar": {"path": {"Natural": str(llmbar / f"Natural_{name}_result.json")}, "as": "llmbar_results"}
        }
        for name in RUNS
    }
    found = run(
        {
            "job": "evaluate",
            "suites": {"llmbar": {"path": {"Natural": str(llmbar / "Natural_dataset.json")}}},
            "recorded": recorded,
            "compare": list(recorded),
            "output": {"path": str(tmp_path / "out")},
        }
    )
    assert isinstance(found, Evaluation)
    suite: Any = found.evaluation["suites"]["llmbar"]
    assert found.evaluation["protocol"]["suites"]["llmbar"]["adapter"] == "llmbar"
    for name, reward in zip(RUNS, recorded):
        published = json.loads((llmbar / f"Natural_{name}_statistics.json").read_text())
        statistics = suite["rewards"][reward]["details"]["statistics"]["Natural"]
        assert {each: statistics[each] for each in published} == published  # texts and kappas, to the last digit
        figure = suite["rewards"][reward]["figures"]["overall"]
        assert f"{figure['official'] * 100}%" == published["correct_average"]
        assert figure["official"] == figure["fair"]
    assert len(found.evaluation["comparisons"]) == 6
    best = next(each for each in found.evaluation["leaderboard"] if each["suite"] == "llmbar")
    assert best["reward"] == "GPT_4_Vanilla"
