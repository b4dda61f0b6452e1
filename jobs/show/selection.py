"""What a selection is worth, for people: beside a random pick of the same size and the best one there could be.

selection_lines(tally)      # names and values for the table of a result
"""

from rmbatch.stages.tally import Tally


def selection_lines(tally: Tally) -> list[tuple[str, str]]:
    """Of a finished job; empty where nothing was compared."""
    found = tally.comparison
    if found is None or found.kept == 0:
        return []
    lines = [("by a tie", f"{found.tied:,} of {found.kept:,} picks")]
    if found.measured:
        means = (f"{name} {getattr(found, name) / found.measured:.4g}" for name in ("selected", "random", "oracle"))
        lines.append(("mean score", f"{', '.join(means)}, of {found.measured:,} candidates each"))
    return lines
