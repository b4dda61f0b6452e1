"""Picks, drift, lengths of pairs, examples: figures about what was selected, told again in plain loops."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmbatch.reports.candidates import Candidates, prompt_keys
from rmbatch.reports.drift import MEASURES, Drift, measure_texts
from rmbatch.reports.examples import Examples, compare_texts, show
from rmbatch.reports.pairs import BANDS, PairLengths
from rmbatch.reports.picks import Picks
from tests.rmbatch.reports.prompts import Lists, flat, offsets_of, score_lists


def candidates(scores: Lists, **more: object) -> Candidates:
    row = np.repeat(np.arange(len(scores)), [len(each) for each in scores])
    return Candidates(offsets_of(scores), {"a": flat(scores)}, "a", row=row, **more)  # type: ignore[arg-type]


@given(score_lists(names=2))
def test_ties_are_counted_as_a_loop_would(scores: list[Lists]) -> None:
    own, gold = scores
    picks = Picks(["a"], "a", has_gold=True)
    picks.add(prompt_keys(0, len(own)), candidates(own, gold=flat(gold)))
    tied = matter = 0
    for values, worths in zip(own, gold):
        known = [value for value in values if value is not None]
        best = [place for place, value in enumerate(values) if known and value == max(known)]
        differ = {worths[place] for place in best} - {None}
        tied += len(best) > 1
        matter += len(best) > 1 and len(differ) > 1
    assert picks.plain()["ties"]["a"] == {"prompts": sum(any(v is not None for v in o) for o in own), "tied": tied} | {
        "that_matter": matter
    }


def test_kept_is_compared_with_random_and_oracle() -> None:
    scores: Lists = [[1.0, 1.0, 0.0]] * 20
    rank = np.tile(np.array([1, 0, 0], np.int32), 20)
    found = candidates(scores, gold=np.tile([0.5, 1.0, 0.0], 20), rank=rank)
    picks = Picks(["a"], "a", has_gold=True)
    picks.add(prompt_keys(0, 20), found)
    plain = picks.plain()
    assert (plain["kept"], plain["kept_prompts"], plain["kept_by_tie"]) == (20, 20, 20)
    assert [plain["worth"][name]["mean"] for name in ("selected", "random", "oracle")] == [0.5, 0.5, 1.0]


def test_ties_that_matter_are_those_of_the_picks_and_a_candidate_without_a_score_is_in_no_pool() -> None:
    scores: Lists = [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, None]]
    rank = np.array([1, 0, 1, 0, 0, 0, 1, 0], np.int32)  # nothing was kept of the third
    gold = np.array([0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    picks = Picks(["a"], "a", has_gold=True)
    picks.add(prompt_keys(0, 4), candidates(scores, gold=gold, rank=rank))
    plain = picks.plain()
    assert (plain["kept_by_tie"], plain["ties_that_matter"], plain["ties"]["a"]["that_matter"]) == (2, 1, 2)
    means = [plain["worth"][name]["mean"] for name in ("selected", "random", "oracle")]
    assert means == pytest.approx([1 / 3, 0.5, 2 / 3])


def test_pair_lengths_are_of_prompts_that_were_kept_and_of_finite_scores() -> None:
    scores: Lists = [[1.0, 0.0], [1.0, 0.0], [np.inf, 0.0], [1.0, -np.inf, 0.0]]
    rank = np.array([1, 0, 0, 0, 1, 0, 1, 0, 0], np.int32)
    lengths = np.array([4.0, 2.0, 4.0, 2.0, 4.0, 2.0, 9.0, 1.0, 3.0])
    table = PairLengths()
    table.add(candidates(scores, rank=rank), flat(scores), lengths)
    plain = table.plain()
    assert plain is not None
    assert (plain["pairs"], plain["chosen_characters"], plain["rejected_characters"]) == (2, 6.5, 2.5)


@given(score_lists(), st.data())
def test_pair_lengths_are_those_of_best_and_worst(scores: list[Lists], data: st.DataObject) -> None:
    (own,) = scores
    size = len(flat(own))
    lengths = np.array(data.draw(st.lists(st.integers(0, 50), min_size=size, max_size=size)), np.float64)
    table = PairLengths()
    table.add(candidates(own), flat(own), lengths)
    bands, longer, begin = [0] * len(BANDS), 0, 0
    for values in own:
        here = [(v, place) for place, v in enumerate(values) if v is not None]
        own_lengths = lengths[begin : begin + len(values)]
        begin += len(values)
        if not here or max(here)[0] == min(here)[0]:
            continue
        best = min(place for value, place in here if value == max(here)[0])
        worst = min(place for value, place in here if value == min(here)[0])
        a, b = own_lengths[best], own_lengths[worst]
        longer += a > b
        ratio = 1.0 if a == b else np.inf if b == 0 else a / b
        bands[next(at for at, (_, low, high) in enumerate(BANDS) if low <= ratio < high or high == np.inf)] += 1
    plain = table.plain()
    assert sum(bands) == 0 if plain is None else [each["pairs"] for each in plain["bands"]] == bands
    assert plain is None or plain["chosen_longer"] == longer


@pytest.mark.parametrize(
    ("text", "measure", "expected"),
    [
        ("ab cd", "characters", 5),
        ("ab  cd\nef", "words", 3),
        ("a b c d a b c d", "repetition", 0.2),  # five runs of four words, one of them twice
        ("a b", "repetition", 0),
        ("I'm sorry, but I can't help with that.", "refusals", 1),
        ("The answer is 4.", "refusals", 0),
        ("- a\n- b\nc\nd", "lists", 0.5),
        ("# T" + "x" * 97, "markdown", 10),
        ("", "words", 0),
        (None, "characters", np.nan),
    ],
)
def test_measures_of_texts(text: str | None, measure: str, expected: float) -> None:
    found = measure_texts(pa.array([text, "other"], pa.large_string()))[0, list(MEASURES).index(measure)]
    assert found == pytest.approx(expected, nan_ok=True)


def test_drift_is_within_the_prompt() -> None:
    """The longer half of the prompts has nothing to do with what is picked of each."""
    texts = [word * (1 + prompt % 2 * 50) for prompt in range(40) for word in ("ab", "abcd")]
    scores: Lists = [[0.0, 1.0]] * 40
    found = candidates(scores, text=pa.array(texts, pa.large_string()))
    drift = Drift(replicates=200)
    selected = np.tile([False, True], 40)
    drift.add(prompt_keys(0, 40), found, selected, np.ones(80, bool), measure_texts(found.text))
    plain = drift.plain()
    assert plain is not None
    line = plain["measures"][0]
    assert (line["pool"], line["selected"]) == (
        np.mean([len(t) for t in texts]),
        np.mean([len(t) for t in texts[1::2]]),
    )
    assert line["differs"]
    assert not plain["measures"][1]["differs"]  # one word each


def test_examples_are_the_ends_of_all_blocks() -> None:
    rng = np.random.default_rng(0)
    gold = rng.random((50, 4))
    proxy = rng.random((50, 4))
    examples = Examples(each=3)
    for start in range(0, 50, 20):
        part = slice(start, start + 20)
        own = candidates(proxy[part].tolist(), gold=gold[part].ravel())
        examples.add(own, pa.array([f"row{start + place}" for place in range(own.num_prompts)]))
    picked = np.take_along_axis(gold, proxy.argmax(axis=1)[:, None], axis=1)[:, 0]
    expected = {"best": picked - gold.mean(axis=1), "worst": gold.max(axis=1) - picked}
    for kind, value in expected.items():
        assert examples.places()[kind] == [[f"row{place}"] for place in np.argsort(-value)[:3]]


def test_example_shows_the_pick_and_what_it_lost_to() -> None:
    text = pa.array(["the cat", "the dog", "a cow"], pa.large_string())
    found = candidates([[0.9, 0.1, 0.5]], gold=np.array([0.0, 1.0, 0.5]), text=text)
    shown = show(found, "worst", 0, "animal?")
    assert shown is not None
    assert (shown["pick"]["text"], shown["other"]["text"]) == ("the cat", "the dog")
    assert shown["diff"] == [["same", "the "], ["gone", "dog"], ["new", "cat"]]


@given(st.text(max_size=60), st.text(max_size=60))
def test_diff_holds_both_texts(before: str, after: str) -> None:
    parts = compare_texts(before, after)
    assert "".join(text for what, text in parts if what != "new") == before
    assert "".join(text for what, text in parts if what != "gone") == after
