"""The random pick and the oracle that a selection is compared with."""

from itertools import accumulate, combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmbatch.selection.control import decided_by_tie, oracle_pick, random_pick

prompt_lists = st.lists(
    st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0, -2.0]), st.booleans()), max_size=5), max_size=5
)


def columns(prompts: list[list[tuple[float, bool]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Measures, pool, offsets and half of each pool as size."""
    flat = [each for prompt in prompts for each in prompt]
    offsets = np.array([0, *accumulate(map(len, prompts))], np.int64)
    size = np.array([(sum(inside for _, inside in prompt) + 1) // 2 for prompt in prompts], np.int64)
    return np.array([m for m, _ in flat], np.float64), np.array([p for _, p in flat], np.bool_), offsets, size


@settings(deadline=None)
@given(prompt_lists, st.integers(0, 2**64 - 1))
def test_random_pick_has_its_size_and_stays_in_the_pool(prompts: list[list[tuple[float, bool]]], seed: int) -> None:
    _, pool, offsets, size = columns(prompts)
    picked = random_pick(pool, offsets, size, seed)
    assert not (picked & ~pool).any()
    assert [int(picked[a:b].sum()) for a, b in pairwise(offsets)] == size.tolist()


@settings(deadline=None)
@given(prompt_lists, st.integers(0, 5))
def test_random_pick_follows_addresses_not_blocks(prompts: list[list[tuple[float, bool]]], cut: int) -> None:
    address, parts = np.arange(len(prompts)) * 7, []
    for piece, at in ((prompts[:cut], address[:cut]), (prompts[cut:], address[cut:])):
        _, pool, offsets, size = columns(piece)
        parts.append(random_pick(pool, offsets, size, 3, at))
    _, pool, offsets, size = columns(prompts)
    assert np.array_equal(random_pick(pool, offsets, size, 3, address), np.concatenate(parts))


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_random_pick_favours_no_place(seed: int) -> None:
    num = 20_000
    picked = random_pick(np.ones(num * 4, bool), np.arange(0, num * 4 + 1, 4), np.full(num, 1), seed)
    by_place = picked.reshape(num, 4).sum(axis=0)
    assert np.abs(by_place - num / 4).max() < 5 * np.sqrt(num * 0.25 * 0.75)
    follows = picked.reshape(num, 4).argmax(axis=1)
    assert abs((follows[1:] == follows[:-1]).mean() - 0.25) < 0.02  # one prompt says nothing of the next


def test_other_seeds_draw_others() -> None:
    draws = [random_pick(np.ones(800, bool), np.arange(0, 801, 8), np.full(100, 1), seed) for seed in (0, 1)]
    assert 5 <= (draws[0] & draws[1]).sum() <= 30  # 12.5 expected


@settings(deadline=None)
@given(prompt_lists)
def test_oracle_equals_the_best_of_all_subsets(prompts: list[list[tuple[float, bool]]]) -> None:
    measure, pool, offsets, size = columns(prompts)
    picked = oracle_pick(measure, pool, offsets, size)
    assert not (picked & ~pool).any()
    for (a, b), k in zip(pairwise(offsets), size, strict=True):
        inside = [measure[i] for i in range(a, b) if pool[i]]
        assert measure[a:b][picked[a:b]].sum() == max(map(sum, combinations(inside, int(k))))


def test_a_pick_is_decided_by_a_tie_where_an_equal_one_is_left_out() -> None:
    value = np.array([1.0, 1.0, 0.5, 0.5, 1.0, 0.5])
    kept = np.array([True, False, False, True, True, False])
    outranked = np.array([False, True, True, False, False, True])
    assert decided_by_tie(value, kept, outranked, np.array([0, 3, 6])).tolist() == [
        True,
        False,
        False,
        True,
        False,
        False,
    ]
