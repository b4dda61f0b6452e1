"""How often ``math_verify_reward`` and the bare math-verify agree with recorded verdicts, and their time beside it.

    python -m tests.bench.math_agreement                       # a set made here
    python -m tests.bench.math_agreement verdicts.jsonl ...    # {"reference": ..., "response": ..., "right": true}
    python -m tests.bench.math_agreement example_model_solutions.jsonl    # of openai/grade-school-math, as it is
    python -m tests.bench.math_agreement math_cot_100.jsonl    # of QwenLM/Qwen2.5-Math's evaluation, as it is

The control is math-verify's own ``verify(parse(reference), parse(response))`` on the same pairs in the same run.
Processor time of one process; each different pair once. A pair on which either side reaches its limit of 5 s tells that
limit and no speed: it is left out of the time and counted. Verdicts that ours and the record differ on are printed.
"""

import json
import logging
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rmbatch.rewards.rules.math_comparison import compare_pairs

Row = tuple[str, str, bool]
"""Reference, response, whether the response is right."""
LIMIT_S = 5
"""Of one parse or one comparison, on both sides."""
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
    """The rows of a JSONL file, in one of the three forms."""
    return [row for line in Path(path).read_text(encoding="utf-8").splitlines() for row in _rows(json.loads(line))]


def _rows(record: dict[str, Any]) -> Iterator[Row]:
    if "right" in record:
        yield record["reference"], record["response"], bool(record["right"])
    elif "ground_truth" in record:  # GSM8K: solutions of several models; the reference ends in "A: 18"
        gold = record["ground_truth"].rsplit("A: ", 1)[-1]
        models = (value for value in record.values() if isinstance(value, dict) and "is_correct" in value)
        yield from ((gold, model["solution"], bool(model["is_correct"])) for model in models)
    else:  # Qwen2.5-Math: sampled solutions and their scores
        yield from ((record["gt"], code, bool(score)) for code, score in zip(record["code"], record["score"]))


def bare(response: str, reference: str) -> float | None:
    """The library's own verdict; None where it raises."""
    from math_verify import parse, verify

    try:
        return float(verify(parse(reference), parse(response)))
    except Exception:
        return None


def timed(check: Callable[..., Any], *given: Any) -> tuple[Any, float]:
    """What a call returns, and the processor time that it takes."""
    began = time.process_time()
    return check(*given), time.process_time() - began


def measure(title: str, rows: list[Row]) -> None:
    """Print one line of agreement and time, then the rows where ours and the record differ."""
    pairs = list(dict.fromkeys((response, reference) for reference, response, _ in rows))
    bare_timed = [timed(bare, *pair) for pair in pairs]
    ours_timed = [timed(compare_pairs, [pair], LIMIT_S) for pair in pairs]
    theirs = {pair: verdict for pair, (verdict, _) in zip(pairs, bare_timed)}
    ours = {pair: verdict for pair, ([verdict], _) in zip(pairs, ours_timed)}
    spent = [(mine, bares) for (_, mine), (_, bares) in zip(ours_timed, bare_timed)]
    in_time = [(mine, bares) for mine, bares in spent if max(mine, bares) < 0.9 * LIMIT_S]
    ours_s, bare_s = (sum(side) for side in zip(*in_time))
    agree_bare = sum(theirs[response, reference] == right for reference, response, right in rows)
    differ = [(*row, ours[row[1], row[0]]) for row in rows if ours[row[1], row[0]][0] != row[2]]
    print(
        f"{title}: ours {len(rows) - len(differ)} of {len(rows)}, bare {agree_bare}; ms a pair: ours "
        f"{ours_s / len(in_time) * 1e3:.2f}, bare {bare_s / len(in_time) * 1e3:.2f}, ratio {ours_s / bare_s:.2f}; "
        f"{len(spent) - len(in_time)} of {len(spent)} pairs reach the limit and are left out"
    )
    for reference, response, right, (score, error, _) in differ:
        print(f"  {reference!r} | {response[-60:]!r} | recorded {right}, ours {score if error is None else error}")


def main(paths: list[str]) -> None:
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    warm = [("1", r"\boxed{1}"), ("$x$", "y")]
    for response, reference in warm:
        bare(response, reference)
    compare_pairs(warm, LIMIT_S)
    for path in paths:
        measure(path, recorded(path))
    if not paths:
        measure("made here", made_here())


if __name__ == "__main__":
    main(sys.argv[1:])
