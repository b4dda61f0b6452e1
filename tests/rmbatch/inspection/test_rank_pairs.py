"""Pairs and Kendall's tau against scipy, and against a loop over all pairs."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from rmbatch.inspection import rank_pairs
from rmbatch.inspection.rank_pairs import count_pairs

SCORES = st.one_of(st.integers(-2, 2).map(float), st.floats(allow_nan=False, width=32))
PROMPTS = st.lists(st.lists(st.tuples(SCORES, SCORES), max_size=7), max_size=6)


def arrays(prompts: list[list[tuple[float, float]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both scores of all candidates, and where each prompt begins."""
    flat = [pair for prompt in prompts for pair in prompt]
    a, b = (np.array([pair[side] for pair in flat], float) for side in (0, 1))
    return a, b, np.concatenate([[0], np.cumsum([len(prompt) for prompt in prompts])]).astype(np.int64)


@given(PROMPTS)
def test_tau_equals_scipy(prompts: list[list[tuple[float, float]]]) -> None:
    tau = count_pairs(*arrays(prompts)).tau()
    for found, prompt in zip(tau, prompts, strict=True):
        expected = math.nan
        if len(prompt) > 1:
            expected = kendalltau(*zip(*prompt, strict=True), variant="b").statistic
        assert found == pytest.approx(expected, nan_ok=True, abs=1e-12)


@pytest.mark.parametrize("max_cells", [1, 5, rank_pairs.MAX_CELLS])
@given(prompts=PROMPTS)
def test_counts_equal_a_loop_over_pairs(prompts: list[list[tuple[float, float]]], max_cells: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank_pairs, "MAX_CELLS", max_cells)
        counts = count_pairs(*arrays(prompts))
    start = 0
    for number, prompt in enumerate(prompts):
        expected = dict.fromkeys(("kept", "flipped", "tied_before", "tied_after", "tied"), 0)
        sizes = {}
        for (i, x), (j, y) in itertools.combinations(enumerate(prompt), 2):
            before, after = (x[0] > y[0]) - (x[0] < y[0]), (x[1] > y[1]) - (x[1] < y[1])
            if before * after > 0:
                expected["kept"] += 1
            elif before * after < 0:
                expected["flipped"] += 1
                better, worse = (i, j) if before > 0 else (j, i)
                sizes[start + better, start + worse] = math.sqrt(abs(x[0] - y[0])) * math.sqrt(abs(x[1] - y[1]))
            else:
                expected["tied" if before == after else "tied_before" if before == 0 else "tied_after"] += 1
        assert {name: int(getattr(counts, name)[number]) for name in expected} == expected
        assert counts.size[number] == pytest.approx(max(sizes.values(), default=0.0))
        if sizes:
            flip = (int(counts.first[number]), int(counts.second[number]))
            assert sizes[flip] == pytest.approx(max(sizes.values()))
        start += len(prompt)


def test_a_published_example_with_ties() -> None:
    # scipy's documentation of kendalltau: tau-b is -0.47140452079103173
    a, b = np.array([12.0, 2, 1, 12, 2]), np.array([1.0, 4, 7, 1, 0])
    counts = count_pairs(a, b, np.array([0, 5]))
    assert counts.tau()[0] == pytest.approx(-0.47140452079103173, abs=1e-15)


def test_a_flip_of_tiny_scores_is_a_flip() -> None:
    a, b = np.array([5e-324, 0.0]), np.array([0.0, 1.0])
    counts = count_pairs(a, b, np.array([0, 2]))
    assert (counts.flipped[0], counts.first[0], counts.second[0]) == (1, 0, 1)
