"""How often ``math_verify_reward`` and the bare math-verify agree with recorded verdicts, and their time beside it.

    python -m tests.bench.math_agreement                       # a set made here
    python -m tests.bench.math_agreement verdicts.jsonl ...    # {"reference": ..., "response": ..., "right": true}

The control is math-verify's own ``verify(parse(reference), parse(response))`` on the same pairs in the same run.
Processor time of one process; each different pair once. Verdicts that ours and the record differ on are printed.
"""

import json
import logging
import random
import sys
import time
from pathlib import Path

from rmbatch.rewards.math import verdicts

Row = tuple[str, str, bool]
"""Reference, response, whether the response is right."""
FORMS = [r"so \boxed{{{}}}", "The answer is {}.", "It costs $9, then $2.\nA: {}", "so it is ${}$", "# Answer\n\n{}"]
ANSWERS = ["18", "2,500", "-3", r"\frac{1}{2}", "2x+3", "10^{3}", "7!", "1,-2", "[-1, 1]", "(1,2)", r"16\sqrt{3}", "A"]


def made_here(num_rows: int = 600) -> list[Row]:
    """Each answer in each form, against itself and against others."""
    draw = random.Random(0)
    rows = []
    for _ in range(num_rows):
        gold = draw.choice(ANSWERS)
        given = gold if draw.random() < 0.5 else draw.choice(ANSWERS)
        rows.append((gold, draw.choice(FORMS).format(given), given == gold))
    return rows


def recorded(path: str) -> list[Row]:
    """The rows of a JSONL file."""
    lines = map(json.loads, Path(path).read_text(encoding="utf-8").splitlines())
    return [(line["reference"], line["response"], bool(line["right"])) for line in lines]


def bare(pairs: list[tuple[str, str]]) -> list[float | None]:
    """The library's own verdicts on (response, reference); None where it raises."""
    from math_verify import parse, verify

    found: list[float | None] = []
    for response, reference in pairs:
        try:
            found.append(float(verify(parse(reference), parse(response))))
        except Exception:
            found.append(None)
    return found


def measure(title: str, rows: list[Row]) -> None:
    """Print one line of agreement and time, then the rows where ours and the record differ."""
    pairs = list(dict.fromkeys((response, reference) for reference, response, _ in rows))
    began = time.process_time()
    theirs = dict(zip(pairs, bare(pairs)))
    between = time.process_time()
    ours = dict(zip(pairs, verdicts(pairs, 5)))
    ended = time.process_time()
    agree_bare = sum(theirs[response, reference] == right for reference, response, right in rows)
    differ = [(*row, ours[row[1], row[0]]) for row in rows if ours[row[1], row[0]][0] != row[2]]
    print(
        f"{title}: ours {len(rows) - len(differ)} of {len(rows)}, bare {agree_bare}; ms a pair: ours "
        f"{(ended - between) / len(pairs) * 1e3:.2f}, bare {(between - began) / len(pairs) * 1e3:.2f}, "
        f"ratio {(ended - between) / (between - began):.2f}"
    )
    for reference, response, right, (score, error, _) in differ:
        print(f"  {reference!r} | {response[-60:]!r} | recorded {right}, ours {score if error is None else error}")


def main(paths: list[str]) -> None:
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    warm = [("1", r"\boxed{1}"), ("$x$", "y")]
    bare(warm)
    verdicts(warm, 5)
    for path in paths:
        measure(path, recorded(path))
    if not paths:
        measure("made here", made_here())


if __name__ == "__main__":
    main(sys.argv[1:])
