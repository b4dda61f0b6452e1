"""Prints how many wrong answers are right after each round of correction, beside the control that was only asked anew.

    python -m jobs.examples.correction_curve out/demo-llm/corrected

It reads a finished output of a correct job. Tokens are those of critiques and edits, prompts included, per row that
entered.
"""

import sys
from collections.abc import Sequence
from typing import Any

from jobs.examples.solve_rate import read

ENTERED = {"target", "improved", "unchanged", "failed"}
"""Outcomes of rows that were not good enough."""
RIGHT = 1.0


def curve(rows: Sequence[dict[str, Any]], num_rounds: int) -> list[tuple[float, float]]:
    """After each round the share of these rows that are right, and the tokens that each has used."""
    points = []
    for number in range(1, num_rounds + 1):
        right = tokens = 0
        for row in rows:
            rounds = row["correct.by_round"][:number]
            right += bool(rounds) and (rounds[-1]["score"] or 0.0) >= RIGHT
            tokens += sum(each["tokens"] or 0 for each in rounds)
        points.append((right / len(rows), tokens / len(rows)))
    return points


def main(output: str) -> None:
    """Print the table."""
    rows = read(output)
    entered = [row for row in rows if row["correct.outcome"] in ENTERED]
    groups = {
        name: [row for row in entered if bool(row.get("correct.control")) is is_control]
        for name, is_control in (("corrected", False), ("asked anew", True))
    }
    groups = {name: found for name, found in groups.items() if found}
    print(f"{len(rows)} answers, {len(entered)} of them wrong; " + ", ".join(f"{len(groups[n])} {n}" for n in groups))
    if not groups:
        return
    num_rounds = max(len(row["correct.by_round"]) for row in entered)
    print("round  " + "  ".join(f"{f'{name}: right':>18}  {'tokens a row':>12}" for name in groups))
    curves = [curve(found, num_rounds) for found in groups.values()]
    for number, points in enumerate(zip(*curves), 1):
        print(f"{number:>5}  " + "  ".join(f"{right:>18.1%}  {tokens:>12,.0f}" for right, tokens in points))


if __name__ == "__main__":
    main(sys.argv[1])
