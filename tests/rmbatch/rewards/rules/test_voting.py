"""Votes among the candidates of a prompt, as tables; the order of the candidates never matters."""

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import rmbatch


def scores(name: str, responses: list[str | None], **knobs: Any) -> list[float | None]:
    return [one.score for one in rmbatch.reward(name, **knobs).evaluate({"responses": responses})]


@pytest.mark.parametrize(
    ("responses", "knobs", "majority", "agreement"),
    [
        (["4", "4", "5"], {}, [1.0, 1.0, 0.0], [2 / 3, 2 / 3, 1 / 3]),
        (["Yes.", " yes", "no"], {}, [1.0, 1.0, 0.0], [2 / 3, 2 / 3, 1 / 3]),
        (["ｶﾞ", "ガ", "カ"], {}, [1.0, 1.0, 0.0], [2 / 3, 2 / 3, 1 / 3]),
        (["４", "4", "5"], {}, [1.0, 1.0, 0.0], [2 / 3, 2 / 3, 1 / 3]),  # full width is the same digit
        (["102", "10²", "102."], {}, [1.0, 0.0, 1.0], [2 / 3, 1 / 3, 2 / 3]),  # NFKC makes 102 of 10²
        (["1½", "11/2"], {}, [1.0, 1.0], [0.5, 0.5]),  # and 11/2 of 1½
        (["$.5$", ".5.", "5"], {}, [1.0, 1.0, 0.0], [2 / 3, 2 / 3, 1 / 3]),  # only the last point is a full stop
        (["4", "5"], {}, [1.0, 1.0], [0.5, 0.5]),  # a tie has two winners
        (["4", None, "4", ""], {}, [1.0, None, 1.0, 0.0], [1.0, None, 1.0, 0.0]),  # null and "" do not vote
        ([None, None], {}, [None, None], [None, None]),
        (["", ""], {}, [0.0, 0.0], [0.0, 0.0]),  # nobody votes
        (["a"], {}, [1.0], [1.0]),
        (["x\n4", "y\n4", "4\nz"], {"answer": "last_line"}, [1.0, 1.0, 0.0], [2 / 3, 2 / 3, 1 / 3]),
        ([r"\boxed{4}", r"so \boxed{4}", "4"], {"answer": "boxed"}, [1.0, 1.0, 0.0], [1.0, 1.0, 0.0]),
        ([r"\boxed{\frac{1}{2}}", r"\boxed{\frac{1}{2}} end"], {"answer": "boxed"}, [1.0, 1.0], [1.0, 1.0]),
        (
            ["<answer>a</answer>", "<answer>b</answer><answer>A</answer>"],
            {"answer": "answer_tag"},
            [1.0] * 2,
            [1.0] * 2,
        ),
        ([r"\boxed{0.5}", r"\boxed{\frac12}", r"\boxed{2}"], {"answer": "boxed"}, [1.0] * 3, [1 / 3] * 3),
        (
            [r"\boxed{0.5}", r"\boxed{\frac12}", r"\boxed{2}"],
            {"answer": "boxed", "equal": "math"},
            [1.0, 1.0, 0.0],
            [2 / 3, 2 / 3, 1 / 3],
        ),
        (["cat", "dog", "cat"], {"equal": "math"}, [1.0, 0.0, 1.0], [2 / 3, 1 / 3, 2 / 3]),  # no mathematics: as text
    ],
)
def test_voting(
    responses: list[str | None], knobs: dict[str, Any], majority: list[float | None], agreement: list[float | None]
) -> None:
    assert scores("majority_vote", responses, **knobs) == majority
    assert scores("agreement", responses, **knobs) == agreement
    order = list(range(len(responses)))
    random.Random(0).shuffle(order)
    shuffled = scores("agreement", [responses[place] for place in order], **knobs)
    assert shuffled == [agreement[place] for place in order]


def test_the_reason_counts_the_votes() -> None:
    given = rmbatch.reward("majority_vote").evaluate({"responses": ["4", "4", "5", ""]})
    assert [one.reason for one in given] == ["2 of 3 votes", "2 of 3 votes", "1 of 3 votes", "no answer"]


def test_off_the_main_thread_scores_are_the_same() -> None:
    responses: list[str | None] = ["0.5", "1/2", "2"]
    with ThreadPoolExecutor(1) as pool:
        given = pool.submit(scores, "agreement", responses, equal="math").result()
    assert given == scores("agreement", responses, equal="math") == [2 / 3, 2 / 3, 1 / 3]
