"""The published definitions of the suites once more: plain loops over plain values, sharing no code with the suites.

A case is one item: ``{"id", "subset", "correct", "scores"}``, for steps ``{"errors", "steps", "first_error"}``. None:
no score. Each function gives a figure as (official, fair, worst, best, coverage).
"""

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from rmbatch.evaluation.base import Items, Judged
from rmbatch.evaluation.ragged import Ragged

Case = dict[str, Any]
Figure = tuple[float | None, float | None, float | None, float | None, float | None]


def ragged(lists: Sequence[Sequence[Any]]) -> Ragged:
    """Lists of numbers as the suites take them."""
    flat = [math.nan if each is None else float(each) for some in lists for each in some]
    offsets = np.cumsum([0, *(len(some) for some in lists)])
    return Ragged(np.array(flat, dtype=np.float64), offsets.astype(np.int64))


def columns(cases: Sequence[Case], *, compares: bool = False) -> tuple[Items, Judged]:
    """Cases as the suites take them."""
    correct = [case.get("correct", [None]) for case in cases]
    steps = [case.get("steps") for case in cases]
    items = Items(
        id=np.array([str(case.get("id", place)) for place, case in enumerate(cases)], dtype=object),
        subset=np.array([case.get("subset", "") for case in cases], dtype=object),
        key=np.arange(len(cases), dtype=np.uint64),
        correct=ragged(correct),
        lengths=ragged([case.get("lengths", [1] * len(right)) for case, right in zip(cases, correct)]),
        num_steps=np.array([case.get("num_steps", 0) for case in cases], dtype=np.int64),
        error_steps=ragged([case.get("errors", []) for case in cases]),
        pairs=ragged([[place for pair in case.get("pairs", []) for place in pair] for case in cases]),
    )
    games = [case.get("games") for case in cases]
    first = [case.get("first_error", math.nan) for case in cases]
    judged = Judged(
        scores=ragged([case.get("scores", [None] * len(right)) for case, right in zip(cases, correct)]),
        compares=compares,
        games=ragged([each or [None, None] for each in games]).values.reshape(-1, 2) if any(games) else None,
        steps=ragged([each or [] for each in steps]) if any(each is not None for each in steps) else None,
        first_error=np.array([math.nan if each is None else each for each in first])
        if any("first_error" in case for case in cases)
        else None,
    )
    return items, judged


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(values) / len(values) if values else None


def mean_figures(figures: Sequence[Figure], weights: Sequence[float] | None = None) -> Figure:
    """The mean of figures, place by place; None where one of them is None."""
    shares = weights or [1.0] * len(figures)
    found: list[float | None] = []
    for values in zip(*figures):
        known = [each * share for each, share in zip(values, shares) if each is not None]
        found.append(sum(known) / sum(shares) if len(known) == len(figures) and figures else None)
    found[4] = mean([each[4] for each in figures if each[4] is not None])  # coverage is never weighted
    return (found[0], found[1], found[2], found[3], found[4])


def pick(scores: Sequence[float], correct: Sequence[int]) -> tuple[float, bool]:
    """Credit of picking the highest score, ties shared; and whether all of the highest are right."""
    top = [right for score, right in zip(scores, correct) if score == max(scores)]
    return sum(top) / len(top), all(top)


def filled(case: Case, *, right: bool) -> list[float]:
    """The scores, the missing ones as good or as bad for the item as can be."""
    high = [bool(each) is right for each in case["correct"]]
    return [
        (math.inf if is_high else -math.inf) if score is None else score for score, is_high in zip(case["scores"], high)
    ]


def picks(cases: Sequence[Case], official: Callable[[Case], float]) -> Figure:
    """The rate of picks. ``official``: the official credit of an item, also of one without a score."""
    if not cases:
        return (None, None, None, None, None)
    scored = [case for case in cases if None not in case["scores"]]
    return (
        mean([official(case) for case in cases]),
        mean([pick(case["scores"], case["correct"])[0] for case in scored]),
        mean([pick(filled(case, right=False), case["correct"])[0] for case in cases]),
        mean([pick(filled(case, right=True), case["correct"])[0] for case in cases]),
        len(scored) / len(cases),
    )


def strict(case: Case) -> float:
    """1 where every candidate with the highest score is right; a missing score is lost."""
    return 0.0 if None in case["scores"] else float(pick(case["scores"], case["correct"])[1])


def shared(guess: Callable[[Case], float]) -> Callable[[Case], float]:
    """Ties are shared; a missing score is a guess."""
    return lambda case: guess(case) if None in case["scores"] else pick(case["scores"], case["correct"])[0]


def ties_score(cases: Sequence[Case], scores: Callable[[Case], Sequence[float]]) -> float:
    """RewardBench 2's score of Ties, for complete scores."""
    by_kind: dict[str, dict[str, list[Case]]] = {"ref": {}, "tied": {}}
    for case in cases:
        kind, number = case["id"].split(":")
        by_kind[kind].setdefault(number, []).append(case)

    def margin(case: Case) -> float:
        own = list(zip(scores(case), case["correct"]))
        return min(s for s, right in own if right) - max(s for s, right in own if not right)

    def spread(case: Case) -> float:
        right = [s for s, is_right in zip(scores(case), case["correct"]) if is_right]
        return max(right) - min(right)

    accuracy = {
        kind: mean([float(margin(case) > 0) for some in numbers.values() for case in some]) or 0.0
        for kind, numbers in by_kind.items()
    }
    apart, hard, close = [], [], []
    for number in by_kind["tied"]:
        (tied,), (ref,) = by_kind["tied"][number], by_kind["ref"][number]
        smaller = min(margin(tied), margin(ref))
        apart.append(float(margin(tied) > spread(tied)))
        hard.append(float(smaller > spread(tied)))
        if spread(tied):
            close.append(math.tanh(smaller / spread(tied) - 1))
        else:
            close.append(math.copysign(1.0, smaller) if smaller else 0.0)  # 0 / 0 counts as 0
    parts = (accuracy["tied"], accuracy["ref"], mean(apart), mean(hard), mean(close))
    return sum(weight * (part or 0.0) for weight, part in zip((0.3, 0.3, 0.2, 0.2, 0.01), parts))


def compare(case: Case, i: int, j: int) -> tuple[float, float | None, float, float]:
    """RM-Bench's comparison of a right style with a wrong one: official, fair, worst, best."""
    right, wrong = case["scores"][i], case["scores"][3 + j]
    if right is None or wrong is None:
        return 0.0, None, 0.0, 1.0
    fair = 1.0 if right > wrong else 0.5 if right == wrong else 0.0
    return float(right > wrong), fair, fair, fair


def rm_bench(cases: Sequence[Case], level: str) -> Figure:
    """Hard, normal or easy over some prompts: the mean of the level's cells."""
    cells = {
        "hard": [(0, 1), (0, 2), (1, 2)],
        "normal": [(0, 0), (1, 1), (2, 2)],
        "easy": [(1, 0), (2, 0), (2, 1)],
    }[level]
    found = []
    for i, j in cells:
        four = [compare(case, i, j) for case in cases]
        known = [each[1] for each in four if each[1] is not None]
        found.append(
            (
                mean([each[0] for each in four]),
                mean(known),
                mean([each[2] for each in four]),
                mean([each[3] for each in four]),
                len(known) / len(four),
            )
        )
    return mean_figures(found)


def judgebench(case: Case) -> float:
    """Official: two games, each for or against the label; a single game where there are none."""
    right = case["correct"][0] == 1
    if "games" not in case:
        first, second = case["scores"]
        if first is None or second is None:
            return 0.0
        return float((first > second) == right)  # a tie counts as B>A
    counter = 0
    for game in case["games"]:
        if game in (0.0, 1.0):
            counter += 1 if (game == 1.0) == right else -1
    return float(counter > 0)


def games_of(case: Case) -> list[float | None]:
    """The verdicts of both games, for the first candidate."""
    if "games" in case:
        return list(case["games"])
    first, second = case["scores"]
    if first is None or second is None:
        return [None, None]
    return [1.0 if first > second else 0.0 if first < second else 0.5] * 2


def games_rate(cases: Sequence[Case], official: Callable[[Case], float]) -> Figure:
    """The rate of right verdicts over both games."""
    fair, worst, best = [], [], []
    for case in cases:
        right = case["correct"][0] == 1
        credit = [None if game is None else game if right else 1 - game for game in games_of(case)]
        if None not in credit:
            fair.append(sum(each for each in credit if each is not None) / 2)
        worst.append(sum(0.0 if each is None else each for each in credit) / 2)
        best.append(sum(1.0 if each is None else each for each in credit) / 2)
    return (mean([official(case) for case in cases]), mean(fair), mean(worst), mean(best), len(fair) / len(cases))


def all_pairs(cases: Sequence[Case]) -> Figure:
    """Pairs of a right and a wrong response of each prompt, pooled."""
    n = scored = won = fair = 0.0
    for case in cases:
        own = list(zip(case["scores"], case["correct"]))
        for right in (score for score, is_right in own if is_right):
            for wrong in (score for score, is_right in own if not is_right):
                n += 1
                if right is None or wrong is None:
                    continue
                scored += 1
                won += right > wrong
                fair += 1.0 if right > wrong else 0.5 if right == wrong else 0.0
    return (
        won / n if n else None,
        fair / scored if scored else None,
        fair / n if n else None,
        (fair + n - scored) / n if n else None,
        scored / n if n else None,
    )


def best_of_n(scores: Sequence[float | None], gold: Sequence[float], n: int) -> float:
    """Brute force: every subset of n, ties shared; a pick without any score is worth nothing."""
    found = []
    for subset in combinations(range(len(scores)), n):
        known = [place for place in subset if scores[place] is not None]
        if not known:
            found.append(0.0)
            continue
        top = max(scores[place] for place in known)  # type: ignore[type-var]
        tied = [gold[place] for place in known if scores[place] == top]
        found.append(sum(tied) / len(tied))
    return sum(found) / len(found)


def first_wrong_step(case: Case) -> int | None:
    """What is said: the first wrong step, -1 for none, None for no verdict."""
    if "first_error" in case:
        said: int | None = case["first_error"]
        return said
    steps = case["steps"]
    if not steps or None in steps or len(steps) != case["num_steps"]:
        return None
    return next((place for place, score in enumerate(steps) if score < 0.5), -1)


def match_rate(cases: Sequence[Case]) -> Figure:
    """How often what is said is the first wrong step, or that there is none."""
    said = [(first_wrong_step(case), min(case["errors"], default=-1)) for case in cases]
    hits = sum(one == other for one, other in said)
    unread = sum(one is None for one, _ in said)
    scored = len(said) - unread
    return (
        hits / len(said),
        hits / scored if scored else None,
        hits / len(said),
        (hits + unread) / len(said),
        scored / len(said),
    )


def harmonic(first: Figure, second: Figure) -> Figure:
    """The harmonic mean, place by place; coverage is the plain mean."""

    def of(a: float | None, b: float | None) -> float | None:
        if a is None or b is None:
            return None
        return 2 * a * b / (a + b) if a + b else 0.0

    both = [of(a, b) for a, b in zip(first, second)]
    coverage = None if first[4] is None or second[4] is None else (first[4] + second[4]) / 2
    return (both[0], both[1], both[2], both[3], coverage)


def prm_score(cases: Sequence[Case], unread: str) -> float | None:
    """Half of F1 and half of the negative F1, pooled over steps. ``unread``: out, wrong or right."""
    tp = fp = tn = fn = 0
    for case in cases:
        steps = case["steps"]
        valid = bool(steps) and None not in steps and len(steps) == case["num_steps"]
        for place in range(case["num_steps"]):
            is_wrong = place in case["errors"]
            if valid:
                says_right = steps[place] >= 0.5
            elif unread == "out":
                continue
            else:
                says_right = is_wrong == (unread == "wrong")
            tp += says_right and not is_wrong
            fp += says_right and is_wrong
            tn += not says_right and is_wrong
            fn += not says_right and not is_wrong
    if 2 * tp + fp + fn == 0 or 2 * tn + fp + fn == 0:
        return None
    return (2 * tp / (2 * tp + fp + fn) + 2 * tn / (2 * tn + fp + fn)) / 2
