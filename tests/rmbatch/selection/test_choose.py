"""The whole choice against a slow reference that takes one prompt and one candidate at a time, and tables of traps."""

import statistics
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import exp, inf, isclose, isnan, nan, sqrt
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rmbatch.selection.choose import Choice, ChoiceRule, choose


@dataclass(frozen=True)
class One:
    """A candidate."""

    score: float | None
    text: str | None = None
    safety: float | None = None
    source: str | None = None
    cut_off: bool = False
    answer: int | None = None


def choose_prompts(prompts: Sequence[Sequence[One]], rule: ChoiceRule) -> Choice:
    flat = [each for prompt in prompts for each in prompt]
    offsets = np.array([0, *accumulate(map(len, prompts))], np.int64)
    return choose(
        pa.array([each.score for each in flat], pa.float64()),
        offsets,
        rule,
        pa.array([each.text for each in flat], pa.large_string()),
        others={"safety": pa.array([each.safety for each in flat], pa.float64())},
        source=pa.array([each.source for each in flat], pa.string()),
        cut_off=pa.array([each.cut_off for each in flat], pa.bool_()),
        answer=pa.array([each.answer for each in flat], pa.int64()),
    )


def outcomes(chosen: Choice) -> list[Any]:
    pairs = zip(chosen.rank.to_pylist(), chosen.reason.to_pylist(), strict=True)
    return [reason if rank is None else rank for rank, reason in pairs]


def texts(*scored: tuple[float | None, str | None]) -> list[One]:
    return [One(score, text) for score, text in scored]


def votes(*scored: tuple[float | None, int | None]) -> list[One]:
    return [One(score, f"text {index}", answer=answer) for index, (score, answer) in enumerate(scored)]


def scores(*values: float | None) -> list[One]:
    return [One(value, f"text {index}") for index, value in enumerate(values)]


OUT, NONE, LOW, LOST = "outranked", "no_score", "below_min_score", "outvoted"
LINE = {"length_control": "residual"}
PERCENTILE, Z, BAND = "below_min_percentile", "below_min_z", "outside_length_band"


@pytest.mark.parametrize(
    ("rule", "prompt", "expected"),
    [
        ({"keep": None, "min_percentile": 75}, scores(1.0, 2.0, 3.0, 4.0), [PERCENTILE, PERCENTILE, 2, 1]),
        ({"keep": None, "min_percentile": 100}, scores(1.0, 1.0, None), [1, 2, NONE]),  # equal best ones have 100
        ({"keep": None, "min_percentile": 60}, scores(1.0, 2.0, None), [PERCENTILE, 1, NONE]),  # nulls do not count
        ({"keep": None, "min_z": 0.5}, scores(0.0, 0.0, 0.0, 1.0), [Z, Z, Z, 1]),
        ({"keep": None, "min_z": 0.0}, scores(0.1, 0.1, 0.1), [1, 2, 3]),  # all equal is 0, whatever the mean rounds to
        ({"keep": None, "min_z": 0.1}, scores(7.0), [Z]),
        ({"keep": None, "min_z": -1.0}, scores(inf, 1.0), [Z, Z]),  # no z-score beside an infinite one
        ({"solve_rate": {"low": 0.25}}, scores(1.0, 0.0, 0.0, 0.0), [1, OUT, OUT, OUT]),
        ({"solve_rate": {"low": 0.3}}, scores(1.0, 0.0, 0.0, 0.0), ["too_hard"] * 4),
        ({"solve_rate": {"high": 0.9}}, scores(1.0, 1.0, None), ["too_easy", "too_easy", NONE]),
        ({"solve_rate": {"high": 0.5}}, scores(1.0, 0.0, None), [1, OUT, NONE]),  # a null is not unsolved
        ({"solve_rate": {"by": "safety"}}, [One(1.0, "a")], ["too_hard"]),  # nobody knows whether it is solved
        ({"veto": {"safety": 0.5}}, [One(0.9, "a", 0.4), One(0.8, "b", 0.5), One(0.7, "c")], ["veto", 1, "veto"]),
        # what is vetoed is no runner-up, what is under min_score is
        ({"veto": {"safety": 0.5}, "min_margin": 0.5}, [One(0.9, "a", 0.4), One(0.8, "b", 0.5)], ["veto", 1]),
        ({"min_z": 0.5, "min_margin": 0.5}, scores(1.0, 0.75), ["margin_too_small", Z]),
        ({"keep": 2, "duplicates": "exact"}, texts((0.5, "a"), (0.9, "a"), (0.1, "A")), ["duplicate", 1, 2]),
        ({"keep": 2, "duplicates": "normalised"}, texts((0.9, "a  b"), (0.5, " A\nb")), [1, "duplicate"]),
        ({"keep": 2, "duplicates": "normalised"}, texts((0.9, "x+1"), (0.5, "x-1")), [1, 2]),  # signs stay
        ({"keep": 2, "duplicates": "normalised"}, texts((0.9, "e\u0301"), (0.5, "\u00e9")), [1, "duplicate"]),
        ({"keep": 2, "duplicates": "exact"}, texts((0.9, None), (0.5, None)), [1, 2]),  # null is equal to nothing
        ({"duplicates": "exact", "min_margin": 0.1}, texts((0.9, "a"), (0.9, "a")), [1, "duplicate"]),  # no runner-up
        ({"duplicates": "exact"}, [One(0.9, "a", cut_off=True), One(0.5, "a")], ["cut_off", 1]),
        ({"keep": 3, "cap": {}}, [One(3, source="m"), One(2, source="m"), One(1, source="k")], [1, "source_cap", 2]),
        ({"keep": 2, "cap": {}}, [One(3), One(2)], [1, 2]),  # nobody knows the source
        # what is not kept in any case takes nobody's place
        ({"cap": {}}, [One(3, source="m", cut_off=True), One(2, source="m")], ["cut_off", 1]),
        ({"keep": None, "length_band": 0.5}, texts((1.0, "aa"), (1.0, "bbbb"), (1.0, "c" * 7)), [1, 2, BAND]),
        ({"length_band": 0.5}, texts((1.0, None), (0.5, "aa")), [BAND, 1]),
        # the score is the length and nothing more, but for the second
        (LINE, texts((0.1, "a"), (0.9, "bb"), (0.3, "ccc"), (1.0, "d" * 10)), [OUT, 1, OUT, OUT]),
        ({"length_control": "residual"}, texts((0.5, "a"), (0.9, "bbb")), [OUT, 1]),  # two points make no line
        ({"length_control": "residual", "min_score": 0.5}, texts((0.1, "a"), (0.2, "b")), [LOW, LOW]),
        ({"length_control": "residual"}, texts((inf, "a"), (1.0, "bb"), (0.0, "c"), (None, "d")), [1, OUT, OUT, NONE]),
        ({}, [One(1.0, "a", cut_off=True), One(None, "b", cut_off=True)], ["cut_off", "cut_off"]),
        ({"vote": {}}, votes((0.9, 1), (0.5, 2), (0.6, 2)), [LOST, OUT, 1]),  # 0.9 against 1.1
        ({"vote": {}}, votes((0.9, 1), (0.4, 2), (0.4, 2)), [1, LOST, LOST]),
        ({"vote": {"weight": "count"}}, votes((9.0, 1), (0.5, 2), (0.6, 2)), [LOST, OUT, 1]),
        ({"vote": {"weight": "count"}}, votes((0.1, 1), (0.3, None), (0.2, 2)), [OUT, LOST, 1]),  # equal weights stay
        ({"vote": {"weight": "softmax"}}, votes((-1.0, 1), (-2.0, 2), (-2.0, 2)), [1, LOST, LOST]),  # 1 against 2 / e
        ({"vote": {"weight": "softmax"}}, votes((-1.0, 1), (-1.5, 2), (-1.5, 2)), [LOST, 1, OUT]),
        ({"vote": {}, "min_score": 0.5}, votes((0.9, 1), (0.4, 2), (0.4, 2), (None, 2)), [1, LOW, LOW, NONE]),
        ({"vote": {}}, votes((0.9, None), (0.4, None)), [LOST, LOST]),  # nobody says anything
        ({"min_z": 0.0, "min_percentile": 1, "solve_rate": {}, "duplicates": "exact", "cap": {}}, [], []),
    ],
)  # fmt: skip
def test_one_prompt(rule: dict[str, Any], prompt: list[One], expected: list[Any]) -> None:
    assert outcomes(choose_prompts([prompt], ChoiceRule(**rule, ties="first"))) == expected


def test_tie_break_is_told() -> None:
    chosen = choose_prompts([scores(1.0, 1.0, 0.0), scores(1.0, 0.0, 0.0)], ChoiceRule())
    assert chosen.tied.sum() == 1
    assert not choose_prompts([scores(1.0, 1.0)], ChoiceRule(ties="all")).tied.any()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"solve_rate": {"low": 0.9, "high": 0.1}}, "low: 0.9 is above high: 0.1"),
        ({"keep": None}, "keep: null without min_score would keep everything"),
        ({"min_percentile": 101}, "less than or equal to 100"),
        ({"cap": {"keep": 0}}, "greater than or equal to 1"),
        ({"duplicates": "minhash"}, "'keep', 'exact', 'normalised' or 'near'"),
        ({"veto": {"safety": nan}}, "finite"),
    ],
)
def test_wrong_rules_are_refused(written: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ChoiceRule(**written)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"veto": {"kindness": 1.0}}, "reads the score 'kindness': pass it in others"),
        ({"duplicates": "exact"}, "pass response"),
        ({"cap": {}}, "cap reads 'generation.model': pass source"),
        ({"length_band": 0.3}, "pass response"),
        ({"vote": {}}, "pass answer"),
    ],
)
def test_missing_columns_are_refused(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose(pa.array([1.0]), np.array([0, 1]), ChoiceRule(**rule))


# --- properties -------------------------------------------------------------------------------------------------------

some_score = st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, -0.0, inf, -inf, nan]))
candidates = st.builds(
    One,
    some_score,
    st.one_of(st.none(), st.sampled_from(["", "a", " A", "a b", "A  b\n", "aaaaaa", "\u00e9", "e\u0301"])),
    some_score,
    st.sampled_from([None, "m", "k"]),
    st.sampled_from([False, False, False, True]),
    st.sampled_from([None, 1, 1, 2, 3]),
)
prompt_lists = st.lists(st.lists(candidates, max_size=7), max_size=4)
rarely = st.none() | st.none()
"""No filter more often than one, so that a filter meets candidates that no other filter took."""
rules = st.builds(
    lambda **fields: ChoiceRule(**fields, min_margin=0.3 if fields["keep"] == 2 else None),
    keep=st.integers(1, 4),
    min_score=rarely | st.sampled_from([0.25, 0.5]),
    ties=st.sampled_from(["hash", "first", "shortest", "all", "abstain"]),
    seed=st.integers(0, 2),
    veto=rarely | st.just({"safety": 0.5}),
    solve_rate=rarely
    | st.builds(
        lambda low, high, by: {"at": 0.5, "low": low, "high": high, "by": by},
        st.sampled_from([0.0, 0.3, 0.5]),
        st.sampled_from([0.5, 0.8, 1.0]),
        st.sampled_from([None, "safety"]),
    ),
    min_percentile=rarely | st.sampled_from([30.0, 50.0, 90.0]),
    min_z=rarely | st.sampled_from([-0.77, 0.0, 0.333]),
    length_band=rarely | st.sampled_from([0.4, 1.1]),
    vote=rarely | st.builds(lambda weight: {"weight": weight}, st.sampled_from(["score", "count", "softmax"])),
    duplicates=st.sampled_from(["keep", "exact", "normalised"]),
    cap=rarely | st.builds(lambda keep: {"keep": keep}, st.integers(1, 2)),
    length_control=st.sampled_from(["none", "residual"]),
)


def there(score: float | None) -> bool:
    return score is not None and not isnan(score)


def plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def slow_residuals(prompt: Sequence[One]) -> dict[int, float]:
    """By candidate: what is left of its score beside the line through the prompt's."""
    finite = [i for i, each in enumerate(prompt) if there(each.score) and abs(each.score) < inf]  # type: ignore[arg-type]
    told = [i for i in finite if prompt[i].text is not None]
    y = {i: float(prompt[i].score) for i in finite}  # type: ignore[arg-type]
    x = {i: len(prompt[i].text or "") for i in told}
    slope, centre = 0.0, statistics.fmean(x.values()) if x else 0.0
    if len(told) >= 3 and len(set(x.values())) > 1:
        slope = statistics.linear_regression([x[i] for i in told], [y[i] for i in told]).slope
    mean = statistics.fmean(y.values()) if y else 0.0
    left = {i: y[i] - mean - (slope * (x[i] - centre) if i in x else 0.0) for i in finite}
    largest = max((abs(y[i] - mean) for i in finite), default=0.0) or 1.0
    rounded = {i: round(value / largest, 9) for i, value in left.items()}
    return rounded | {i: e.score for i, e in enumerate(prompt) if there(e.score) and i not in rounded}  # type: ignore[misc]


def slow_choose(prompt: Sequence[One], rule: ChoiceRule) -> list[Any]:
    """The reference: one prompt, one filter and one candidate after the other."""
    scored = [i for i, each in enumerate(prompt) if there(each.score)]
    raw: dict[int, float] = {i: prompt[i].score for i in scored}  # type: ignore[misc]
    value = slow_residuals(prompt) if rule.length_control == "residual" else raw
    reason: dict[int, str] = {}

    def reject(i: int, why: str) -> None:
        reason.setdefault(i, why)

    for i, each in enumerate(prompt):
        if each.cut_off:
            reject(i, "cut_off")
        if i not in raw:
            reject(i, "no_score")
        for name, lowest in (rule.veto or {}).items():
            other = getattr(each, name)
            if not there(other) or other < lowest:
                reject(i, "veto")
    if rule.solve_rate is not None:
        band = rule.solve_rate
        known = [each.score if band.by is None else each.safety for each in prompt]
        known = [score for score in known if there(score)]
        rate = sum(score >= band.at for score in known) / len(known) if known else None  # type: ignore[operator]
        for i in range(len(prompt)):
            if rate is None or rate < band.low:
                reject(i, "too_hard")
            elif rate > band.high:
                reject(i, "too_easy")
    in_play = {i for i in raw if i not in reason}
    lengths = {i: len(prompt[i].text) for i in scored if prompt[i].text is not None}  # type: ignore[arg-type]
    for i, score in raw.items():
        if rule.min_score is not None and score < rule.min_score:
            reject(i, LOW)
        if rule.min_percentile is not None:
            share = 100.0 * sum(other <= score for other in raw.values()) / len(raw)
            if share < rule.min_percentile:
                reject(i, PERCENTILE)
        if rule.min_z is not None and not slow_z(score, list(raw.values())) >= rule.min_z:
            reject(i, Z)
        if rule.length_band is not None:
            middle = statistics.median(lengths.values()) if lengths else 0
            if i not in lengths or abs(lengths[i] - middle) > rule.length_band * middle:
                reject(i, BAND)

    if rule.vote is not None:
        voters = [i for i in raw if i not in reason and prompt[i].answer is not None]
        highest = max((raw[i] for i in voters), default=0.0)
        weigh: Any = {
            "score": lambda score: score,
            "count": lambda score: 1.0,
            "softmax": lambda score: 1.0 if score == highest else exp(score - highest),
        }[rule.vote.weight]
        weights = {name: sum(weigh(raw[i]) for i in voters if prompt[i].answer == name) for name in (1, 2, 3)}
        heaviest = max(
            (weights[prompt[i].answer or 0] for i in voters if not isnan(weights[prompt[i].answer or 0])), default=0
        )
        for i in [i for i in raw if i not in reason]:
            weight = weights.get(prompt[i].answer or 0, nan)
            if not (weight == heaviest or isclose(weight, heaviest, rel_tol=1e-9)):
                reject(i, LOST)
                in_play.discard(i)

    def preference(i: int, ties: str) -> tuple[Any, ...]:
        text = prompt[i].text
        by_hash = (text is None, 0 if text is None else xxhash.xxh3_64_intdigest(text.encode(), rule.seed), i)
        first: dict[str, tuple[Any, ...]] = {"hash": by_hash, "shortest": (text is None, len(text or ""), *by_hash)}
        return (-value[i], *first.get(ties, (i,)))

    strict = "hash" if rule.ties in ("all", "abstain") else rule.ties
    if rule.duplicates != "keep":
        seen = set()
        for i in sorted((i for i in raw if i not in reason), key=lambda i: preference(i, strict)):
            text = prompt[i].text
            key = text if text is None or rule.duplicates == "exact" else plain(text)
            if key is not None and key in seen:
                reject(i, "duplicate")
                in_play.discard(i)
            seen.add(key)
    if rule.cap is not None:
        taken: list[str] = []
        for i in sorted((i for i in raw if i not in reason), key=lambda i: preference(i, strict)):
            source = prompt[i].source
            if source is not None and taken.count(source) >= rule.cap.keep:
                reject(i, "source_cap")
                in_play.discard(i)
            elif source is not None:
                taken.append(source)

    ranking = sorted((i for i in raw if i not in reason), key=lambda i: preference(i, rule.ties))
    assert rule.keep is not None
    kept, left_out = ranking[: rule.keep], ranking[rule.keep :]
    if kept and left_out and value[kept[-1]] == value[left_out[0]]:
        tied = [i for i in left_out if value[i] == value[kept[-1]]]
        if rule.ties == "all":
            kept += tied
        elif rule.ties == "abstain":
            for i in kept + tied:
                reject(i, "tie")
            kept = []
    runners_up = [value[i] for i in in_play if i not in kept]
    if kept and runners_up and rule.min_margin is not None:
        low, high = value[kept[-1]], max(runners_up)
        if (0.0 if low == high else low - high) < rule.min_margin:
            for i in kept:
                reject(i, "margin_too_small")
            kept = []
    for i in left_out:
        if i not in kept:
            reject(i, OUT)
    return [kept.index(i) + 1 if i in kept else reason[i] for i in range(len(prompt))]


def slow_z(score: float, all_scores: list[float]) -> float:
    if len(set(all_scores)) == 1:
        return 0.0
    if any(abs(each) == inf for each in all_scores):
        return nan
    mean = statistics.fmean(all_scores)
    return (score - mean) / sqrt(statistics.fmean((each - mean) ** 2 for each in all_scores))


@settings(max_examples=600, deadline=None)
@given(prompt_lists, rules)
def test_equals_the_slow_reference(prompts: list[list[One]], rule: ChoiceRule) -> None:
    if rule.length_control == "residual" and rule.min_margin is not None:
        rule = rule.model_copy(update={"min_margin": None})  # the reference's residuals have another unit
    expected = [outcome for prompt in prompts for outcome in slow_choose(prompt, rule)]
    assert outcomes(choose_prompts(prompts, rule)) == expected


@pytest.mark.parametrize("rule", [{"cap": {}}, {"duplicates": "normalised"}])
@pytest.mark.parametrize("ties", ["hash", "shortest", "all", "abstain"])
def test_order_does_not_matter_to_caps_and_duplicates(rule: dict[str, Any], ties: Any) -> None:
    prompt = [One(1.0, text, source="m") for text in ("a b", "A b", "a B", "a  b", "A\tB")]
    kept = set()
    for first in range(len(prompt)):
        turned = prompt[first:] + prompt[:first]
        found = outcomes(choose_prompts([turned], ChoiceRule(keep=2, ties=ties, seed=1, **rule)))
        kept.add(turned[found.index(1)].text)
    assert len(kept) == 1


@settings(deadline=None)
@given(prompt_lists, rules)
def test_null_and_cut_off_are_never_kept(prompts: list[list[One]], rule: ChoiceRule) -> None:
    left = iter(outcomes(choose_prompts(prompts, rule)))
    for prompt in prompts:
        for each in prompt:
            outcome = next(left)
            if isinstance(outcome, int):
                assert there(each.score)
                assert not each.cut_off
                assert rule.veto is None or there(each.safety)


@settings(deadline=None)
@given(prompt_lists, rules, st.integers(0, 4))
def test_blocks_do_not_matter(prompts: list[list[One]], rule: ChoiceRule, cut: int) -> None:
    parts = outcomes(choose_prompts(prompts[:cut], rule)) + outcomes(choose_prompts(prompts[cut:], rule))
    assert outcomes(choose_prompts(prompts, rule)) == parts


def test_a_million_candidates_in_seconds() -> None:
    """A sanity bound, to catch a loop per row."""
    num = 1_000_000
    rng = np.random.default_rng(0)
    score = pa.array(rng.integers(0, 5, num).astype(np.float64))
    response = pa.array(rng.integers(0, num // 2, num)).cast(pa.string())
    everything = ChoiceRule(
        keep=2, min_percentile=20, min_z=-1.0, solve_rate={"at": 3.0, "low": 0.1, "high": 0.9}, length_band=0.5,
        duplicates="normalised", cap={"keep": 2}, length_control="residual",
    )  # fmt: skip
    started = time.perf_counter()
    source = pa.array(rng.integers(0, 4, num))
    chosen = choose(score, np.arange(0, num + 1, 8), everything, response, source=source)
    assert time.perf_counter() - started < 20
    assert len(chosen.rank) - chosen.rank.null_count > 100_000
