"""Every suite's figures: equal to slow statements of the published definitions, with ties and nulls; worked by hand."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.errors import UserError
from rmbatch.evaluation.base import SUITES, Judged, Suite, load_suite
from rmbatch.evaluation.figures import Value
from rmbatch.evaluation.rewardbench import SECTIONS
from rmbatch.evaluation.tally import CONTROL, SuiteTally
from tests.rmbatch.evaluation import slow
from tests.rmbatch.evaluation.slow import Case, Figure

SLOW = settings(deadline=None, max_examples=50)
SCORE = st.one_of(st.none(), st.integers(0, 3).map(float))
SURE = st.integers(0, 3).map(float)
REPLICATES = 100


def figures(name: str, cases: Sequence[Case], *, compares: bool = False) -> dict[str, Value]:
    items, judged = slow.columns(cases, compares=compares)
    tally = SuiteTally(load_suite(name), ["rm"], replicates=REPLICATES)
    tally.add(items, {"rm": judged})
    return dict(tally.result().figures["rm"])


def check(found: Value, expected: Figure) -> None:
    """The figure, place by place; None is NaN."""
    places = (found.official, found.fair, found.worst, found.best, found.coverage)
    assert [float(each[0]) for each in places] == pytest.approx(
        [math.nan if each is None else each for each in expected], abs=1e-12, nan_ok=True
    )


def pairs_of(subsets: Sequence[str], score: st.SearchStrategy[Any] = SCORE) -> st.SearchStrategy[list[Case]]:
    one = st.fixed_dictionaries(
        {
            "subset": st.sampled_from(subsets),
            "correct": st.sampled_from([[1, 0], [0, 1]]),
            "scores": st.lists(score, min_size=2, max_size=2),
        }
    )
    return st.lists(one, min_size=1, max_size=12)


@SLOW
@given(pairs_of(["alpacaeval-easy", "mt-bench-easy", "donotanswer", "math-prm", "hep-go"]), st.booleans())
def test_rewardbench(cases: list[Case], compares: bool) -> None:
    official = slow.shared(lambda case: 0.5) if compares else slow.strict
    found = figures("rewardbench", cases, compares=compares)
    sections = []
    for section, weights in SECTIONS.items():
        present = [each for each in weights if any(case["subset"] == each for case in cases)]
        rates = [slow.picks([case for case in cases if case["subset"] == each], official) for each in present]
        if rates:
            sections.append(slow.mean_figures(rates, [weights[each] for each in present]))
            check(found[section], sections[-1])
    check(found["overall"], slow.mean_figures(sections))
    check(found["pooled"], slow.picks(cases, official))


@st.composite
def best_of_four(draw: st.DrawFn, score: st.SearchStrategy[Any] = SCORE) -> list[Case]:
    number = draw(st.integers(1, 8))
    return [
        {
            "id": str(place),
            "subset": draw(st.sampled_from(["Math", "Focus"])),
            "correct": [1, 0, 0, 0],
            "scores": draw(st.lists(score, min_size=4, max_size=4)),
        }
        for place in range(number)
    ]


@st.composite
def ties(draw: st.DrawFn, score: st.SearchStrategy[Any]) -> list[Case]:
    cases = []
    for number in range(draw(st.integers(1, 4))):
        for kind, num_right in (("ref", 1), ("tied", draw(st.integers(2, 4)))):
            num_wrong = draw(st.integers(1, 3))
            size = num_right + num_wrong
            correct = [1] * num_right + [0] * num_wrong
            scores = draw(st.lists(score, min_size=size, max_size=size))
            cases.append({"id": f"{kind}:{number}", "subset": "Ties", "correct": correct, "scores": scores})
    return list(draw(st.permutations(cases)))


@SLOW
@given(best_of_four(), ties(SURE), st.booleans())
def test_rewardbench2(cases: list[Case], tied: list[Case], compares: bool) -> None:
    found = figures("rewardbench2", [*tied, *cases], compares=compares)
    official = slow.shared(lambda case: 1 / len(case["scores"]) if compares else 0.0)
    parts = []
    for domain in {case["subset"] for case in cases}:
        parts.append(slow.picks([case for case in cases if case["subset"] == domain], official))
        check(found[domain], parts[-1])
    score = slow.ties_score(tied, lambda case: case["scores"])
    parts.append((score, score, score, score, 1.0))
    check(found["Ties"], parts[-1])
    check(found["overall"], slow.mean_figures(parts))


@SLOW
@given(ties(SCORE))
def test_rewardbench2_bounds_hold_whatever_is_missing(tied: list[Case]) -> None:
    value = figures("rewardbench2", tied)["Ties"]
    for low_first in (True, False):  # fill what is missing in two opposite ways
        filled = [case | {"scores": slow.filled({**case, "scores": case["scores"]}, right=low_first)} for case in tied]
        finite = [case | {"scores": [float(np.clip(score, -9, 9)) for score in case["scores"]]} for case in filled]
        true = slow.ties_score(finite, lambda case: case["scores"])
        assert value.worst[0] - 1e-12 <= true <= value.best[0] + 1e-12


@st.composite
def matrices(draw: st.DrawFn) -> list[Case]:
    domains = ["chat", "math", "code", "safety-refuse", "safety-response"]
    number = draw(st.integers(0, 6))
    drawn = [*draw(st.lists(st.sampled_from(domains), min_size=number, max_size=number)), *domains]
    scores = st.lists(SCORE, min_size=6, max_size=6)
    return [{"subset": each, "correct": [1, 1, 1, 0, 0, 0], "scores": draw(scores)} for each in drawn]


@SLOW
@given(matrices())
def test_rm_bench(cases: list[Case]) -> None:
    found = figures("rm_bench", cases)
    domains = ["chat", "math", "code", "safety"]
    rates = {
        (domain, level): slow.rm_bench([case for case in cases if case["subset"].startswith(domain)], level)
        for domain in domains
        for level in ("hard", "normal", "easy")
    }
    for level in ("hard", "normal", "easy"):
        check(found[level], slow.mean_figures([rates[domain, level] for domain in domains]))
    means = [slow.mean_figures([rates[domain, level] for level in ("hard", "normal", "easy")]) for domain in domains]
    for domain, expected in zip(domains, means):
        check(found[domain], expected)
    check(found["overall"], slow.mean_figures(means))
    check(found["pooled"], slow.mean_figures([slow.rm_bench(cases, level) for level in ("hard", "normal", "easy")]))


@st.composite
def rmb_cases(draw: st.DrawFn) -> list[Case]:
    cases = []
    for goal in ("Helpfulness/Chat", "Helpfulness/Code", "Harmlessness/S1"):
        for _ in range(draw(st.integers(1, 3))):
            size = draw(st.integers(2, 5))
            scores = draw(st.lists(SCORE, min_size=size, max_size=size))
            cases.append({"subset": goal, "correct": [1] + [0] * (size - 1), "scores": scores})
    return cases


@SLOW
@given(rmb_cases())
def test_rmb(cases: list[Case]) -> None:
    found = figures("rmb", cases)
    parts = []
    for goal in ("Helpfulness", "Harmlessness"):
        for kind, fits in (("pairwise", lambda size: size == 2), ("best_of_n", lambda size: size > 2)):
            some = [case for case in cases if case["subset"].startswith(goal) and fits(len(case["scores"]))]
            if some:
                parts.append(slow.picks(some, slow.strict))
                check(found[f"{goal} {kind}"], parts[-1])
    check(found["overall"], slow.mean_figures(parts))


SOURCES = ["mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench"]
GAME = st.one_of(st.none(), st.sampled_from([1.0, 0.0, 0.5]))


@SLOW
@given(pairs_of(SOURCES), st.booleans(), st.data())
def test_judgebench(cases: list[Case], two_games: bool, data: st.DataObject) -> None:
    if two_games:
        cases = [case | {"games": data.draw(st.lists(GAME, min_size=2, max_size=2))} for case in cases]
    found = figures("judgebench", cases)
    check(found["overall"], slow.games_rate(cases, slow.judgebench))
    knowledge = [case for case in cases if case["subset"].startswith("mmlu-pro")]
    if knowledge:
        check(found["knowledge"], slow.games_rate(knowledge, slow.judgebench))


@st.composite
def many_responses(draw: st.DrawFn) -> list[Case]:
    cases = []
    for benchmark in ("math", "gpqa"):
        for _ in range(draw(st.integers(1, 3))):
            correct = draw(st.lists(st.integers(0, 1), min_size=4, max_size=4))
            pairs = st.lists(st.sampled_from([(0, 1), (1, 2), (3, 0)]), max_size=3)
            cases.append(
                {
                    "subset": benchmark,
                    "correct": correct,
                    "scores": draw(st.lists(SCORE, min_size=4, max_size=4)),
                    "pairs": draw(pairs),
                }
            )
    return cases


@SLOW
@given(many_responses())
def test_ppe_correctness(cases: list[Case]) -> None:
    found = figures("ppe_correctness", cases)
    by_benchmark = {name: [case for case in cases if case["subset"] == name] for name in ("math", "gpqa")}
    has_pairs = [some for some in by_benchmark.values() if slow.all_pairs(some)[4] is not None]
    if has_pairs:
        check(found["all_pairs"], slow.mean_figures([slow.all_pairs(some) for some in has_pairs]))
    sampled = {
        name: [
            {"correct": [case["correct"][i], case["correct"][j]], "scores": [case["scores"][i], case["scores"][j]]}
            for case in some
            for i, j in case["pairs"]
            if case["correct"][i] != case["correct"][j]
        ]
        for name, some in by_benchmark.items()
    }
    if all(sampled.values()):
        check(found["overall"], slow.mean_figures([slow.picks(some, slow.strict) for some in sampled.values()]))
    complete = {name: [case for case in some if None not in case["scores"]] for name, some in by_benchmark.items()}
    if all(complete.values()):
        worth = [
            slow.mean([slow.best_of_n(case["scores"], case["correct"], 2) for case in some])
            for some in complete.values()
        ]
        assert found["best_of_2"].fair[0] == pytest.approx(sum(each or 0.0 for each in worth) / 2)


def test_ppe_benchmark_without_sampled_pairs_counts_all_its_pairs() -> None:
    """A benchmark whose prompts have no pair at all is left out of the mean; it made it null."""
    won, lost = {"correct": [1, 0], "scores": [2.0, 1.0]}, {"correct": [1, 0], "scores": [1.0, 2.0]}
    cases = [
        {"subset": "math", "pairs": [(0, 1)], **won},
        {"subset": "math", "pairs": [], **lost},
        {"subset": "gpqa", "pairs": [], **won},
        {"subset": "gpqa", "pairs": [], **lost},
        {"subset": "ifeval", "pairs": [], "correct": [1, 1], "scores": [1.0, 2.0]},
    ]
    found = figures("ppe_correctness", cases)
    assert [found[name].fair[0] for name in ("math", "gpqa", "overall")] == [1.0, 0.5, 0.75]


@st.composite
def reasonings(draw: st.DrawFn, subsets: Sequence[str], *, said: bool) -> list[Case]:
    cases = []
    for subset in subsets:
        for has_error in (True, False):
            for _ in range(draw(st.integers(1, 3))):
                size = draw(st.integers(1, 4))
                errors = sorted(draw(st.sets(st.integers(0, size - 1), min_size=1))) if has_error else []
                case: Case = {"subset": subset, "num_steps": size, "errors": errors}
                if said:
                    case["first_error"] = draw(st.one_of(st.none(), st.integers(-1, size - 1)))
                else:
                    length = size if draw(st.booleans()) else draw(st.integers(0, 4))
                    step = st.one_of(st.none(), st.sampled_from([0.0, 0.49, 0.5, 1.0]))
                    case["steps"] = draw(st.lists(step, min_size=length, max_size=length))
                cases.append(case)
    return cases


@pytest.mark.parametrize("name", ["processbench", "first_error"])
@pytest.mark.parametrize("said", [True, False], ids=["verdicts", "step_scores"])
@SLOW
@given(data=st.data())
def test_first_wrong_step(name: str, said: bool, data: st.DataObject) -> None:
    cases = data.draw(reasonings(["gsm8k", "math"], said=said))
    if not said and not any(case["steps"] for case in cases):
        return
    found = figures(name, cases)
    parts = []
    for subset in ("gsm8k", "math"):
        kinds = [
            slow.match_rate([case for case in cases if case["subset"] == subset and bool(case["errors"]) is has_error])
            for has_error in (True, False)
        ]
        parts.append(slow.harmonic(*kinds))
        check(found[f"{subset} error accuracy"], kinds[0])
        check(found[f"{subset} correct accuracy"], kinds[1])
        check(found[f"{subset} F1"], parts[-1])
    check(found["overall"], slow.mean_figures(parts))
    check(found["accuracy"], slow.match_rate(cases))


@SLOW
@given(reasonings(["circular", "confidence"], said=False))
def test_prmbench(cases: list[Case]) -> None:
    if not any(case["steps"] for case in cases):
        return
    value = figures("prmbench", cases)["overall"]
    for unread, found in (("out", value.fair), ("wrong", value.worst), ("right", value.best)):
        expected = slow.prm_score(cases, unread)
        if expected is not None:
            assert found[0] == pytest.approx(expected)


@SLOW
@given(pairs_of(["", "hard"]))
def test_preferences(cases: list[Case]) -> None:
    check(figures("preferences", cases)["overall"], slow.picks(cases, slow.strict))


@SLOW
@given(pairs_of(["Natural"], SURE))
def test_llmbar_of_a_scalar_reward(cases: list[Case]) -> None:
    found = figures("llmbar", cases)
    check(found["overall"], slow.games_rate(cases, slow.shared(lambda case: 0.5)))


@pytest.mark.parametrize("name", list(SUITES))
def test_bounds_hold_and_agree_where_all_is_scored(name: str) -> None:
    """Worst ≤ fair ≤ best for additive suites; all equal without a missing score."""
    random = np.random.default_rng(0)
    cases = [example(load_suite(name), random, place) for place in range(60)]
    for value in figures(name, cases).values():
        assert value.worst[0] == pytest.approx(value.fair[0], nan_ok=True)
        assert value.best[0] == pytest.approx(value.fair[0], nan_ok=True)
        assert value.coverage[0] == pytest.approx(1.0, nan_ok=True)


def example(suite: Suite, random: np.random.Generator, place: int) -> Case:
    """An item of the form that a suite takes, scored as a whole."""
    if suite.needs == "steps":
        size = int(random.integers(1, 5))
        errors = [int(random.integers(size))] if place % 2 else []
        return {"subset": "a", "num_steps": size, "errors": errors, "steps": list(random.random(size))}
    if suite.name == "rm_bench":
        correct, subset = [1, 1, 1, 0, 0, 0], ["chat", "math", "code", "safety-refuse"][place % 4]
    elif suite.name == "ppe_correctness":
        correct, subset = [1, 0, 1, 0], "math"
    elif suite.name == "rewardbench2":
        correct, subset = [1, 0, 0, 0], "Math"
    else:
        correct, subset = [1, 0], "alpacaeval-easy"
    return {"subset": subset, "correct": correct, "scores": list(random.integers(0, 3, len(correct)).astype(float))}


@pytest.mark.parametrize(
    ("name", "chance"),
    [
        ("rewardbench", 0.5),
        ("rewardbench2", 0.25),
        ("rm_bench", 0.5),
        ("rmb", 0.5),
        ("judgebench", 0.5),
        ("llmbar", 0.5),
        ("ppe_correctness", 0.5),
        ("preferences", 0.5),
    ],
)
def test_constant_scorer_gets_chance_in_fairness(name: str, chance: float) -> None:
    random = np.random.default_rng(1)
    cases = [example(load_suite(name), random, place) for place in range(40)]
    constant = [case | {"scores": [7.0] * len(case["scores"])} for case in cases]
    found = figures(name, constant)["overall"]
    assert found.fair[0] == pytest.approx(chance)
    items, judged = slow.columns(cases)
    tally = SuiteTally(load_suite(name), ["rm"], replicates=REPLICATES)
    tally.add(items, {"rm": judged})
    assert tally.result().figures[f"{CONTROL}constant"]["overall"].fair[0] == pytest.approx(chance)


@pytest.mark.parametrize("name", ["judgebench", "llmbar"])
def test_judge_of_the_first_place_gets_chance(name: str) -> None:
    cases = [
        {"subset": "mmlu-pro", "correct": [place % 3 == 0, place % 3 > 0], "games": [1.0, 0.0]} for place in range(9)
    ]
    found = figures(name, cases)["overall"]
    assert found.fair[0] == 0.5
    assert found.official[0] == (0.0 if name == "judgebench" else 0.5)  # JudgeBench: contradictions are lost


def test_rm_bench_by_hand() -> None:
    """The right responses score 1, 2, 3 by style, the wrong ones 2, 2, 0: each cell is known."""
    case = {"subset": "chat", "correct": [1, 1, 1, 0, 0, 0], "scores": [1.0, 2.0, 3.0, 2.0, 2.0, 0.0]}
    found = figures("rm_bench", [case])
    assert found["hard"].official[0] == pytest.approx(2 / 3)  # 1 > 2 no, 1 > 0 yes, 2 > 0 yes
    assert found["normal"].official[0] == pytest.approx(1 / 3)  # 1 > 2 no, 2 > 2 a tie, 3 > 0 yes
    assert found["normal"].fair[0] == pytest.approx(0.5)
    assert found["easy"].official[0] == pytest.approx(2 / 3)  # 2 > 2 a tie, 3 > 2 and 3 > 2 yes
    assert found["easy"].fair[0] == pytest.approx(2.5 / 3)


def test_ties_by_hand() -> None:
    """Right answers 5 and 4, wrong ones 1: margin 3 and spread 1; the reference beats its wrong one by 2."""
    tied = {"id": "tied:7", "subset": "Ties", "correct": [1, 1, 0], "scores": [5.0, 4.0, 1.0]}
    reference = {"id": "ref:7", "subset": "Ties", "correct": [1, 0], "scores": [3.0, 1.0]}
    expected = 0.3 + 0.3 + 0.2 + 0.2 + 0.01 * math.tanh(2 / 1 - 1)
    assert figures("rewardbench2", [tied, reference])["Ties"].official[0] == pytest.approx(expected)


def test_process_f1_by_hand() -> None:
    """One of two wrong reasonings is found, all right ones are accepted: 2 · 0.5 · 1 / 1.5."""
    cases = [
        {"num_steps": 3, "errors": [1], "first_error": 1},
        {"num_steps": 3, "errors": [2], "first_error": -1},
        {"num_steps": 2, "errors": [], "first_error": -1},
    ]
    assert figures("processbench", cases)["overall"].official[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("name", "correct"), [("rm_bench", [1, 0]), ("judgebench", [1, 0, 0]), ("llmbar", [1, 1]), ("rm_bench", [0] * 6)]
)
def test_items_of_another_form_are_refused(name: str, correct: list[int]) -> None:
    with pytest.raises(UserError):
        figures(name, [{"correct": correct, "scores": [0.0] * len(correct)}])


def test_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(UserError, match="rewardbench2"):
        load_suite("rewardbench3")


def test_no_verdict_of_a_step_suite_is_no_score() -> None:
    items, _ = slow.columns([{"num_steps": 2, "errors": [0]}, {"num_steps": 2, "errors": []}])
    judged = Judged(slow.ragged([[None], [None]]))
    for name in ("processbench", "prmbench"):
        tally = SuiteTally(load_suite(name), ["rm"], replicates=REPLICATES)
        tally.add(items, {"rm": judged})
        value = tally.result().figures["rm"]["overall"]
        assert math.isnan(value.fair[0])
        assert (value.worst[0], value.best[0], value.coverage[0]) == (0.0, 1.0, 0.0)
