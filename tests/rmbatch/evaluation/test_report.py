"""Reports: what is said of length and chance, comparisons on shared items, blocks in any order, intervals that hold."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rmbatch.evaluation.base import load_suite
from rmbatch.evaluation.report import leaderboard, summarise
from rmbatch.evaluation.rewardbench import SECTIONS
from rmbatch.evaluation.tally import SuiteTally
from tests.rmbatch.evaluation import slow
from tests.rmbatch.evaluation.slow import Case

SUITE = load_suite("preferences")


def pairs(number: int, *, longer_is_right: float, seed: int = 0) -> list[Case]:
    """Pairs whose right response is the longer one in a share of them."""
    draw = np.random.default_rng(seed)
    long_first = draw.random(number) < longer_is_right
    return [{"correct": [1, 0], "lengths": [9, 5] if longer else [5, 9]} for longer in long_first]


def report_of(
    cases: list[Case], scores: dict[str, list[list[Any]]], compare: list[tuple[str, str]] | None = None
) -> Any:
    tally = SuiteTally(SUITE, list(scores), compare or [], replicates=300)
    items, _ = slow.columns(cases)
    judged = {
        name: slow.columns([case | {"scores": each} for case, each in zip(cases, some)])[1]
        for name, some in scores.items()
    }
    tally.add(items, judged)
    return summarise({"mine": (SUITE, tally.result())}, list(scores), compare or [])


def says(report: Any, name: str) -> str:
    return " / ".join(report["suites"]["mine"]["rewards"][name]["says"])


def test_length_scorer_is_explained_by_length() -> None:
    cases = pairs(300, longer_is_right=0.7)
    lengths = [case["lengths"] for case in cases]
    noisy = [
        each if place % 3 else [1.0, 0.0] for place, each in enumerate(lengths)
    ]  # knows the truth of each third item
    report = report_of(cases, {"length": lengths, "noisy": noisy})
    assert "length alone explains it: length" in says(report, "length")
    assert "100%" in says(report, "length")
    assert "length alone" not in says(report, "noisy")


def test_brevity_is_length_too() -> None:
    cases = pairs(200, longer_is_right=0.2)
    report = report_of(cases, {"brief": [[-each for each in case["lengths"]] for case in cases]})
    assert "picking the shortest response" in says(report, "brief")


def test_length_scorer_at_chance_is_still_length() -> None:
    cases = pairs(200, longer_is_right=0.5)
    report = report_of(cases, {"length": [case["lengths"] for case in cases]})
    assert "no better than chance" in says(report, "length")
    assert "length alone explains it" in says(report, "length")


def test_constant_scorer_is_chance_and_not_length() -> None:
    cases = pairs(200, longer_is_right=0.7)
    report = report_of(cases, {"constant": [[1.0, 1.0]] * 200})
    assert says(report, "constant") == "no better than chance: constant 0.500, chance 0.500"
    assert report["suites"]["mine"]["rewards"]["constant"]["ties"] == 200


def test_comparison_is_on_items_that_both_have_scored() -> None:
    """Where b is silent a is wrong; on the others they are equal. So there is no difference."""
    cases = pairs(100, longer_is_right=0.5)
    a = [[0.0, 1.0]] * 50 + [[1.0, 0.0]] * 50
    b = [[None, None]] * 50 + [[1.0, 0.0]] * 50
    (found,) = report_of(cases, {"a": a, "b": b}, [("a", "b")])["comparisons"]
    assert (found["items"], found["difference"], found["p_mcnemar"]) == (50, 0.0, 1.0)


def test_mcnemar_decides_where_items_are_right_or_wrong() -> None:
    cases = pairs(60, longer_is_right=0.5)
    a = [[1.0, 0.0]] * 55 + [[0.0, 1.0]] * 5
    b = [[1.0, 0.0]] * 45 + [[0.0, 1.0]] * 10 + [[1.0, 0.0]] * 5
    (found,) = report_of(cases, {"a": a, "b": b}, [("a", "b")])["comparisons"]
    assert (found["only_first"], found["only_second"]) == (10, 5)
    assert found["p"] == found["p_mcnemar"] == pytest.approx(0.3017578125)
    tied = report_of(cases, {"a": a, "b": [[1.0, 1.0]] * 60}, [("a", "b")])["comparisons"][0]
    assert tied["p_mcnemar"] is None  # half points
    assert tied["p"] == tied["p_bootstrap"]


def test_mcnemar_is_not_asked_about_a_mean_of_sections() -> None:
    """More items are right only with a, and the mean of sections is higher with b: p is about that difference."""
    suite = load_suite("rewardbench")
    cases = [{"subset": "alpacaeval-easy", "correct": [1, 0]}] * 20 + [{"subset": "hep-go", "correct": [1, 0]}] * 140
    right = {"a": [False] * 4 + [True] * 28 + [False] * 128, "b": [True] * 20 + [False] * 140}
    items, _ = slow.columns(cases)
    judged = {
        name: slow.columns([case | {"scores": [float(each), 0.5]} for case, each in zip(cases, some)])[1]
        for name, some in right.items()
    }
    tally = SuiteTally(suite, ["a", "b"], [("a", "b")], replicates=200)
    tally.add(items, judged)
    (found,) = summarise({"mine": (suite, tally.result())}, ["a", "b"], [("a", "b")])["comparisons"]
    assert (found["difference"] < 0, found["only_first"] > found["only_second"]) == (True, True)
    assert (found["p_mcnemar"], found["p"]) == (None, found["p_bootstrap"])


def test_mcnemar_is_not_asked_about_several_items_of_one_prompt() -> None:
    """Four prompts with ten items each that are alike: 20 against 10 items are two prompts against one."""
    cases = pairs(40, longer_is_right=0.5)
    a, b = ([[1.0, 0.0] if place // 10 in some else [0.0, 1.0] for place in range(40)] for some in ((0, 1), (2,)))
    tally = SuiteTally(SUITE, ["a", "b"], [("a", "b")], replicates=200)
    items, _ = slow.columns(cases)
    judged = {
        name: slow.columns([case | {"scores": each} for case, each in zip(cases, some)])[1]
        for name, some in (("a", a), ("b", b))
    }
    tally.add(replace(items, key=np.repeat(np.arange(4), 10).astype(np.uint64)), judged)
    (found,) = summarise({"mine": (SUITE, tally.result())}, ["a", "b"], [("a", "b")])["comparisons"]
    assert (found["only_first"], found["only_second"], found["p_mcnemar"]) == (20, 10, None)
    assert found["p"] == found["p_bootstrap"]


def test_difference_without_an_interval_is_no_verdict_about_chance() -> None:
    """One item in each of 23 subsets: no draw holds all of them, so no draw has the mean of sections."""
    suite = load_suite("rewardbench")
    cases = [{"subset": each, "correct": [1, 0]} for weights in SECTIONS.values() for each in weights]
    tally = SuiteTally(suite, ["rm"], replicates=100)
    items, judged = slow.columns([case | {"scores": [1.0, 0.0]} for case in cases])
    tally.add(items, {"rm": judged})
    found = summarise({"mine": (suite, tally.result())}, ["rm"], [])["suites"]["mine"]["rewards"]["rm"]
    assert (found["figures"]["overall"]["fair"], found["figures"]["overall"]["low"]) == (1.0, None)
    assert [line.partition(":")[0] for line in found["says"]] == ["no interval"]


def test_leaderboard_goes_by_the_worst_case() -> None:
    """A scorer that answers only what it is sure of stands below one that answers all, slightly worse."""
    cases = pairs(100, longer_is_right=0.5)
    shy = [[1.0, 0.0]] * 50 + [[None, 0.0]] * 50
    bold = [[1.0, 0.0]] * 90 + [[0.0, 1.0]] * 10
    lines = leaderboard(report_of(cases, {"shy": shy, "bold": bold}))
    assert [(line["reward"], line["worst"], line["best"]) for line in lines] == [("bold", 0.9, 0.9), ("shy", 0.5, 1.0)]
    assert any("50.0% of it has no score" in text for text in lines[1]["says"])


def test_blocks_and_their_order_change_nothing() -> None:
    cases = pairs(97, longer_is_right=0.6)
    scores = [[float(place % 3), 1.0] for place in range(97)]
    whole = report_of(cases, {"rm": scores})
    tally = SuiteTally(SUITE, ["rm"], replicates=300)
    items, judged = slow.columns([case | {"scores": each} for case, each in zip(cases, scores)])
    for start in (60, 0, 30):
        rows = np.arange(start, {60: 97, 0: 30, 30: 60}[start])
        tally.add(items.take(rows), {"rm": judged.take(rows)})
    assert summarise({"mine": (SUITE, tally.result())}, ["rm"], []) == whole


def test_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Of 200 sets drawn from a reward that is right in 70 of 100, the interval holds 0.7 in about 190."""
    held = 0
    draw = np.random.default_rng(5)
    for trial in range(200):
        right = draw.random(150) < 0.7
        cases = [{"correct": [1, 0], "lengths": [1, 1], "scores": [1.0, 0.0] if each else [0.0, 1.0]} for each in right]
        items, judged = slow.columns(cases)
        tally = SuiteTally(SUITE, ["rm"], replicates=200, seed=trial)
        tally.add(items, {"rm": judged})
        figure = summarise({"mine": (SUITE, tally.result())}, ["rm"], [])["suites"]["mine"]["rewards"]["rm"]["figures"]
        held += figure["overall"]["low"] <= 0.7 <= figure["overall"]["high"]
    assert 180 <= held <= 198


def test_items_of_one_prompt_widen_the_interval() -> None:
    """Ten copies of each prompt say no more than the prompts themselves."""
    draw = np.random.default_rng(2)
    right = np.repeat(draw.random(40) < 0.5, 10)
    cases = [{"correct": [1, 0], "lengths": [1, 1], "scores": [1.0, 0.0] if each else [0.0, 1.0]} for each in right]
    items, judged = slow.columns(cases)
    widths = []
    for keys in (np.arange(400), np.repeat(np.arange(40), 10)):
        same = items.take(np.arange(400))
        object.__setattr__(same, "key", keys.astype(np.uint64))
        tally = SuiteTally(SUITE, ["rm"], replicates=400)
        tally.add(same, {"rm": judged})
        figure = summarise({"mine": (SUITE, tally.result())}, ["rm"], [])["suites"]["mine"]["rewards"]["rm"]["figures"]
        widths.append(figure["overall"]["high"] - figure["overall"]["low"])
    assert widths[1] / widths[0] == pytest.approx(10**0.5, rel=0.25)
