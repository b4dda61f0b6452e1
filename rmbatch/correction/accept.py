"""What counts as better: a score that rises by more than the margin while nothing falls that must not.

why_not_better(["math"], 0.05, before, after)        # None: it may be accepted
choose(attempts)                                     # the best of those that may be
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, variance

from rmbatch.correction.history import Assessment, Attempt


def why_not_better(never_lower: Sequence[str], margin: float, before: Assessment, after: Assessment) -> str | None:
    """Why a text is not accepted in place of the best one, as ``stable_code: message``; None if it may be.

    No score is never an improvement. A score where there was none is one, for such rows enter only when that is asked.
    """
    if after.score is None:
        why = next((error for error in after.errors.values() if error is not None), "it has no score")
        return f"no_score: {why}"
    if before.score is not None and not after.score > before.score + margin:
        beside = f" by more than {margin:g}" if margin else ""
        return f"not_better: {after.score:g} is not above {before.score:g}{beside}"
    return _find_fallen(never_lower, before.scores, after.scores)


def why_within_noise(times: float, margin: float, before: Sequence[float], after: Sequence[float]) -> str | None:
    """Why repeated scores do not show that a text is better, as ``stable_code: message``; None where they do."""
    if min(len(before), len(after)) < 2:
        return "within_noise: it could not be scored again"
    gain = fmean(after) - fmean(before)
    error = (variance(before) / len(before) + variance(after) / len(after)) ** 0.5
    if gain > margin + times * error:
        return None
    return f"within_noise: better by {gain:.4g} in {len(after)} scores, with a standard error of {error:.4g}"


def _find_fallen(
    never_lower: Sequence[str], before: Mapping[str, float | None], after: Mapping[str, float | None]
) -> str | None:
    for name in never_lower:
        old, new = before.get(name), after.get(name)
        if old is not None and (new is None or new < old):
            return f"lowered: {name} from {old:g} to {'no score' if new is None else format(new, 'g')}"
    return None


def choose(attempts: Sequence[Attempt]) -> Attempt | None:
    """The attempt with the highest score, of equal ones the first; None where there is none."""
    return max(attempts, key=lambda each: (each.score is not None, each.score or 0.0), default=None)
