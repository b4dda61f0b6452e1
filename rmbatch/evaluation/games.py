"""Suites of pairs that a judge sees twice, in both orders: JudgeBench and LLMBar.

A scalar reward has one verdict for both orders. A judge that prefers a place contradicts itself: half of its verdicts
are right, which is the fair number, and each suite's official number punishes or rewards that in its own way.

    Judged(scores, games=np.array([[1.0, 0.0]]))         # first, then the other order: it says the first place twice

Source: Tan et al., "JudgeBench", arXiv 2410.12784, https://github.com/ScalerLab/JudgeBench (utils/metrics.py,
utils/judges.py); Zeng et al., "Evaluating LLMs at Evaluating Instruction Following", arXiv 2310.07641,
https://github.com/princeton-nlp/LLMBar (LLMEvaluator/evaluate.py).
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from connectors.errors import UserError
from rmbatch.evaluation.base import Items, Judged, Suite
from rmbatch.evaluation.figures import Measures, Sums, Value, mean_of, measure_rate
from rmbatch.evaluation.ragged import Bools, Floats, Ragged

PAIR = "two responses of which just one is right"
ORDERS = ("False", "True")
"""How LLMBar names the games: whether the candidates were swapped."""


def play_games(judged: Judged, num_items: int) -> Floats:
    """The verdicts of both games, [items, 2], 1 where the first candidate of the data is better."""
    if judged.games is not None:
        return judged.games
    first, second = judged.scores.column(0), judged.scores.column(1)
    verdict = np.where(first > second, 1.0, np.where(first < second, 0.0, 0.5))
    verdict[np.isnan(first) | np.isnan(second)] = np.nan
    return np.repeat(verdict.reshape(num_items, 1), 2, axis=1)


def first_is_right(items: Items) -> Bools:
    """For each pair, whether its first candidate is the right one. Raises UserError for what is no pair."""
    if not np.all(is_pair(items.correct)):
        raise UserError(f"this suite takes {PAIR}")
    found: Bools = items.correct.values[::2] == 1
    return found


def is_pair(correct: Ragged) -> Bools:
    """For each item, whether it has two candidates of which just one is right."""
    found: Bools = (correct.counts == 2) & (correct.sum() == 1)
    return found


def _measure_games(name: str, games: Floats, right: Bools, official: Floats) -> dict[str, Floats]:
    """The measures of a pair in both orders; the fair credit is the share of right verdicts, a tie is half."""
    credit = np.where(right[:, None], games, 1 - games)
    known = ~np.isnan(credit)
    return measure_rate(
        name,
        scored=np.all(known, axis=1),
        official=official,
        fair=np.where(known, credit, 0.0).mean(axis=1),
        worst=np.where(known, credit, 0.0).mean(axis=1),
        best=np.where(known, credit, 1.0).mean(axis=1),
    )


class JudgeBench(Suite):
    """JudgeBench."""

    name: ClassVar[str] = "judgebench"
    title: ClassVar[str] = "JudgeBench"
    adapters: ClassVar[tuple[str, ...]] = ("judgebench",)
    form: ClassVar[str] = PAIR
    credit_of: ClassVar[tuple[str, ...]] = ("pair",)
    official: ClassVar[str] = (
        "A scalar reward's tie counts as B>A, so it is right wherever B is; a judge that contradicts itself is lost."
    )
    source: ClassVar[str] = "arXiv 2410.12784; github.com/ScalerLab/JudgeBench"
    sources: ClassVar[Mapping[str, str]] = {
        "mmlu-pro": "knowledge",
        "livebench-reasoning": "reasoning",
        "livebench-math": "math",
        "livecodebench": "coding",
    }

    def has_form(self, correct: Ragged) -> Bools:
        return is_pair(correct)

    def measure(self, items: Items, judged: Judged) -> Measures:
        right, games = first_is_right(items), play_games(judged, items.num_items)
        if judged.compares or judged.games is not None:
            favour = np.where(games == 1, 1, np.where(games == 0, -1, 0)).sum(axis=1)
            official = (np.where(right, favour, -favour) > 0) * 1.0
        else:
            says_first = games[:, 0] == 1
            official = ((says_first == right) & ~np.isnan(games[:, 0])) * 1.0
        measures = _measure_games("pair", games, right, official)
        agree = (games[:, 0] == games[:, 1]) * 1.0
        return measures | {"agree": agree}

    def figures(self, sums: Sums) -> dict[str, Value]:
        found: dict[str, Value] = {}
        taken: set[str] = set()
        for source, topic in self.sources.items():
            strata = sums.starting(source)
            taken |= {*strata}
            if strata:
                found[topic] = sums.rate("pair", strata)
        found |= {name: sums.rate("pair", [name]) for name in sums.strata if name and name not in taken}
        return {**found, "overall": sums.rate("pair")}

    def details(self, sums: Sums) -> Mapping[str, object]:
        scored = sums.total("pair.scored")[0]
        return {"agreement of both orders": float(sums.total("agree")[0] / scored) if scored else None}


class LLMBar(Suite):
    """LLMBar."""

    name: ClassVar[str] = "llmbar"
    title: ClassVar[str] = "LLMBar"
    adapters: ClassVar[tuple[str, ...]] = ("llmbar",)
    form: ClassVar[str] = PAIR
    credit_of: ClassVar[tuple[str, ...]] = ("pair",)
    official: ClassVar[str] = (
        "A tie and a missing rating count as one right game of two; kappa compares winners 0/1 with labels 1/2."
    )
    source: ClassVar[str] = "arXiv 2310.07641; github.com/princeton-nlp/LLMBar"

    def has_form(self, correct: Ragged) -> Bools:
        return is_pair(correct)

    def measure(self, items: Items, judged: Judged) -> Measures:
        right, games = first_is_right(items), play_games(judged, items.num_items)
        says_first, says_second = games == 1, games == 0
        if judged.games is None:
            unsure = ~says_first & ~says_second
            says_first[:, 0] |= unsure[:, 0] & np.isnan(games[:, 0])
            says_second[:, 0] |= unsure[:, 0] & ~np.isnan(games[:, 0])
            says_first[:, 1] |= unsure[:, 1] & ~np.isnan(games[:, 1])
            says_second[:, 1] |= unsure[:, 1] & np.isnan(games[:, 1])
        won = np.where(right[:, None], says_first, says_second)
        found: dict[str, Floats] = _measure_games("pair", games, right, np.mean(won, axis=1))
        found |= {f"correct_{order}": won[:, place] * 1.0 for place, order in enumerate(ORDERS)}
        same = (says_first[:, 0] == says_first[:, 1]) & (says_second[:, 0] == says_second[:, 1])
        found |= {"correct_both": np.all(won, axis=1) * 1.0, "equal": same * 1.0}
        for cell in np.ndindex(2, 2, 2):
            says = (says_first[:, 0] == cell[0]) & (says_first[:, 1] == cell[1])
            found[_cell(*cell)] = (says & (right == (cell[2] == 0))) * 1.0
        return found

    def figures(self, sums: Sums) -> dict[str, Value]:
        each = {name: sums.rate("pair", [name]) for name in sums.strata if name}
        found: dict[str, Value] = dict(each)
        adversarial = [value for name, value in each.items() if "natural" not in name.lower()]
        if len(adversarial) > 1:
            found["adversarial"] = mean_of(adversarial)
        overall = mean_of(list(each.values())) if len(each) > 1 else sums.rate("pair")
        return {**found, "pooled": sums.rate("pair"), "overall": overall}

    def details(self, sums: Sums) -> Mapping[str, object]:
        return {"statistics": {name or "all": llmbar_statistics(sums, [name]) for name in sums.strata}}


def llmbar_statistics(sums: Sums, strata: Sequence[str] | None = None) -> dict[str, object]:
    """What LLMBar's own code writes to ``statistics.json``: the same names, texts and numbers.

    Its kappas compare winners written as 1 (the first) and 0 (the second) with labels 1 and 2. Beside them stands
    ``fair_kappa_…``, where both are written alike.
    """
    size = int(sums.total("pair.n", strata)[0])
    counts = {
        name: int(sums.total(name, strata)[0]) for name in ("correct_False", "correct_True", "correct_both", "equal")
    }

    def share(name: str) -> str:
        return f"{counts[name]} / {size} = {counts[name] / size * 100}%"

    average = (counts["correct_False"] + counts["correct_True"]) / 2 / size * 100
    found: dict[str, object] = {
        "correct_False": share("correct_False"),
        "correct_True": share("correct_True"),
        "correct_average": f"{average}%",
        "correct_both": share("correct_both"),
        "equal": share("equal"),
    }
    cells = np.zeros((2, 2, 2))
    for cell in np.ndindex(2, 2, 2):
        cells[cell] = sums.total(_cell(*cell), strata)[0]
    label = np.array([1, 2])
    kappas = {
        "kappa_False": _kappa(cells.sum(axis=1), np.array([0, 1]), label),
        "kappa_True": _kappa(cells.sum(axis=0), np.array([0, 1]), label),
    }
    found |= kappas
    found["kappa_average"] = (kappas["kappa_False"] + kappas["kappa_True"]) / 2
    found["kappa_agreement"] = _kappa(cells.sum(axis=2), np.array([0, 1]), np.array([0, 1]))
    fair = {f"fair_{name}": _kappa(table, np.array([2, 1]), label) for name, table in _tables(cells).items()}
    found |= fair
    found["fair_kappa_average"] = sum(fair.values()) / 2
    return found


def _tables(cells: Floats) -> dict[str, Floats]:
    return {"kappa_False": cells.sum(axis=1), "kappa_True": cells.sum(axis=0)}


def _cell(said: int, said_swapped: int, label: int) -> str:
    """The name of a count: whether the first was said to be better, in both games; and whether the second is."""
    return f"said{said}{said_swapped}{label}"


def _kappa(table: Floats, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> float:
    """Cohen's kappa of a table of counts whose rows and columns stand for these classes.

    Source: Cohen, "A coefficient of agreement for nominal scales", 1960; the order of operations is that of
    scikit-learn, so that the last digit is the same.
    """
    classes = np.unique([*rows[table.sum(axis=1) > 0], *columns[table.sum(axis=0) > 0]])
    confusion = np.zeros((len(classes), len(classes)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            if table[i, j]:
                confusion[np.searchsorted(classes, row), np.searchsorted(classes, column)] += table[i, j]
    across, down = confusion.sum(axis=0), confusion.sum(axis=1)
    if not across.sum():
        return float("nan")
    expected = np.outer(across, down) / across.sum()
    weights = 1.0 - np.eye(len(classes))
    chance = float((weights * expected).sum())
    return float(1 - (weights * confusion).sum() / chance) if chance else float("nan")
