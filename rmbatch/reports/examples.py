"""Prompts worth reading: the best picks, the worst ones, and those that the scores disagree about most.

found = Examples(each=3)
found.add(candidates, sources)
found.places()                       # {"best": [["data/u000000-….parquet#17"], …], …}: the rows of each prompt
show(candidates, "worst", prompt)    # plain values, with the diff of the pick and what it is compared with
"""

import difflib
import heapq
import re
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa

from rmbatch.evaluation.ragged import Floats, Ragged
from rmbatch.reports.candidates import Candidates
from rmbatch.reports.means import plain

KINDS = {
    "best": "the pick is better than its prompt's mean by the most",
    "worst": "the pick loses the most against its prompt's best candidate",
    "contested": "two scores disagree the most about a candidate of the prompt",
}
KINDS_WITHOUT_GOLD = {
    "best": "the pick has the highest score",
    "worst": "the pick has the lowest score",
    "contested": KINDS["contested"],
}
KINDS_OF_CORRECTION = {
    "best": "correction has raised the score by the most",
    "worst": "the score is lowest after correction",
}
MOST_CHARACTERS = 4000
"""Of a text; the rest is left out, and the page says so."""


class Examples:
    """The prompts that are at the ends so far."""

    def __init__(self, each: int = 3) -> None:
        self._each = each
        self._found: dict[str, list[tuple[float, int, list[str]]]] = {kind: [] for kind in KINDS}
        self._number = count()

    def add(self, found: Candidates, sources: pa.Array) -> None:
        """Add prompts. sources: text a row of the table."""
        if not self._each or not found.num_candidates:
            return
        for kind, value in rate_prompts(found).items():
            heap = self._found[kind]
            least = heap[0][0] if len(heap) == self._each else -np.inf
            order = np.argsort(-np.nan_to_num(value, nan=-np.inf), kind="stable")[: self._each]
            for prompt in order:
                if not np.isfinite(value[prompt]) or value[prompt] <= least:
                    continue
                rows = np.unique(found.row[found.offsets[prompt] : found.offsets[prompt + 1]])
                item = (float(value[prompt]), -next(self._number), [sources[int(row)].as_py() for row in rows])
                if len(heap) < self._each:
                    heapq.heappush(heap, item)
                else:
                    heapq.heappushpop(heap, item)

    def places(self) -> dict[str, list[list[str]]]:
        """By kind: the sources of the rows of each prompt, the furthest out first."""
        return {kind: [rows for _, _, rows in sorted(heap, reverse=True)] for kind, heap in self._found.items()}


def rate_prompts(found: Candidates) -> dict[str, Floats]:
    """By kind, how far out each prompt is; NaN where it cannot be such an example."""
    pick = found.picks()
    has = pick >= 0
    rated = {}
    if found.gains is not None:
        return {"best": np.where(found.gains > 0, found.gains, np.nan), "worst": -found.scores[found.by or ""][pick]}
    measure = found.gold if found.gold is not None else found.scores.get(found.by or "")
    if measure is not None:
        lists = found.ragged(measure)
        own = np.where(has, measure[pick], np.nan)
        if found.gold is None:
            rated["best"], rated["worst"] = own, -own
        else:
            with np.errstate(invalid="ignore"):
                finite = np.isfinite(measure)
                apart = own - lists.sum(np.where(finite, measure, 0.0)) / lists.sum(finite)
                lost = lists.maximum() - own
            rated["best"], rated["worst"] = np.where(apart > 0, apart, np.nan), np.where(lost > 0, lost, np.nan)
    contest = [_standardise(found.ragged(each)) for each in _opinions(found)]
    apart = np.zeros(found.num_candidates)
    for each in contest[1:]:
        apart = np.fmax(apart, np.abs(np.nan_to_num(each - contest[0])))
    if len(contest) > 1:
        widest = found.ragged(apart).maximum()
        rated["contested"] = np.where(has & (widest > 0), widest, np.nan)
    return rated


def show(found: Candidates, kind: str, prompt: int, conversation: str | None) -> dict[str, Any] | None:
    """The pick of a prompt and the candidate that it is compared with, as plain values; None without a pick."""
    pick = int(found.picks()[prompt])
    if pick < 0 or found.text is None:
        return None
    other = _other(found, kind, prompt, pick)
    texts = [found.text[place].as_py() for place in (pick, *([] if other is None else [other]))]
    shown = [_describe(found, place, prompt) for place in (pick, *([] if other is None else [other]))]
    cut = [shorten(text) for text in texts]
    return {
        "kind": kind,
        "prompt": shorten(conversation),
        "candidates": int(found.offsets[prompt + 1] - found.offsets[prompt]),
        "pick": {**shown[0], "text": cut[0]},
        "other": None if other is None else {**shown[1], "text": cut[1]},
        "diff": None if len(cut) < 2 or cut[0] is None or cut[1] is None else compare_texts(cut[1], cut[0]),
    }


def _other(found: Candidates, kind: str, prompt: int, pick: int) -> int | None:
    """Best: the worst candidate. Worst: the best one, else the worst. Contested: what another score likes most."""
    begin, end = int(found.offsets[prompt]), int(found.offsets[prompt + 1])
    places = np.array([place for place in range(begin, end) if place != pick])
    if not len(places):
        return None
    opinions = _opinions(found)
    measure = found.gold if found.gold is not None else (opinions[0] if opinions else None)
    if measure is None:
        return int(places[0])
    if kind == "contested" and len(opinions) > 1:
        standard = [_standardise(found.ragged(each)) for each in opinions]
        apart = [np.nanmax(np.append(np.abs(each - standard[0])[begin:end], 0.0)) for each in standard[1:]]
        measure = standard[1 + int(np.argmax(apart))]
    values = np.where(np.isnan(measure[places]), -np.inf, measure[places])
    is_lost = kind == "worst" and found.gold is not None
    return int(places[np.argmax(values) if is_lost or kind == "contested" else np.argmin(values)])


def _opinions(found: Candidates) -> list[Floats]:
    """All scores, the one that chooses first, and the gold."""
    names = sorted(found.scores, key=lambda name: name != found.by)
    return [found.scores[name] for name in names] + ([] if found.gold is None else [found.gold])


def _standardise(lists: Ragged) -> Floats:
    """Each value by how many standard deviations it is above its prompt's mean; 0 where all are equal."""
    known = np.isfinite(lists.values)
    values = np.where(known, lists.values, 0.0)
    num = np.maximum(lists.sum(known), 1)
    mean = np.repeat(lists.sum(values) / num, lists.counts)
    deviation = np.sqrt(np.repeat(lists.sum(np.where(known, (values - mean) ** 2, 0.0)) / num, lists.counts))
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = np.where(deviation > 1e-12, (values - mean) / deviation, 0.0)
    return np.where(known, scaled, np.nan)


def _describe(found: Candidates, place: int, prompt: int) -> dict[str, Any]:
    scores = {name: plain(values[place]) for name, values in found.scores.items()}
    return {
        "number": place - int(found.offsets[prompt]),
        "source": None if found.source is None else found.source[place].as_py(),
        "scores": scores,
        "gold": None if found.gold is None else plain(found.gold[place]),
    }


def shorten(text: str | None) -> str | None:
    """The beginning of a text, and how much is left out."""
    if text is None or len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]} […{len(text) - MOST_CHARACTERS:,} more characters]"


def compare_texts(before: str, after: str) -> list[list[str]]:
    """A diff by words and white space: ["same", text], ["gone", text] and ["new", text], in the order to read them.

    The texts of same and gone are ``before``, those of same and new ``after``.
    """
    old, new = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (before, after))
    parts: list[list[str]] = []
    for what, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if what == "equal":
            parts.append(["same", "".join(old[a:b])])
            continue
        parts += [[name, text] for name, text in (("gone", "".join(old[a:b])), ("new", "".join(new[c:d]))) if text]
    return parts
