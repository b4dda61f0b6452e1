"""Made-up rows in the columns that each benchmark was published in, with what goes wrong in the real ones."""

from typing import Any

from tests.rmbatch.adapters.published import said


def answer(text: str | None) -> dict[str, Any]:
    return {"llm_name": "some-model", "answer": text}


def lists(id: str, chosen: list[str] | None, rejected: list[str] | None, **other: Any) -> dict[str, Any]:
    return {"id": id, "prompt": "Sum 1 and 1.", "chosen": chosen, "rejected": rejected, **other}


def ppe(question: str, scores: list[bool] | None, pairs: list[list[int]] | None) -> dict[str, Any]:
    texts = {f"response_{place}": f"answer {place}" for place in (1, 2, 3)}
    return {
        "question_id": question,
        "model_name": "m",
        "prompt": "Why?",
        "scores": scores,
        "sampled_conflict_pairs": pairs,
        **texts,
    }


def prm(idx: str, process: list[str] | None, errors: list[int] | None, kind: str = "circular") -> dict[str, Any]:
    return {
        "idx": idx,
        "original_question": "Sum 1 and 1.",
        "modified_question": "Sum 1 and 1!",
        "original_process": ["one", "two"],
        "modified_process": process,
        "modified_steps": errors,
        "error_steps": errors,
        "classification": kind,
        "reason": "because",
    }


BENCHMARKS: dict[str, list[dict[str, Any]]] = {
    "rewardbench": [
        {"id": place, "prompt": "Hi", "chosen": chosen, "rejected": "no", "subset": "hep-go", "chosen_model": "m"}
        for place, chosen in enumerate(("yes", "", None))
    ],
    "rewardbench2": [
        lists("tied:1", ["2", "two"], ["3"], subset="Ties", num_correct=2),
        lists("7", ["2"], ["3", "4", "5"], subset="Math", num_correct=1),
        lists("8", None, ["3"], subset="Math", num_correct=0),
    ],
    "rm_bench": [
        lists("a", ["x", "y", "z"], ["p", "q", "r"], domain="safety-refuse"),
        lists("b", ["x"], [], domain="chat"),
    ],
    "rmb_pairs": [
        {
            "pair_uid": "1",
            "conversation_input": said("Hi"),
            "chosen": answer("yes"),
            "reject": answer(None),
            "category_path": "Pairwise_set/Helpfulness/Chat/Discussion",
        },
        {
            "pair_uid": "2",
            "conversation_input": said("Hi", "Hello", "And?"),
            "chosen": answer("a"),
            "reject": answer("b"),
            "category_path": "Pairwise_set/Harmlessness/S1",
        },
    ],
    "rmb_best_of_n": [
        {
            "bon_uid": "1",
            "conversation_input": said("Hi"),
            "bon_best": answer("best"),
            "loser_list": [answer("a"), answer("b")],
            "category_path": "BoN_set/Harmlessness/multi",
        },
        {
            "bon_uid": "2",
            "conversation_input": said("Hi"),
            "bon_best": answer("best"),
            "loser_list": None,
            "category_path": "BoN_set/Harmlessness/multi",
        },
    ],
    "judgebench": [
        {
            "pair_id": f"p{place}",
            "original_id": "1",
            "source": "livebench-math",
            "question": "What?",
            "response_model": "m",
            "response_A": "a",
            "response_B": "b",
            "label": label,
        }
        for place, label in enumerate(("A>B", "B>A", "A=B", None))
    ],
    "llmbar": [{"input": "Say hi.", "output_1": "hi", "output_2": "no", "label": label} for label in (1, 2, 0)],
    "ppe_correctness": [
        ppe("q1", [True, False, True], [[0, 1], [1, 2]]),
        ppe("q2", [False, False, False], []),
        ppe("q3", [True], None),
        ppe("q4", [True, False, True], [[0, 3]]),  # no such response
        ppe("q5", [True, False, True], [[0, 1], [2]]),
    ],
    "processbench": [
        {"id": "gsm8k-0", "generator": "m", "problem": "Sum.", "steps": ["a", "b"], "label": label}
        for label in (-1, 1, 2, None)
    ],
    "prmbench": [prm("p_0", ["a", "b"], [2]), prm("p_1", ["a"], []), prm("p_2", ["a"], [2]), prm("p_3", None, None)],
    "prmbench_correct": [prm("p_0", ["a", "b"], [2]), prm("p_1", ["a"], [])],
}
"""Rows by adapter."""
