"""Rewards as TRL's reward functions: called as its GRPOTrainer calls, and by it where it is installed."""

import asyncio
import inspect
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest

import rmbatch
import rmbatch.trl
from connectors.errors import JobError, UserError
from tests.rmbatch.test_verl import JOB


def call(function: Any, completions: list[Any], prompts: list[Any] | None = None, **columns: Any) -> Any:
    """As ``GRPOTrainer._calculate_rewards`` calls: all by keyword, with what it adds to the columns."""
    prompts = prompts or ["What is 2 + 2?"] * len(completions)
    ids = [[1, 2]] * len(completions)
    return function(prompts=prompts, completions=completions, completion_ids=ids, trainer_state=object(), **columns)


def said(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


def moody(response: str) -> float:
    if "raise" in response:
        raise ValueError("a bad mood")
    return len(response)


def test_text_and_conversations_get_the_same_scores() -> None:
    function = rmbatch.trl.reward_func("exact_match")
    assert call(function, ["4", "5"], answer=["4", "4"]) == [1.0, 0.0]
    asked = [[{"role": "user", "content": "What is 2 + 2?"}]] * 2
    assert call(function, said("4", "5"), asked, answer=["4", "4"]) == [1.0, 0.0]
    assert call(function, [], answer=[]) == []


def test_no_score_is_none() -> None:
    assert call(rmbatch.trl.reward_func("exact_match"), ["4", "5"], solution=["4", None]) == [1.0, None]


def test_columns_are_found_or_said() -> None:
    truths = {"gold": ["4"], "topic": ["sums"], "images": [[object()]]}
    assert call(rmbatch.trl.reward_func("exact_match"), ["4"], **truths) == [1.0]
    truths["theirs"] = ["5"]
    assert call(rmbatch.trl.reward_func("exact_match", columns={"reference": "theirs"}), ["4"], **truths) == [0.0]
    with pytest.raises(UserError, match="reads 'tests', and the dataset has no such column; name one: columns="):
        call(rmbatch.trl.reward_func("code_execution"), ["4"], answer=["4"])
    with pytest.raises(
        UserError, match=r"columns: reference: the dataset has no column 'goold'; did you mean 'gold'\?"
    ):
        call(rmbatch.trl.reward_func("exact_match", columns={"reference": "goold"}), ["4"], gold=["4"])


def test_job_file_gives_its_total_or_one_function_per_reward(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    completions, gold = ["abcd", "ab"], ["abcd", "abcd"]
    total = call(rmbatch.trl.reward_func(str(path)), completions, gold=gold)
    assert total == [1.5, -0.5]
    functions = rmbatch.trl.reward_funcs(str(path))
    assert [function.__name__ for function in functions] == ["exact", "tidy"]
    columns = [call(function, completions, gold=gold) for function in functions]
    weights = rmbatch.trl.reward_weights(str(path))
    assert [sum(weight * score for weight, score in zip(weights, row)) for row in zip(*columns)] == total


def test_own_functions_and_rewards_are_taken() -> None:
    assert call(rmbatch.trl.reward_func(moody), ["four"]) == [4.0]
    assert call(rmbatch.trl.reward_func(rmbatch.reward("exact_match")), ["4"], answer=["4"]) == [1.0]

    def theirs(completions, **kwargs):  # type: ignore[no-untyped-def]
        return [len(completion[0]["content"]) + size for completion, size in zip(completions, kwargs["size"])]

    asked = [[{"role": "user", "content": "What is 2 + 2?"}]]
    assert call(rmbatch.trl.reward_func(theirs), said("four"), asked, size=[1]) == [5.0]


def test_raising_reward_gives_none_and_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    function = rmbatch.trl.reward_func(moody)
    metrics, extras = {}, {}
    with caplog.at_level(logging.WARNING):
        given = call(function, ["raise", "good", "fine"], log_metric=metrics.__setitem__, log_extra=extras.__setitem__)
    assert given == [None, 4.0, 4.0]
    assert "reward 'moody': 1 of 3: reward_raised: ValueError: a bad mood" in caplog.text
    assert metrics == {"moody/no_score": pytest.approx(1 / 3)}
    assert extras == {"moody.error": ["reward_raised: ValueError: a bad mood", "", ""]}
    with pytest.raises(JobError, match="reward 'moody' raised on all 2 completions"):
        call(function, ["raise", "raise"])


def test_rewards_that_compare_get_the_generations_of_a_prompt() -> None:
    function = rmbatch.trl.reward_func("majority_vote", num_generations=3)
    prompts = ["a"] * 3 + ["b"] * 3
    boxed = [rf"\boxed{{{answer}}}" for answer in "112233"]
    assert call(function, boxed[:3] + boxed[3:], prompts) == [1.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    assert call(function, said(*boxed), prompts) == [1.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    with pytest.raises(UserError, match="do not fall into groups of 3"):
        call(function, boxed, ["a", "b"] * 3)
    with pytest.raises(UserError, match="do not fall into groups of 3"):
        call(function, boxed[:4], prompts[:4])
    with pytest.raises(UserError, match="write num_generations="):
        rmbatch.trl.reward_func("majority_vote")


def test_function_is_named_after_its_reward_and_pickles() -> None:
    function = rmbatch.trl.reward_func("exact_match")
    assert function.__name__ == "exact_match"
    assert rmbatch.trl.reward_func("exact_match", name="same").__name__ == "same"
    assert call(pickle.loads(pickle.dumps(function)), ["4"], answer=["4"]) == [1.0]


def test_the_async_form_is_a_coroutine_function() -> None:
    function = rmbatch.trl.async_reward_func("exact_match")
    assert inspect.iscoroutinefunction(function)  # TRL looks so
    assert asyncio.run(call(function, ["4"], answer=["4"])) == [1.0]
    assert function.__name__ == "exact_match"


def test_grpo_trains_with_our_rewards(tmp_path: Path) -> None:
    """Two real steps on the CPU. TRL is no dependency of ours: this runs only where it is installed."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tests.tiny_models import make_model

    folder = make_model(tmp_path / "model", "causal")
    job = tmp_path / "job.yaml"
    job.write_text(JOB)
    asked = [[{"role": "user", "content": text}] for text in ("two and two?", "two and three?")]
    for prompts in (asked, ["two and two?", "two and three?"]):
        trainer = trl.GRPOTrainer(
            AutoModelForCausalLM.from_pretrained(folder),
            reward_funcs=[
                rmbatch.trl.reward_func(str(job), name="job"),
                rmbatch.trl.async_reward_func(moody),
                rmbatch.trl.reward_func("majority_vote", num_generations=2),
            ],
            args=trl.GRPOConfig(
                output_dir=str(tmp_path / "out"),
                per_device_train_batch_size=2,
                num_generations=2,
                max_completion_length=8,
                max_steps=2,
                logging_steps=1,
                report_to=[],
                use_cpu=True,
                save_strategy="no",
            ),
            train_dataset=datasets.Dataset.from_dict({"prompt": prompts * 2, "gold": ["four", "five"] * 2}),
            processing_class=AutoTokenizer.from_pretrained(folder),
        )
        trainer.train()
        logged = [line for line in trainer.state.log_history if "reward" in line]
        assert len(logged) == 2
        assert all({"rewards/job/mean", "rewards/moody/mean", "job/no_score"} <= line.keys() for line in logged)


def test_a_misspelt_role_is_told_when_the_function_is_made() -> None:
    with pytest.raises(UserError, match="reads no 'refrence'; did you mean 'reference'"):
        rmbatch.trl.reward_func("exact_match", columns={"refrence": "gold"})
