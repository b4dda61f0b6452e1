"""Rewards as verl's ``compute_score``: verl's own calls, never an exception for a response, always the same keys."""

import asyncio
import inspect
import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rmbatch
import rmbatch.verl
from connectors.errors import JobError, UserError

JOB = """
job: score
input: {path: nowhere.jsonl, columns: {reference: gold}}
rewards:
  exact: {reward: exact_match}
  tidy: {gate: {require: {reward: exact_match}, then: {reward: edit_similarity}, otherwise: -1.0}}
combine: {exact: 1.0, tidy: 0.5}
output: {path: out/}
"""


def call(function: Any, solution: str, truth: Any, **extra: Any) -> Any:
    """As verl's naive reward manager calls, with what it puts into extra_info; see its ``run_single``."""
    info = {"index": 0, "num_turns": None, "rollout_reward_scores": {}, **extra}
    return function(data_source=np.str_("gsm8k"), solution_str=solution, ground_truth=truth, extra_info=info)


def moody(response: str, prompt: str = "", weight: float = 1.0, **rest: Any) -> float | None:
    if "raise" in response:
        raise ValueError("a bad mood")
    return None if "none" in response else weight * len(prompt)


def test_a_response_is_scored() -> None:
    function = rmbatch.verl.scorer("exact_match")
    assert call(function, "4", "4") == {"score": 1.0, "acc": 1.0, "score_ok": 1.0, "error": ""}
    assert call(function, "5", "4")["score"] == 0.0
    assert rmbatch.verl.compute_score("d", "4", "4", reward="exact_match")["score"] == 1.0


def test_what_has_no_score_is_zero_and_says_so() -> None:
    function = rmbatch.verl.scorer(moody)
    raised, none = call(function, "raise", "4"), call(function, "none", "4")
    assert (raised["score"], raised["score_ok"]) == (0.0, 0.0)
    assert raised["error"] == "reward_raised: ValueError: a bad mood"
    assert (none["score"], none["score_ok"], none["error"].split(":")[0]) == (0.0, 0.0, "no_score")
    assert raised.keys() == none.keys() == call(function, "good", "4").keys()  # verl stacks them
    assert call(rmbatch.verl.scorer("exact_match"), "4", ["4"])["error"].startswith(
        "reward_raised: UserError: reference"
    )


def test_the_columns_of_a_reward_come_from_extra_info() -> None:
    function = rmbatch.verl.scorer(moody)
    assert call(function, "good", "4", prompt="abc", weight=np.float64(2.0))["score"] == 6.0
    other = rmbatch.verl.scorer("exact_match", columns={"reference": "gold"})
    assert call(other, "4", "nothing", gold="4")["score"] == 1.0
    assert call(other, "4", "4")["error"].startswith("missing_reference")  # no other column stands in for it


def test_a_job_file_and_a_dict_give_the_total_and_the_parts(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    given = call(rmbatch.verl.scorer(str(path)), "ab", "abcd")
    assert given["score"] == given["part.exact"] + 0.5 * given["part.tidy"] == -0.5
    assert math.isnan(given["part.tidy.then"])  # it was not asked
    assert call(rmbatch.verl.scorer(str(path), by="exact"), "4", "4")["score"] == 1.0
    written = {"gate": {"require": "exact_match", "then": {"reward": "edit_similarity"}}}
    assert call(rmbatch.verl.scorer(written), "4", "4")["score"] == 1.0


def test_a_response_on_which_a_part_raises_has_the_same_keys(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("def moody(response: str) -> float:\n    return {'good': 1.0}[response]\n")
    parts = {"own": {"reward": f"{path}:moody"}, "exact": {"reward": "exact_match"}}
    function = rmbatch.verl.scorer({"both": {"sum": {"parts": parts, "weights": {"own": 1.0, "exact": 1.0}}}})
    right, raised = call(function, "good", "good"), call(function, "bad", "good")
    assert raised["error"].startswith("reward_raised: KeyError")
    assert list(raised) == list(right)
    assert "part.own" in right


def test_verl_takes_the_async_form_for_a_coroutine_function() -> None:
    function = rmbatch.verl.scorer("exact_match", call="async")
    assert inspect.iscoroutinefunction(function)  # verl looks so
    assert not inspect.iscoroutinefunction(rmbatch.verl.scorer("exact_match"))

    async def many() -> list[Any]:
        return await asyncio.gather(*(call(function, str(number % 2), "1") for number in range(300)))

    assert [row["score"] for row in asyncio.run(many())] == [float(number % 2) for number in range(300)]


def test_threads_get_their_own_scores() -> None:
    function = rmbatch.verl.scorer(moody)
    with ThreadPoolExecutor(16) as pool:
        rows = list(
            pool.map(lambda n: call(function, "raise" if n % 7 == 0 else "good", "", prompt="x" * n), range(200))
        )
    assert [row["score"] for row in rows] == [0.0 if n % 7 == 0 else float(n) for n in range(200)]


def test_a_batch_is_scored_in_one_go() -> None:
    rows = rmbatch.verl.compute_scores(
        np.array(["a", "b"], dtype=object),
        ["4", "5"],
        ["4", "4"],
        np.array([{}, {}], dtype=object),
        reward="exact_match",
    )
    assert [row["score"] for row in rows] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward": "exact_mach"}, "did you mean 'exact_match'"),
        ({"reward": "majority_vote"}, "compares the responses of one prompt"),
        ({"reward": None}, "say which reward"),
        ({"reward": "length_penalty", "knobs": {"min_length": 5, "max_length": 2}}, "min_length=5 is above"),
        ({"reward": "no/such/job.yaml"}, "no job file no/such/job.yaml"),
        (
            {"reward": {"a": {"reward": "exact_match"}, "b": {"reward": "bleu"}}},
            "2 rewards and no say in which is the score",
        ),
        ({"reward": {"a": {"reward": "exact_match"}}, "by": "b"}, "no score is called 'b'"),
    ],
)
def test_settings_that_do_not_fit_are_told_before_any_response(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        rmbatch.verl.scorer(**settings)


def test_training_stops_when_no_judge_answers_any_more() -> None:
    def judge(response: str) -> float:
        raise JobError("the budget is used up")

    with pytest.raises(JobError, match="budget"):
        call(rmbatch.verl.scorer(judge), "4", "4")


def test_a_reward_file_may_make_the_scorer_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import rmbatch.verl\ndef size(response: str) -> float:\n    return len(response)\n"
        "compute_score = rmbatch.verl.scorer(size)\n"
    )
    assert call(rmbatch.verl.scorer(f"{path}:size"), "four", "")["score"] == 4.0


def test_verl_functions_work_through_verl_again() -> None:
    def compute_score(data_source, solution_str, ground_truth, extra_info=None):  # type: ignore[no-untyped-def]
        return {"score": extra_info["weight"] * (solution_str == ground_truth) * (data_source == "gsm8k")}

    assert call(rmbatch.verl.scorer(compute_score), "4", "4", weight=3.0)["score"] == 3.0


def test_a_scorer_may_be_sent_to_other_processes() -> None:
    function = pickle.loads(pickle.dumps(rmbatch.verl.scorer("exact_match")))
    assert call(function, "4", "4")["score"] == 1.0
