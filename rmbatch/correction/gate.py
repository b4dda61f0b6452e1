"""Which rows enter: by score and by rewards that have to pass.

decide_entry(GateSpec(below=0.9), Assessment(0.5))      # "enters"
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from rmbatch.correction.history import Assessment, Row
from rmbatch.correction.spec import GateSpec

Entry = Literal["enters", "untouched", "no_score"]


def decide_entry(gate: GateSpec, assessment: Assessment) -> Entry:
    """Whether a row enters, or the outcome that it has because it does not."""
    if assessment.score is None:
        return "enters" if gate.on_null == "enter" else "no_score"
    if not gate.has_target:
        return "enters"
    return "untouched" if has_reached_target(gate, assessment.score, assessment.scores) else "enters"


def has_reached_target(gate: GateSpec, score: float | None, scores: Mapping[str, float | None]) -> bool:
    """Whether a text is good enough. Without a target none is; a reward without a score does not pass."""
    if not gate.has_target or score is None:
        return False
    if gate.below is not None and score < gate.below:
        return False
    found = ((scores.get(name), least) for name, least in gate.failing.items())
    return all(value is not None and value >= least for value, least in found)


def order_by_gain(gate: GateSpec, rows: Sequence[Row]) -> list[Row]:
    """The rows with the most to gain for their length first: what is asked first is what a budget still pays for.

    To gain is what is missing to ``below``; without it all rows have as much.
    """

    def gain_per_character(row: Row) -> float:
        score = row.best.score
        missing = 1.0 if gate.below is None or score is None else max(gate.below - score, 0.0)
        prompt = sum(len(str(message["content"] or "")) for message in row.messages or ())
        return missing / (1 + prompt + 2 * len(row.best.text or ""))  # the text is read, and written again

    return sorted(rows, key=gain_per_character, reverse=True)
