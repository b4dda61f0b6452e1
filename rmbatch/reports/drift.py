"""How what was selected differs from the pool that it was selected from: length, Markdown, refusals, repetition.

    drift = Drift(replicates=1000)
    drift.add(keys, candidates, selected)           # selected: bool a candidate
    drift.plain()

Compared is within the prompt: the mean of the selected candidates against the mean of all of the same prompt, which is
what a random pick would have. So that some prompts have longer answers shifts nothing.
"""

from collections import Counter
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rmbatch.evaluation.ragged import Floats
from rmbatch.reports.candidates import Candidates
from rmbatch.reports.means import PromptMeans, describe_mean, plain
from rmbatch.rewards.rules.language import identify_language, load_identifier
from rmbatch.rewards.rules.refusal import no_refusal
from rmbatch.rewards.rules.style import emoji_density, list_density, markdown_density
from rmbatch.rewards.rules.words import white_space_words

GRAM = 4
MEASURES = {
    "characters": "characters of the response",
    "words": "words between white space",
    "markdown": "headers, bold stretches and list items per 1,000 characters",
    "lists": "share of the lines that are list items",
    "emoji": "emoji per 1,000 characters",
    "refusals": "share of responses that begin with a phrase of refusal",
    "repetition": f"share of the runs of {GRAM} words that the response has said before",
}
"""What is measured of a text, and what it means."""
MOST_LANGUAGE_TEXTS = 2000
"""Texts whose language is looked at: it takes some 0.2 ms for each."""


def measure_texts(text: pa.Array) -> Floats:
    """The measures of texts, shape [texts, measures]; NaN for a null text."""
    there = np.asarray(text.is_valid())
    filled = pc.fill_null(text, "")
    words = white_space_words(filled)
    grams = words.ngrams(GRAM)
    with np.errstate(invalid="ignore", divide="ignore"):
        repeated = 1.0 - grams.count_different() / grams.num_words
    columns = [
        pc.utf8_length(filled).to_numpy(zero_copy_only=False),
        words.num_words,
        *(_scores(reward(filled)) for reward in (markdown_density, list_density, emoji_density)),
        1.0 - _scores(no_refusal(filled).score),
        np.nan_to_num(repeated),
    ]
    found = np.column_stack(columns).astype(np.float64)
    found[~there] = np.nan
    return found


class Drift:
    """Sums over prompts that have something selected and something measured."""

    def __init__(self, replicates: int = 1000) -> None:
        self._means = PromptMeans(2 * len(MEASURES), replicates)
        self._moments = np.zeros((3, len(MEASURES)))
        self._languages: dict[str, Counter[str]] = {"selected": Counter(), "pool": Counter()}
        self._num_languages = 0
        self._identify = load_identifier() if find_spec("py3langid") else None

    def add(
        self,
        keys: NDArray[Any],
        found: Candidates,
        selected: NDArray[np.bool_],
        pool: NDArray[np.bool_],
        measured: Floats,
    ) -> None:
        """Add prompts. selected, pool: which candidates are compared; measured: as ``measure_texts`` gives."""
        has = ~np.isnan(measured[:, 0])
        columns = []
        for mask in (selected & has, pool & has):
            lists = found.ragged(mask.astype(np.float64))
            num = lists.sum()
            for place in range(len(MEASURES)):
                with np.errstate(invalid="ignore", divide="ignore"):
                    columns.append(lists.sum(np.where(mask, measured[:, place], 0.0)) / num)
        values = np.column_stack(columns)
        values[np.isnan(values).any(axis=1)] = np.nan
        self._means.add(keys, values)
        of_pool = measured[pool & has]
        self._moments += np.stack([np.full(len(MEASURES), len(of_pool)), of_pool.sum(axis=0), (of_pool**2).sum(axis=0)])
        self._add_languages(found, selected & has, pool & has, ~np.isnan(values[:, 0]))

    def _add_languages(
        self, found: Candidates, selected: NDArray[np.bool_], pool: NDArray[np.bool_], compared: NDArray[np.bool_]
    ) -> None:
        if self._identify is None or found.text is None:
            return
        owner = np.repeat(np.arange(found.num_prompts), np.diff(found.offsets))
        for place in np.flatnonzero((selected | pool) & compared[owner]):
            if self._num_languages >= MOST_LANGUAGE_TEXTS:
                return
            self._num_languages += 1
            language = identify_language(found.text[int(place)].as_py(), self._identify) or "undetermined"
            for name, mask in (("selected", selected), ("pool", pool)):
                self._languages[name][language] += bool(mask[place])

    def plain(self) -> dict[str, Any] | None:
        """As plain values; None where nothing was compared. ``shift``: the difference in standard deviations of the
        pool's candidates; ``differs``: its 95 % interval over prompts does not hold 0."""
        prompts = int(self._means.counts[0])
        if not prompts:
            return None
        means = self._means.replicates()
        size = len(MEASURES)
        count, total, squares = self._moments
        deviation = np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0.0))
        lines = []
        for place, (name, about) in enumerate(MEASURES.items()):
            apart = describe_mean(means[:, place] - means[:, size + place])
            low, high = apart["low"], apart["high"]
            lines.append(
                {
                    "measure": name,
                    "about": about,
                    "selected": plain(means[0, place]),
                    "pool": plain(means[0, size + place]),
                    "difference": apart,
                    "shift": plain((apart["mean"] or 0.0) / deviation[place]) if deviation[place] > 0 else None,
                    "differs": low is not None and high is not None and (low > 0 or high < 0),
                }
            )
        return {"prompts": prompts, "measures": lines, "languages": self._plain_languages()}

    def _plain_languages(self) -> dict[str, Any] | None:
        if self._identify is None or not self._num_languages:
            return None
        selected, pool = self._languages["selected"], self._languages["pool"]
        shares = [
            {
                "language": name,
                "selected": selected[name] / max(selected.total(), 1),
                "pool": count / max(pool.total(), 1),
            }
            for name, count in pool.most_common(10)
        ]
        return {"texts": self._num_languages, "shares": shares}


def _scores(values: Any) -> Floats:
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float64)
