"""Sums of changes equal a plain restatement, however the prompts are cut into blocks."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmbatch.inspection.score_changes import Largest, ScoreChanges, SelectionChanges

SCORE = st.one_of(st.just(math.nan), st.integers(-2, 2).map(float), st.just(math.inf))
PROMPTS = st.lists(st.lists(st.tuples(SCORE, SCORE), max_size=5), max_size=8)
RANKS = st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=5), max_size=8)


def arrays(prompts: list, kind: type) -> tuple:
    flat = [pair for prompt in prompts for pair in prompt]
    a, b = (np.array([pair[side] for pair in flat], kind) for side in (0, 1))
    return a, b, np.concatenate([[0], np.cumsum([len(prompt) for prompt in prompts])]).astype(np.int64)


@given(PROMPTS, st.integers(1, 8))
def test_score_changes_equal_a_restatement(prompts: list, block: int) -> None:
    changes, flips = ScoreChanges(), []
    for start in range(0, max(len(prompts), 1), block):
        some = prompts[start : start + block]
        before = sum(map(len, prompts[:start]))
        found = changes.add(*arrays(some, float))
        flips += [(before + flip.better, before + flip.worse) for flip in found]
    plain, flat = changes.plain(), [pair for prompt in prompts for pair in prompt]
    both = [(a, b) for a, b in flat if not math.isnan(a) and not math.isnan(b)]
    assert plain["candidates"] == {
        "same": sum(a == b for a, b in both),
        "changed": sum(a != b for a, b in both),
        "gained": sum(math.isnan(a) and not math.isnan(b) for a, b in flat),
        "lost": sum(not math.isnan(a) and math.isnan(b) for a, b in flat),
        "no_score": sum(math.isnan(a) and math.isnan(b) for a, b in flat),
    }
    moved = [b - a for a, b in both if math.isfinite(a) and math.isfinite(b)]
    assert plain["mean_change"] == (pytest.approx(sum(moved) / len(moved)) if moved else None)
    scored = [[pair for pair in prompt if not any(map(math.isnan, pair))] for prompt in prompts]
    firsts = {"same": 0, "overlaps": 0, "changed": 0}
    for prompt in prompts:
        known = [[pair[side] for pair in prompt if not math.isnan(pair[side])] for side in (0, 1)]
        if not all(known):
            continue
        best = [{i for i, pair in enumerate(prompt) if pair[side] == max(known[side])} for side in (0, 1)]
        firsts["same" if best[0] == best[1] else "overlaps" if best[0] & best[1] else "changed"] += 1
    assert plain["first_place"] == firsts
    tau = plain["tau"]
    assert tau["prompts"] == sum(tau["histogram"])
    assert tau["prompts"] + tau["undefined_all_tied"] + tau["undefined_too_few"] == len(prompts)
    assert tau["undefined_too_few"] == sum(len(prompt) < 2 for prompt in scored)
    assert len(flips) == plain["prompts_with_flip"]
    for better, worse in flips:
        assert flat[better][0] > flat[worse][0]
        assert flat[better][1] < flat[worse][1]


@given(RANKS, st.integers(1, 8))
def test_selection_changes_equal_a_restatement(prompts: list, block: int) -> None:
    changes = SelectionChanges()
    for start in range(0, max(len(prompts), 1), block):
        changes.add(*arrays(prompts[start : start + block], np.int64))
    expected = {"same": 0, "changed": 0, "gained": 0, "lost": 0}
    for prompt in prompts:
        a, b = ({i for i, pair in enumerate(prompt) if pair[side]} for side in (0, 1))
        expected["same" if a == b else "gained" if not a else "lost" if not b else "changed"] += 1
    assert changes.prompts == expected
    flat = [pair for prompt in prompts for pair in prompt]
    assert changes.candidates == {
        "both": sum(bool(a and b) for a, b in flat),
        "only_a": sum(bool(a and not b) for a, b in flat),
        "only_b": sum(bool(b and not a) for a, b in flat),
        "neither": sum(not (a or b) for a, b in flat),
    }


@given(st.lists(st.integers(0, 5)), st.integers(0, 4))
def test_largest_keeps_the_first_of_the_largest(sizes: list[int], limit: int) -> None:
    largest = Largest(limit)
    for place, size in enumerate(sizes):
        if largest.wants(size):
            largest.add(size, (size, place))
    assert largest.items() == sorted(((s, p) for p, s in enumerate(sizes)), key=lambda x: (-x[0], x[1]))[:limit]
