"""Which pairs of candidates play, and what their games say of each: win rate, Copeland, Elo, Bradley-Terry.

    pairs = schedule(4, max_games=None, seed=7)          # [(0, 3), (1, 2), …], each unordered pair once
    rate_candidates([Game(0, 1, 1.0), Game(1, 2, 0.5)], 3, "win_rate")             # [1.0, 0.25, 0.5]

A candidate without a game has no score. Nothing depends on the order in which games were played.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ELO_START, ELO_K, ELO_ORDERS = 1500.0, 32.0, 100
"""A game moves at most ELO_K points; the mean over so many orders of the games, for Elo depends on their order."""
PRIOR_GAMES = 0.1
"""Of the Bradley-Terry fit: so much of a game won, and as much lost, against an average candidate keeps strengths
finite where somebody has won or lost all."""
_ITERATIONS = 100


@dataclass(frozen=True)
class Game:
    """What two candidates, by their places, came to."""

    first: int
    second: int
    result: float
    """1: the first is better, 0: the second, 0.5: a tie."""


def schedule(num_candidates: int, max_games: int | None, seed: int | str) -> list[tuple[int, int]]:
    """The pairs that play, each at most once, nobody against itself.

    All n(n-1)/2; or ``max_games`` of them, rounds of a round robin in which everybody plays once, from an order by the
    seed: so the numbers of games differ by at most two.
    """
    seats: list[int | None] = list(range(num_candidates))
    random.Random(seed).shuffle(seats)
    if num_candidates % 2:
        seats.append(None)
    games = []
    for _ in range(len(seats) - 1):
        half = len(seats) // 2
        for one, other in zip(seats[:half], reversed(seats[half:])):
            if one is not None and other is not None:
                games.append((min(one, other), max(one, other)))
        seats = [seats[0], seats[-1], *seats[1:-1]]  # the circle method
    return games if max_games is None else games[:max_games]


def rate_candidates(games: Sequence[Game], num_candidates: int, how: str) -> list[float | None]:
    """What the games say of each candidate; None for one that has not played.

    win_rate: won plus half of the ties, over games, in [0, 1]. copeland: won minus lost over games, in [-1, 1]. elo:
    points around 1500. bradley_terry: log strength, 0 on average.
    Source: Copeland's method; Elo, "The Rating of Chessplayers", 1978; Bradley and Terry, Biometrika 39, 1952.
    """
    won = np.zeros((num_candidates, num_candidates))
    for game in games:
        won[game.first, game.second] += game.result
        won[game.second, game.first] += 1 - game.result
    played = won.sum(axis=1) + won.sum(axis=0)
    found = _SCORES[how](won, games)
    return [float(score) if number else None for score, number in zip(found, played)]


def _win_rate(won: Any, games: Sequence[Game]) -> Any:
    del games
    return won.sum(axis=1) / np.maximum(won.sum(axis=1) + won.sum(axis=0), 1)


def _copeland(won: Any, games: Sequence[Game]) -> Any:
    del games
    beaten = (won > won.T).sum(axis=1) - (won < won.T).sum(axis=1)
    return beaten / np.maximum(((won + won.T) > 0).sum(axis=1), 1)


def _elo(won: Any, games: Sequence[Game]) -> Any:
    """The mean of Elo's updates over many orders of the games."""
    draw = random.Random(0)
    ordered = sorted(games, key=lambda game: (game.first, game.second, game.result))
    total = np.zeros(len(won))
    for _ in range(ELO_ORDERS):
        points = [ELO_START] * len(won)
        draw.shuffle(ordered)
        for game in ordered:
            expected = 1 / (1 + 10 ** ((points[game.second] - points[game.first]) / 400))
            points[game.first] += ELO_K * (game.result - expected)
            points[game.second] -= ELO_K * (game.result - expected)
        total += points
    return total / ELO_ORDERS


def _bradley_terry(won: Any, games: Sequence[Game]) -> Any:
    """Log strengths that maximise the likelihood of the games and the prior, which is concave: by Newton's method."""
    played = won + won.T
    strength = np.zeros(len(won))
    for _ in range(_ITERATIONS):
        wins = 1 / (1 + np.exp(strength[None, :] - strength[:, None]))
        against_prior = 1 / (1 + np.exp(-strength))
        gradient = (won - played * wins).sum(axis=1) + PRIOR_GAMES * (1 - 2 * against_prior)
        curvature = played * wins * (1 - wins)
        pull = 2 * PRIOR_GAMES * against_prior * (1 - against_prior)
        step = np.linalg.solve(np.diag(curvature.sum(axis=1) + pull) - curvature, gradient)
        strength = strength + step / max(1.0, np.abs(step).max())  # far from the top the parabola is too flat
        if np.abs(step).max() < 1e-9:
            break
    return strength - strength[played.sum(axis=1) > 0].mean() if games else strength


_SCORES: dict[str, Callable[[Any, Sequence[Game]], Any]] = {
    "win_rate": _win_rate,
    "copeland": _copeland,
    "elo": _elo,
    "bradley_terry": _bradley_terry,
}
