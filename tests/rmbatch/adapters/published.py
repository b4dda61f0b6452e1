"""Made-up rows in the columns that each dataset was published in, with what goes wrong in the real ones.

Schemas: the datasets' cards and the loaders of TRL, NeMo-Aligner, OpenRLHF and verl.
"""

from typing import Any

import pyarrow as pa

from rmbatch.adapters.process import _STEP_TAG as TAG


def said(*turns: str) -> list[dict[str, str]]:
    """Messages, the user's first."""
    return [{"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(turns)]


SYSTEM = {"role": "system", "content": "Be brief."}
STARS = dict(zip(("helpfulness", "correctness", "coherence", "complexity", "verbosity"), (3, 4, 4, 1, 2)))
MULTI_TURN = "Hi\n<extra_id_1>Assistant\nHello!\n<extra_id_1>User\nSum 2 and 2"


def completion(response: str | None, score: float | None, *ratings: str, overall: float | None = 7.5) -> dict[str, Any]:
    aspects = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    annotations = {name: {"Rating": each, "Rationale": "because"} for name, each in zip(aspects, ratings)}
    return {
        "model": "alpaca-7b",
        "response": response,
        "annotations": annotations,
        "fine-grained_score": score,
        "overall_score": overall,
        "principle": "honesty",
    }


def pku(better: int | None, safer: int | None, **other: Any) -> dict[str, Any]:
    return {
        "prompt": "How do I open a lock?",
        "response_0": "With its key.",
        "response_1": "Break it.",
        "is_response_0_safe": True,
        "is_response_1_safe": False,
        "response_0_severity_level": 0,
        "response_1_severity_level": 2,
        "better_response_id": better,
        "safer_response_id": safer,
        **other,
    }


def step(*completions: tuple[str, int | None], chosen: int | None = 0, human: Any = None) -> dict[str, Any]:
    return {
        "completions": [{"text": text, "rating": rating, "flagged": None} for text, rating in completions] or None,
        "human_completion": human,
        "chosen_completion": chosen,
    }


def prm(*steps: dict[str, Any], problem: str | None = "What is 1 + 1?") -> dict[str, Any]:
    question = {"problem": problem, "ground_truth_answer": "2", "pre_generated_steps": None}
    return {"question": question, "label": {"steps": list(steps), "total_time": 7, "finish_reason": "solution"}}


SHEPHERD = f"Ann has 3 eggs. She eats 1. How many? Step 1: 3 - 1 = 2. {TAG}\nStep 2: The answer is: 2 {TAG}"

PUBLISHED: dict[str, list[dict[str, Any]]] = {
    "helpsteer2": [
        {"prompt": "What is 2 + 2?", "response": "4", **STARS},
        {"prompt": MULTI_TURN, "response": "4", **STARS},
        {"prompt": "What is 2 + 2?", "response": None, **dict.fromkeys(STARS)},
        {"prompt": None, "response": "", **STARS},
    ],
    "helpsteer2_pairs": [
        {"split": "train", "prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": -3},
        {"split": "val", "prompt": MULTI_TURN, "response_1": "a", "response_2": "b", "preference_strength": 1},
        {"split": "val", "prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": 0},  # a tie
        {"split": None, "prompt": None, "response_1": None, "response_2": "b", "preference_strength": None},
        {"split": "val", "prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": -100},  # no vote
    ],
    "helpsteer3": [
        {
            "domain": "code",
            "language": "python",
            "context": said("a", "b", "c"),
            "response1": "x",
            "response2": "y",
            "overall_preference": 2,
            "individual_preference": [{"score": 2, "reasoning": "r", "feedback1": "f", "feedback2": "g"}],
        },
        {
            "domain": "general",
            "language": None,
            "context": [SYSTEM, *said("a")],
            "response1": "x",
            "response2": None,
            "overall_preference": 0,
            "individual_preference": [],
        },
        {
            "domain": None,
            "language": "zh",
            "context": None,
            "response1": "x",
            "response2": "y",
            "overall_preference": -1,
            "individual_preference": None,
        },
    ],
    "ultrafeedback": [
        {
            "source": "sharegpt",
            "instruction": "Sum 2 and 2",
            "models": ["alpaca-7b"],
            "completions": [completion("4", 4.75, "5", "5", "4", "5"), completion("5", None, "2", "N/A", "1", "3")],
            "correct_answers": ["None"],
            "incorrect_answers": ["None"],
        },
        {
            "source": "flan",
            "instruction": "p",
            "models": [],
            "completions": [],
            "correct_answers": [],
            "incorrect_answers": [],
        },
        {
            "source": None,
            "instruction": None,
            "models": None,
            "completions": None,
            "correct_answers": None,
            "incorrect_answers": None,
        },
        {
            "source": "flan",
            "instruction": "p",
            "models": ["a", "b"],
            "completions": [completion(None, float("nan"), "N/A", overall=None), completion("", 1.0)],
            "correct_answers": [],
            "incorrect_answers": [],
        },
    ],
    "ultrafeedback_binarized": [
        {
            "prompt": "a",
            "prompt_id": "77",
            "chosen": said("a", "b"),
            "rejected": said("a", "c"),
            "messages": said("a", "b"),
            "score_chosen": 8.5,
            "score_rejected": 6.0,
        },
        {  # both answers are the same: the last message is no part of the prompt
            "prompt": "a",
            "prompt_id": "78",
            "chosen": said("a", "b"),
            "rejected": said("a", "b"),
            "messages": None,
            "score_chosen": 8.0,
            "score_rejected": 8.0,
        },
        {
            "prompt": "a",
            "prompt_id": None,
            "chosen": None,
            "rejected": said("a", "c"),
            "messages": None,
            "score_chosen": None,
            "score_rejected": 6.0,
        },
    ],
    "skywork_preference": [
        {"chosen": said("a", "b", "c", "d"), "rejected": said("a", "b", "c", "e"), "source": "magpie_pro"},
        {"chosen": [SYSTEM, *said("a", "b")], "rejected": [SYSTEM, *said("a", "c")], "source": "offsetbias"},
        {"chosen": said("a", "b"), "rejected": said("x", "c"), "source": None},  # two prompts
        {"chosen": [], "rejected": None, "source": "wildguard"},
    ],
    "pku_safe_rlhf": [pku(0, 0), pku(1, 0), pku(None, 1), pku(0, 0, prompt=None, response_1=None)],
    "pku_safe_rlhf_safer": [pku(0, 0), pku(1, 0), pku(0, None), pku(0, 7)],
    "hh": [
        {"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: go away "},
        {
            "chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: two\n\nlines",
            "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:",
        },
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: x\n\nAssistant: b"},  # two prompts
        {"chosen": "not a dialogue", "rejected": "\n\nHuman: x\n\nAssistant: b"},
        {"chosen": None, "rejected": "\n\nHuman: x\n\nAssistant: b"},
        {"chosen": "\n\nHuman: x\n\nAssistant: b\n\nHuman: y", "rejected": "\n\nHuman: x\n\nAssistant: b"},  # no answer
    ],
    "tulu3_preference": [
        {
            "id": "1",
            "source": "ai2/wildchat",
            "prompt": "c",
            "chosen": said("a", "b", "c", "d"),
            "rejected": said("a", "b", "c", "e"),
        },
        {
            "id": None,
            "source": None,
            "prompt": "a",
            "chosen": [SYSTEM, *said("a", "b")],
            "rejected": [SYSTEM, *said("a", "")],
        },
        {"id": "3", "source": "s", "prompt": None, "chosen": None, "rejected": None},
    ],
    "pairs": [
        {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 0.5},
        {"prompt": "a", "chosen": None, "rejected": "c", "margin": None},
        {"prompt": None, "chosen": "b", "rejected": "c", "margin": -1.0},
    ],
    "sharegpt": [
        {
            "system": "Be brief.",
            "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
        },
        {
            "system": None,
            "conversations": [
                {"from": "system", "value": "s"},
                {"from": "human", "value": "a"},
                {"from": "function_call", "value": "f()"},
                {"from": "observation", "value": "1"},
                {"from": "gpt", "value": "b"},
            ],
        },
        {"system": "", "conversations": [{"from": "human", "value": "a"}]},  # nobody answers
        {"system": "s", "conversations": []},
        {"system": "s", "conversations": None},
    ],
    "alpaca": [
        {"instruction": "Add.", "input": "2 and 2", "output": "4", "system": "Be brief.", "history": [["a", "b"]]},
        {"instruction": "Add.", "input": "", "output": "", "system": None, "history": []},
        {"instruction": "Add.", "input": None, "output": None, "system": "", "history": None},
        {"instruction": None, "input": "x", "output": "4", "system": None, "history": None},
    ],
    "chat": [
        {"messages": [SYSTEM, *said("a", "b", "c", "d")]},
        {"messages": said("a")},
        {"messages": [{"role": "assistant", "content": "b"}]},
        {"messages": []},
        {"messages": None},
    ],
    "bigbench_mistake": [
        {"input": "q", "steps": ["a", "b"], "mistake_index": 1, "answer": "5", "target": "4"},
        {"input": "q", "steps": ["a", "b"], "mistake_index": None, "answer": "4", "target": "4"},
        {"input": "q", "steps": ["a", "b"], "mistake_index": 2, "answer": "4", "target": "4"},  # no such step
        {"input": None, "steps": None, "mistake_index": 0, "answer": None, "target": None},
        {"input": "q", "steps": [], "mistake_index": None, "answer": None, "target": "4"},
    ],
    "math_shepherd": [
        {"input": SHEPHERD, "label": SHEPHERD.replace(TAG, "+"), "task": "GSM8K"},
        {"input": SHEPHERD, "label": SHEPHERD.replace(TAG, "+", 1).replace(TAG, "-"), "task": "GSM8K"},
        {"input": SHEPHERD, "label": "another text", "task": "MATH"},
        {  # a tag inside the prompt
            "input": f"Mr. Rocky {TAG}\nStep 1: a {TAG}",
            "label": "Mr. Rocky -\nStep 1: a +",
            "task": "GSM8K",
        },
        {"input": f"How many? First {TAG} Then {TAG}", "label": "How many? First + Then -", "task": None},
        {"input": "nothing", "label": "nothing", "task": "MATH"},
        {"input": None, "label": None, "task": None},
    ],
    "prm800k": [
        prm(step(("a", 1)), step(("b", -1), ("c", 0), chosen=1), step(("d", -1), ("e", 1), chosen=None)),
        prm(step(("a", 1)), step(("b", -1), chosen=None, human={"text": "own", "rating": None})),
        prm(step(("a", None))),
        prm(step(("a", 0)), step(chosen=None)),
        prm(problem=None),
        {"question": None, "label": None},
    ],
    "stepwise": [
        {"prompt": "q", "completions": ["a", "b", "c"], "labels": [True, False, False]},
        {"prompt": "q", "completions": ["a"], "labels": [True]},
        {"prompt": "q", "completions": ["a", "b"], "labels": [True]},  # one label is missing
        {"prompt": None, "completions": None, "labels": None},
    ],
}


def published(name: str) -> pa.Table:
    """The rows of a dataset as a table."""
    return pa.Table.from_pylist(PUBLISHED[name])
