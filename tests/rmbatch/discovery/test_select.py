"""Coding rates, vectors of texts, and small diverse sets."""

import numpy as np
import pytest

from rmbatch.discovery.propose import Proposal
from rmbatch.discovery.select import (
    DIMENSIONS,
    Candidate,
    coding_rate,
    list_candidates,
    measure_support,
    reduce_dimensions,
    select_diverse,
    vectorise_texts,
)
from rmbatch.discovery.trial import CaseResult
from rmbatch.judges.principles import Principle

TEXTS = [
    "The answer names the next step that the customer takes.",
    "The answer names a next step which the customer takes.",  # the like of the first
    "The answer says what the repair will cost.",
    "The answer says clearly what the repair is going to cost.",  # the like of the third
    "No internal system is mentioned.",
]


def at_angle(cosine: float) -> np.ndarray:
    return reduce_dimensions(np.array([[1.0, 0.0], [cosine, np.sqrt(1 - cosine**2)]]))


def test_a_coding_rate_is_what_its_formula_says() -> None:
    vectors, epsilon = reduce_dimensions(np.random.default_rng(0).normal(size=(5, 9))), 0.5
    in_dimensions = np.eye(DIMENSIONS) + DIMENSIONS / (5 * epsilon**2) * vectors.T @ vectors
    assert coding_rate(vectors, epsilon) == pytest.approx(np.log(np.linalg.det(in_dimensions)) / 2)
    assert coding_rate(vectors[:0], epsilon) == 0.0
    assert coding_rate(vectors[[0, 0]], epsilon) == pytest.approx(coding_rate(vectors[:1], epsilon))  # a copy


def test_the_less_alike_the_more_is_gained() -> None:
    rates = [coding_rate(at_angle(cosine), 0.7) for cosine in (1.0, 0.99, 0.9, 0.5, 0.0)]
    assert rates == sorted(rates)


def test_directions_keep_angles() -> None:
    vectors = np.random.default_rng(1).normal(size=(20, 300))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = reduce_dimensions(vectors)
    assert found.shape == (20, DIMENSIONS)
    assert found @ found.T == pytest.approx(unit @ unit.T, abs=1e-9)
    assert reduce_dimensions(np.random.default_rng(1).normal(size=(200, 300))).shape == (200, DIMENSIONS)
    assert reduce_dimensions(np.zeros((2, 3))).any() == np.False_
    assert reduce_dimensions(np.zeros((0, 3))).shape == (0, DIMENSIONS)


def test_texts_that_share_words_are_alike() -> None:
    vectors = reduce_dimensions(vectorise_texts(TEXTS))
    alike = vectors @ vectors.T
    assert alike[0, 1] > 0.6
    assert alike[2, 3] > 0.4
    assert max(alike[0, 2], alike[0, 4], alike[2, 4]) < 0.3
    assert np.array_equal(vectorise_texts(TEXTS), vectorise_texts(TEXTS))
    assert vectorise_texts(["", "!?"]).any() == np.False_  # no words


@pytest.mark.parametrize(
    ("weights", "keep", "expected"),
    [
        ([0.9, 0.5, 0.8, 0.5, 0.7], 3, [0, 2, 4]),  # one of each kind, the most useful
        ([0.5, 0.9, 0.5, 0.8, 0.7], 3, [1, 3, 4]),
        ([1, 1, 1, 1, 1], 1, [0]),  # of equals the first
        ([1, 0, 0, 0, 0], 5, [0]),  # what is of no use is not taken, room or not
        ([0, 0, 0, 0, 0], 5, []),
        ([1, 1, 0, 0, 0.02], 5, [0, 1]),  # hardly of use: it would add too little
    ],
)
def test_a_set_is_small_useful_and_diverse(weights: list[float], keep: int, expected: list[int]) -> None:
    assert sorted(select_diverse(reduce_dimensions(vectorise_texts(TEXTS)), weights, keep)) == expected


def test_copies_are_not_taken_but_where_all_are_wanted() -> None:
    copies = reduce_dimensions(np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]]))
    assert sorted(select_diverse(copies, [1, 1, 1, 1], 4)) == [0, 3]
    assert select_diverse(copies, [1, 1, 1, 1], 4, min_gain=0) == [0, 3]
    assert sorted(select_diverse(copies, [1, 0.5, 1, 0.25], 4, min_gain=None)) == [0, 1, 2, 3]
    assert select_diverse(copies[:0], [], 4) == []


def test_what_many_rows_say_has_support() -> None:
    pool = [Candidate(Principle(text=text), (f"r{place}",)) for place, text in enumerate(TEXTS)]
    weights = measure_support(reduce_dimensions(vectorise_texts(TEXTS)), pool)
    assert weights.max() == 1.0
    assert weights[4] < min(weights[:4])
    often = [*pool[:4], Candidate(pool[4].principle, tuple("abcdefg"))]
    assert measure_support(reduce_dimensions(vectorise_texts(TEXTS)), often)[4] == 1.0


def test_equal_principles_of_rows_that_converged_are_one() -> None:
    def proposal(row: str, outcome: str, *texts: str) -> Proposal:
        return Proposal(row, 0, tuple(Principle(text=text) for text in texts), CaseResult(outcome))  # type: ignore[arg-type]

    found = list_candidates(
        [
            proposal("a", "right", "It is short.", "It is true."),
            proposal("b", "wrong", "It is red."),
            proposal("c", "right", "it is TRUE!"),
            Proposal("d", 0, error="proposal_missing: no JSON object"),
        ]
    )
    assert [(each.principle.text, each.rows) for each in found] == [
        ("It is short.", ("a",)),
        ("It is true.", ("a", "c")),
    ]
