"""Who plays whom, and what games say: each pair once, and no order of games or candidates decides."""

import math
import random
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmbatch.judges.kinds.games import Game, rate_candidates, schedule

HOW = ("win_rate", "copeland", "elo", "bradley_terry")


@pytest.mark.parametrize("num_candidates", range(2, 12))
def test_all_play_all_once_and_nobody_plays_itself(num_candidates: int) -> None:
    games = schedule(num_candidates, None, 7)
    assert sorted(games) == list(combinations(range(num_candidates), 2))


@pytest.mark.parametrize("num_candidates", [2, 3, 5, 8, 9])
def test_a_budget_is_shared_evenly(num_candidates: int) -> None:
    for max_games in range(1, num_candidates * (num_candidates - 1) // 2 + 1):
        games = schedule(num_candidates, max_games, "7 what is 2 + 2?")
        counts = Counter(place for game in games for place in game)
        played = [counts[place] for place in range(num_candidates)]
        assert len(games) == len(set(games)) == max_games
        assert max(played) - min(played) <= 2


def test_the_seed_decides_who_plays() -> None:
    assert schedule(8, 4, 1) == schedule(8, 4, 1)
    assert len({tuple(schedule(8, 4, seed)) for seed in range(20)}) > 10


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("win_rate", [1.0, 2.5 / 4, 1.5 / 4, 0.0]),
        ("copeland", [1.0, 1 / 3, -1 / 3, -1.0]),  # by opponents, however often they were met
    ],
)
def test_what_games_come_to(how: str, expected: list[float]) -> None:
    games = [Game(one, other, 1.0) for one, other in combinations(range(4), 2)]
    assert rate_candidates([*games, Game(1, 2, 0.5), Game(3, 0, 0.0)], 4, how) == pytest.approx(expected)


def test_bradley_terry_is_the_log_odds() -> None:
    games = [Game(0, 1, 1.0)] * 300 + [Game(0, 1, 0.0)] * 100
    first, second = rate_candidates(games, 2, "bradley_terry")
    assert first is not None
    assert second is not None
    assert first - second == pytest.approx(math.log(3), rel=1e-2)
    assert first + second == pytest.approx(0, abs=1e-9)


def test_who_wins_all_stays_finite() -> None:
    games = [Game(one, other, 1.0) for one, other in combinations(range(32), 2)]
    found = [score for score in rate_candidates(games, 32, "bradley_terry") if score is not None]
    assert all(map(math.isfinite, found))
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("how", HOW)
def test_who_has_not_played_has_no_score(how: str) -> None:
    found = rate_candidates([Game(0, 2, 1.0)], 3, how)
    assert found[1] is None
    assert found[0] is not None
    assert found[2] is not None
    assert found[0] > found[2]
    assert rate_candidates([], 2, how) == [None, None]


@pytest.mark.parametrize("how", HOW)
def test_ties_make_all_equal(how: str) -> None:
    found = rate_candidates([Game(one, other, 0.5) for one, other in combinations(range(4), 2)], 4, how)
    assert found == pytest.approx([{"win_rate": 0.5, "elo": 1500.0}.get(how, 0.0)] * 4)


results = st.sampled_from([0.0, 0.5, 1.0])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), results), max_size=20), st.randoms())
def test_neither_the_order_of_games_nor_of_candidates_decides(
    told: list[tuple[int, int, float]], draw: random.Random
) -> None:
    games = [Game(one, other, result) for one, other, result in told if one != other]
    places = list(range(5))
    draw.shuffle(places)
    moved = [Game(places[game.first], places[game.second], game.result) for game in games]
    draw.shuffle(moved)
    for how in HOW:
        found = rate_candidates(games, 5, how)
        again = rate_candidates(moved, 5, how)
        for place, score in enumerate(found):
            other = again[places[place]]
            assert (score is None) == (other is None)
            tolerance = 8.0 if how == "elo" else 1e-6  # Elo is a mean over a hundred orders of the games
            assert score is None or score == pytest.approx(other, abs=tolerance)
