"""Which candidates are kept, and why not the others: tables of traps, and a slow reference that decides one by one."""

import time
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rmbatch.selection.rank import REASONS, Selection, SelectionRule, select

NAN, INF = float("nan"), float("inf")
OUT, LOW, CLOSE, TIE, NONE = REASONS


def select_prompts(
    prompts: Sequence[Sequence[tuple[float | None, str | None]]], rule: SelectionRule, *, texts: bool = True
) -> Selection:
    """Select among prompts given as lists of (score, response)."""
    flat = [candidate for prompt in prompts for candidate in prompt]
    offsets = np.array([0, *accumulate(len(prompt) for prompt in prompts)], dtype=np.int64)
    response = pa.array([text for _, text in flat], pa.string()) if texts else None
    return select(pa.array([score for score, _ in flat], pa.float64()), offsets, rule, response)


def outcomes(chosen: Selection) -> list[Any]:
    """One value per candidate: its rank, or its reason."""
    pairs = zip(chosen.rank.to_pylist(), chosen.reason.to_pylist(), strict=True)
    return [reason if rank is None else rank for rank, reason in pairs]


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "scores", "expected"),
    [
        ({}, [0.1, 0.9, 0.5], [OUT, 1, OUT]),
        ({"keep": 2}, [0.1, 0.9, 0.5], [OUT, 1, 2]),
        ({"keep": 5}, [0.1, 0.9, 0.5], [3, 1, 2]),  # fewer candidates than keep
        ({}, [], []),
        ({}, [None], [NONE]),
        ({}, [NAN, -1e300], [NONE, 1]),  # NaN is no score, and sorts above everything in naive code
        ({}, [None, -INF], [NONE, 1]),  # -inf is a score: null does not beat it
        ({"keep": 2}, [None, 0.0, None], [NONE, 1, NONE]),  # null does not fill a free place
        ({}, [-3.0, 0.0], [OUT, 1]),  # zero is a score
        ({"min_score": 0.5}, [0.5, 0.4], [1, LOW]),  # inclusive
        ({"min_score": 0.5}, [0.4, 0.3], [LOW, LOW]),
        ({"min_score": 0.5}, [0.6, 0.7, 0.4, None], [OUT, 1, LOW, NONE]),
        ({"min_score": 0.0}, [-0.0, None], [1, NONE]),  # -0.0 equals 0.0
        ({"keep": None, "min_score": 0.5}, [0.6, 0.4, 0.9, None], [2, LOW, 1, NONE]),
        ({"min_margin": 0.25}, [1.0, 0.75], [1, OUT]),  # inclusive
        ({"min_margin": 0.25}, [1.0, 0.875, None], [CLOSE, OUT, NONE]),
        ({"min_margin": 0.25}, [1.0], [1]),  # no runner-up
        ({"min_margin": 0.25}, [1.0, None], [1, NONE]),  # a null is no runner-up
        ({"min_margin": 0.25}, [-INF], [1]),  # no runner-up is not a runner-up at -inf
        ({"min_margin": 0.25}, [None], [NONE]),
        ({"min_margin": 0.25, "min_score": 0.9}, [1.0, 0.875], [CLOSE, LOW]),  # under min_score still runs up
        ({"min_margin": 0.25, "min_score": 0.9}, [0.8, 0.1], [LOW, LOW]),
        (
            {"min_margin": 0.25, "keep": 2},
            [1.0, 0.9, 0.5],
            [1, 2, OUT],
        ),  # between kept and not kept, not among the kept
        ({"min_margin": 0.25, "keep": 2}, [1.0, 0.6, 0.5], [CLOSE, CLOSE, OUT]),
        ({"min_margin": 0.25, "ties": "first"}, [INF, INF], [CLOSE, OUT]),  # inf - inf is 0 here, not NaN
        ({"min_margin": 0.25}, [INF, 1.0], [1, OUT]),
        ({"min_margin": 0.0, "ties": "first"}, [1.0, 1.0], [1, OUT]),  # a margin of 0 is satisfied by a tie
        ({"ties": "first"}, [0.5, 1.0, 1.0], [OUT, 1, OUT]),
        ({"ties": "first"}, [0.0, -0.0], [1, OUT]),  # -0.0 ties with 0.0
        ({"ties": "first", "keep": 2}, [1.0, 1.0, 1.0], [1, 2, OUT]),
        ({"ties": "all"}, [1.0, 0.5, 1.0], [1, OUT, 2]),  # beyond keep
        ({"ties": "all", "keep": 2}, [1.0, 0.5, 0.5, 0.1], [1, 2, 3, OUT]),
        ({"ties": "all", "keep": 3}, [1.0, 0.5, 0.5, 0.1], [1, 2, 3, OUT]),
        ({"ties": "all", "min_score": 0.5}, [0.4, 0.4], [LOW, LOW]),
        ({"ties": "all", "min_margin": 0.25}, [1.0, 1.0, 0.5], [1, 2, OUT]),  # the tied are kept: none of them runs up
        ({"ties": "abstain"}, [1.0, 1.0, 0.5, None], [TIE, TIE, OUT, NONE]),
        ({"ties": "abstain"}, [1.0, 0.5, 0.5], [1, OUT, OUT]),  # a tie below the border is none of our business
        ({"ties": "abstain", "keep": 2}, [1.0, 1.0, 0.5], [1, 2, OUT]),  # nor is one above it
        ({"ties": "abstain", "keep": 2}, [1.0, 0.5, 0.5], [TIE, TIE, TIE]),  # nothing of the prompt, not even the best
        ({"ties": "abstain", "min_score": 0.5}, [0.4, 0.4, 0.6], [LOW, LOW, 1]),
        ({"ties": "abstain", "min_margin": 0.25}, [1.0, 1.0], [TIE, TIE]),  # the tie is the better reason
        ({"ties": "abstain", "keep": None, "min_score": 0.5}, [1.0, 1.0], [1, 2]),  # no border, nothing cut
    ],
)
def test_one_prompt(rule: dict[str, Any], scores: list[float | None], expected: list[Any]) -> None:
    chosen = select_prompts([[(score, None) for score in scores]], SelectionRule(**rule), texts=False)
    assert outcomes(chosen) == expected
    assert chosen.rank.type == pa.int32()
    assert chosen.reason.type == pa.string()


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["four", "4!", "no"], [OUT, OUT, 1]),  # "4!" and "no" are equally short: hash
        (["aaa", "éé"], [OUT, 1]),  # code points, not bytes: 2 < 3, though 4 bytes > 3
        (["", "a"], [1, OUT]),
        ([None, "a long text"], [OUT, 1]),  # a null response loses the tie
        ([None, None], [1, OUT]),
        (["same", "same"], [1, OUT]),
    ],
)
def test_shortest(texts: list[str | None], expected: list[Any]) -> None:
    rule = SelectionRule(ties="shortest", seed=1)
    assert outcomes(select_prompts([[(1.0, text) for text in texts]], rule)) == expected


def test_hash_ties_are_the_published_hash() -> None:
    """Pinned: another version of ours must draw the same, or reruns of old jobs change their data."""
    texts = ["a", "b", "", "é", "a much longer text " * 50]
    for seed, order in [(0, [4, 3, 1, 5, 2]), (7, [4, 2, 3, 1, 5]), (2**64 - 1, [1, 3, 2, 4, 5])]:
        hashes = [xxhash.xxh3_64_intdigest(text.encode(), seed) for text in texts]
        by_hash = [sorted(hashes).index(value) + 1 for value in hashes]
        chosen = select_prompts([[(1.0, text) for text in texts]], SelectionRule(keep=5, seed=seed))
        assert outcomes(chosen) == by_hash == order


def test_null_response_loses_hash_ties() -> None:
    for seed in range(20):
        assert outcomes(select_prompts([[(1.0, None), (1.0, "x")]], SelectionRule(seed=seed))) == [OUT, 1]


def test_prompts_do_not_touch_each_other() -> None:
    prompts: list[list[tuple[float | None, str]]] = [
        [],
        [(1.0, "a")],
        [],
        [],
        [(1.0, "b"), (0.5, "c")],
        [(None, "d")],
        [],
    ]
    assert outcomes(select_prompts(prompts, SelectionRule())) == [1, 1, OUT, NONE]


@pytest.mark.parametrize("prompts", [[], [[]], [[], []]])
@pytest.mark.parametrize("ties", ["hash", "first", "shortest", "all", "abstain"])
def test_empty(prompts: list[Any], ties: Any) -> None:
    chosen = select_prompts(prompts, SelectionRule(ties=ties, min_margin=0.1), texts=False)
    assert outcomes(chosen) == []
    assert (chosen.rank.type, chosen.reason.type) == (pa.int32(), pa.string())


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_slices_and_string_types(kind: pa.DataType) -> None:
    """A batch is a slice of a block: the buffers begin before the rows do."""
    texts = ["xx", "b", "a", None, "c", "yy"]
    whole = outcomes(select_prompts([[(1.0, text) for text in texts[1:5]]], SelectionRule(keep=4)))
    response = pa.array(texts).cast(kind).slice(1, 4)
    score = pa.array([None, 1.0, 1.0, 1.0, 1.0, 0.0]).slice(1, 4)
    assert outcomes(select(score, np.array([0, 4]), SelectionRule(keep=4), response)) == whole


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", ["hash", "shortest"])
def test_texts_are_needed_only_for_ties(ties: Any) -> None:
    rule = SelectionRule(keep=2, ties=ties)
    assert outcomes(select_prompts([[(1.0, ""), (0.5, ""), (0.1, ""), (0.1, "")]], rule, texts=False)) == [
        1,
        2,
        OUT,
        OUT,
    ]
    with pytest.raises(ValueError, match=rf"ties: {ties} needs the responses, and 2 candidates have equal scores"):
        select_prompts([[(1.0, ""), (1.0, "")]], rule, texts=False)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"keep": None}, "keep: null without min_score would keep everything"),
        ({"keep": None, "min_score": 0.5, "min_margin": 0.1}, "min_margin .* needs keep"),
        ({"keep": 0}, "greater than or equal to 1"),
        ({"min_score": NAN}, "finite"),
        ({"min_margin": -0.1}, "greater than or equal to 0"),
        ({"ties": "random"}, "'hash', 'first', 'shortest', 'all' or 'abstain'"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"top_k": 3}, "top_k"),
    ],
)
def test_wrong_rules_are_refused(written: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SelectionRule(**written)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([], "must run from 0"),
        ([1, 3], "from 0 to the number of scores, 3; got 1 to 3"),
        ([0, 2], "got 0 to 2"),
        ([0, 2, 1, 3], "must not decrease"),
        ([[0, 3]], "shape"),
    ],
)
def test_wrong_offsets_are_refused(offsets: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(pa.array([1.0, 2.0, 3.0]), np.array(offsets, dtype=np.int64), SelectionRule())


def test_a_response_for_each_score() -> None:
    with pytest.raises(ValueError, match="got 2 scores and 1 responses"):
        select(pa.array([1.0, 2.0]), np.array([0, 2]), SelectionRule(), pa.array(["a"]))


# --- properties -------------------------------------------------------------------------------------------------------

candidates = st.tuples(
    st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, -0.0, INF, -INF, NAN]), st.floats()),
    st.one_of(st.none(), st.sampled_from(["", "a", "b", "ab", "é"]), st.text(max_size=3)),
)
prompt_lists = st.lists(st.lists(candidates, max_size=7), max_size=5)


@st.composite
def rules(draw: st.DrawFn) -> SelectionRule:
    keep = draw(st.one_of(st.none(), st.integers(1, 5)))
    some_score = st.sampled_from([0.0, 0.25, 0.5, 1.0])
    return SelectionRule(
        keep=keep,
        min_score=draw(some_score if keep is None else st.none() | some_score),
        min_margin=None if keep is None else draw(st.none() | some_score),
        ties=draw(st.sampled_from(["hash", "first", "shortest", "all", "abstain"])),
        seed=draw(st.integers(0, 3)),
    )


def slow_select(prompt: Sequence[tuple[float | None, str | None]], rule: SelectionRule) -> list[Any]:
    """The reference: one prompt, one candidate after the other, as the rule's docstring says it."""
    scores = {i: score for i, (score, _) in enumerate(prompt) if score is not None and score == score}
    result: list[Any] = [OUT if i in scores else NONE for i in range(len(prompt))]
    for i, score in scores.items():
        if rule.min_score is not None and score < rule.min_score:
            result[i] = LOW

    def preference(i: int) -> tuple[Any, ...]:
        text = prompt[i][1]
        by_hash = (text is None, xxhash.xxh3_64_intdigest(text.encode(), rule.seed) if text is not None else 0, i)
        breaker: dict[str, tuple[Any, ...]] = {
            "hash": by_hash,
            "shortest": (text is None, len(text or ""), *by_hash),
        }
        return (-scores[i], *breaker.get(rule.ties, (i,)))

    ranking = sorted((i for i in scores if result[i] != LOW), key=preference)
    border = len(ranking) if rule.keep is None else min(rule.keep, len(ranking))
    kept, left_out = ranking[:border], ranking[border:]
    if kept and left_out and scores[kept[-1]] == scores[left_out[0]]:
        tied = [i for i in left_out if scores[i] == scores[kept[-1]]]
        if rule.ties == "all":
            kept = kept + tied
        elif rule.ties == "abstain":
            for i in kept + tied:
                result[i] = TIE
            kept = []
    runners_up = [score for i, score in scores.items() if i not in kept]
    if kept and runners_up and rule.min_margin is not None:
        low, high = scores[kept[-1]], max(runners_up)
        if (0.0 if low == high else low - high) < rule.min_margin:
            for i in kept:
                result[i] = CLOSE
            kept = []
    for rank, i in enumerate(kept, start=1):
        result[i] = rank
    return result


@given(prompt_lists, rules())
def test_equals_the_slow_reference(prompts: list[Any], rule: SelectionRule) -> None:
    expected = [outcome for prompt in prompts for outcome in slow_select(prompt, rule)]
    assert outcomes(select_prompts(prompts, rule)) == expected


@given(prompt_lists, rules())
def test_each_candidate_has_a_rank_or_a_reason(prompts: list[Any], rule: SelectionRule) -> None:
    chosen = select_prompts(prompts, rule)
    assert len(chosen.rank) == len(chosen.reason) == sum(map(len, prompts))
    assert chosen.rank.is_null().equals(chosen.reason.is_valid())
    assert set(chosen.reason.to_pylist()) <= {None, *REASONS}


@given(prompt_lists, rules())
def test_null_never_wins_and_keep_is_kept(prompts: list[Any], rule: SelectionRule) -> None:
    left = iter(outcomes(select_prompts(prompts, rule)))
    for prompt in prompts:
        result = [next(left) for _ in prompt]
        ranks = sorted(outcome for outcome in result if isinstance(outcome, int))
        assert ranks == list(range(1, len(ranks) + 1))
        assert rule.keep is None or rule.ties == "all" or len(ranks) <= rule.keep
        for (score, _), outcome in zip(prompt, result, strict=True):
            assert (outcome == NONE) == (score is None or score != score)


def by_value(candidate: tuple[float | None, str | None]) -> tuple[str, str | None]:
    """What can be told apart of a candidate: -0.0 is 0.0, and NaN is itself."""
    score, text = candidate
    return repr(score if score is None else score + 0.0), text


@given(prompt_lists, rules(), st.randoms(use_true_random=False))
def test_order_of_candidates_does_not_matter(prompts: list[Any], rule: SelectionRule, random: Any) -> None:
    """Which texts are kept at which rank is the same in every order, unless the rule asks for the order."""
    if rule.ties == "first":
        rule = rule.model_copy(update={"ties": "hash"})
    shuffled = [random.sample(prompt, len(prompt)) for prompt in prompts]
    for prompt, mixed in zip(prompts, shuffled, strict=True):
        before = outcomes(select_prompts([prompt], rule))
        after = outcomes(select_prompts([mixed], rule))
        if rule.ties in ("all", "abstain"):  # equal scores rank as they stand: the set counts
            before, after = ([isinstance(x, int) or x for x in result] for result in (before, after))
        assert Counter(zip(map(by_value, prompt), before)) == Counter(zip(map(by_value, mixed), after))


@given(prompt_lists, rules(), st.integers(0, 5))
def test_blocks_do_not_matter(prompts: list[Any], rule: SelectionRule, cut: int) -> None:
    parts = outcomes(select_prompts(prompts[:cut], rule)) + outcomes(select_prompts(prompts[cut:], rule))
    assert outcomes(select_prompts(prompts, rule)) == parts


# --- speed ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2**40, 2])  # nearly no ties; and a right-or-wrong score, where nearly all tie
def test_a_million_candidates_in_seconds(levels: int) -> None:
    """A sanity bound, to catch a loop per row: 0.3 s measured on two cores, for both."""
    num = 1_000_000
    score = pa.array(np.random.default_rng(0).integers(0, levels, num).astype(np.float64))
    response = pa.array(np.arange(num)).cast(pa.string())
    started = time.perf_counter()
    chosen = select(score, np.arange(0, num + 1, 8), SelectionRule(), response)
    assert time.perf_counter() - started < 10
    assert len(chosen.rank) - chosen.rank.null_count == num // 8
