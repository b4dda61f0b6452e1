"""What a trained reward model is worth: accuracy on held-out pairs, and the best of several by it, against controls.

    python -m tests.bench.reward_model_training out/train-rm/run             # the accuracy alone
    python -m tests.bench.reward_model_training out/train-rm/run FILE        # GSM8K's example_model_solutions.jsonl

Accuracy stands beside chance (50 %) and beside the length of the answer alone. The best of four recorded solutions of
each held-out problem stands beside a random pick and beside an oracle; its interval is a bootstrap over problems.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq

from jobs.examples.solution_pairs import MODELS
from rmbatch.reward_models.reward import reward_model

DRAWS = 10_000


def main(output: str, public_file: str | None = None) -> None:
    """Print two tables."""
    report = orjson.loads((Path(output) / "report.json").read_bytes())
    held_out = report["held_out"]
    print("| accuracy on held-out pairs | value | 95 % interval | pairs |")
    print("| --- | --- | --- | --- |")
    interval = f"{held_out['low']:.1%} to {held_out['high']:.1%}"
    print(f"| the trained reward model | {held_out['accuracy']:.1%} | {interval} | {held_out['rows']:,} |")
    print(f"| the same before training | {held_out['before']:.1%} | | {held_out['rows']:,} |")
    print(f"| the length of the answer alone | {held_out['length_alone']:.1%} | | {held_out['rows']:,} |")
    print("| chance | 50.0% | | |")
    if public_file is not None:
        print()
        compare_best_of(Path(output), Path(public_file))


def compare_best_of(output: Path, public_file: Path) -> None:
    """Print how often the best of four solutions by the reward is right, on held-out problems."""
    table = pq.read_table(output / "_rmbatch/data/held_out.parquet", columns=["prompt"])
    wanted = {prompt[-1]["content"] for prompt in table["prompt"].to_pylist()}
    rows = [row for line in public_file.read_bytes().splitlines() if (row := orjson.loads(line))["question"] in wanted]
    samples = [{"prompt": row["question"], "responses": [row[model]["solution"] for model in MODELS]} for row in rows]
    right = np.array([[row[model]["is_correct"] for model in MODELS] for row in rows], dtype=float)
    rm = reward_model(str(output / "model"), engine="transformers", gpus=0, max_length=512)
    results: Any = rm.evaluate_batch(samples, columns={"prompt": "prompt", "responses": "responses"})
    scores = np.array([[-np.inf if each.score is None else each.score for each in some] for some in results])
    picked = right[np.arange(len(rows)), scores.argmax(axis=1)]
    random_pick, oracle = right.mean(axis=1), right.max(axis=1)
    draw = np.random.default_rng(0).integers(0, len(rows), (DRAWS, len(rows)))
    print(f"| best of 4 on {len(rows):,} held-out problems with right and wrong solutions | right | 95 % interval |")
    print("| --- | --- | --- |")
    for name, values in (("by the reward model", picked), ("a random pick", random_pick), ("an oracle", oracle)):
        print(f"| {name} | {values.mean():.1%} | {describe(values[draw].mean(axis=1))} |")
    gain = picked - random_pick
    print(f"| reward model minus random pick | {gain.mean():+.1%} | {describe(gain[draw].mean(axis=1))} |")


def describe(means: "np.ndarray[Any, Any]") -> str:
    """The interval of bootstrap means."""
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{low:.1%} to {high:.1%}"


if __name__ == "__main__":
    main(*sys.argv[1:])
