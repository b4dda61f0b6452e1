"""Tokens a second of ``engine: transformers`` beside the padded loop that model cards show, on the same rows.

    python -m tests.bench.transformers_engine                            # a tiny model on the CPU
    python -m tests.bench.transformers_engine --shape 7b --device cuda

Random weights in the real model's shape, bfloat16 on a GPU and float32 on the CPU: speed does not hang on what the
weights are. Conversations are random ids, their lengths lognormal with a fixed seed. The loop takes batches of 8 in
the order of the input, padded to their longest. Both run on the same model in turns; medians. MFU counts the tokens of
the conversations, not those of the padding. It imports no Ray, so that it runs on a machine with torch and little else.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import transformers

from rmbatch.costs.gpus import flops_per_token, peak_flops
from rmbatch.reward_models.engines.packing import Ids
from rmbatch.reward_models.engines.transformers import LoadedModel, TransformersEngine
from rmbatch.stores.scores import IDS

LOOP_ROWS = 8
"""Conversations in a batch of the loop."""
CALL_ROWS = 64
"""Conversations in a call of the engine, all calls at once, as a job's tasks ask."""
SIGMA = 0.8
"""Of the logarithm of lengths: one conversation in six is more than twice as long as the median."""


@dataclass(frozen=True)
class Shape:
    """A model's configuration, and the conversations that it gets here."""

    config: dict[str, Any]
    median_tokens: int
    max_tokens: int
    num_rows: int


QWEN = {
    "max_position_embeddings": 32_768,
    "rope_theta": 1_000_000.0,
    "rms_norm_eps": 1e-6,
    "num_labels": 1,
    "pad_token_id": 151_643,
    "eos_token_id": 151_645,
}
SHAPES = {
    "tiny": Shape(
        QWEN
        | {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "vocab_size": 2_000}
        | {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": 1},
        median_tokens=100,
        max_tokens=1_000,
        num_rows=600,
    ),
    "0.5b": Shape(  # Qwen2.5-0.5B
        QWEN
        | {"hidden_size": 896, "intermediate_size": 4_864, "num_hidden_layers": 24, "vocab_size": 151_936}
        | {"num_attention_heads": 14, "num_key_value_heads": 2},
        median_tokens=400,
        max_tokens=4_000,
        num_rows=4_000,
    ),
    "7b": Shape(  # Qwen2.5-7B
        QWEN
        | {"hidden_size": 3_584, "intermediate_size": 18_944, "num_hidden_layers": 28, "vocab_size": 152_064}
        | {"num_attention_heads": 28, "num_key_value_heads": 4},
        median_tokens=400,
        max_tokens=4_000,
        num_rows=1_000,
    ),
}


def made(shape: Shape, device: str) -> Any:
    """The model with random weights, made where it runs."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    with torch.device(device):
        config = transformers.Qwen2Config(**shape.config)
        return transformers.AutoModelForSequenceClassification.from_config(config, dtype=dtype).eval()


def conversations(shape: Shape, num_rows: int) -> list[Ids]:
    """Random ids, of lengths as conversations have them."""
    draw = np.random.default_rng(0)
    lengths = np.clip(shape.median_tokens * draw.lognormal(0, SIGMA, num_rows), 8, shape.max_tokens).astype(int)
    return [draw.integers(10, 1_900, length).astype(np.int32) for length in lengths]


def by_loop(model: Any, rows: Sequence[Ids], pad: int) -> tuple[list[float], int]:
    """Scores as a model card gets them, and the tokens of the padding."""
    scores: list[float] = []
    padded = 0
    model.config.pad_token_id = pad
    for begin in range(0, len(rows), LOOP_ROWS):
        batch = rows[begin : begin + LOOP_ROWS]
        longest = max(map(len, batch))
        ids = torch.tensor([[*row.tolist(), *[pad] * (longest - len(row))] for row in batch])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
        with torch.inference_mode():
            logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
        scores += logits[:, 0].float().tolist()
        padded += longest * len(batch) - sum(map(len, batch))
    return scores, padded


def by_engine(engine: TransformersEngine, rows: Sequence[Ids]) -> tuple[list[float], int]:
    """The same of the engine."""
    calls = [pa.array(rows[begin : begin + CALL_ROWS], IDS) for begin in range(0, len(rows), CALL_ROWS)]

    async def ask() -> list[Any]:
        return await asyncio.gather(*map(engine.score, calls))

    answers = asyncio.run(ask())
    scores = [row[0] for answer in answers for row in answer.values.to_pylist()]
    return scores, sum(answer.usage["padded_tokens"] for answer in answers)


def timed(run: Callable[[], tuple[list[float], int]]) -> tuple[float, list[float], int]:
    began = time.monotonic()
    scores, padded = run()
    return time.monotonic() - began, scores, padded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--rows", type=int, help="conversations; the default depends on the shape")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-tokens", type=int, default=16_384, help="as in a job file")
    parser.add_argument("--runs", type=int, default=3, help="of each, in turns")
    asked = parser.parse_args()

    shape = SHAPES[asked.shape]
    rows = conversations(shape, asked.rows or shape.num_rows)
    num_tokens = sum(map(len, rows))
    model, pad = made(shape, asked.device), shape.config["pad_token_id"]
    loaded = LoadedModel(model, rows[0][:20], rows[1][:60])
    engine = TransformersEngine.from_model(loaded, asked.batch_tokens)
    runs: dict[str, Callable[[], tuple[list[float], int]]] = {
        "padded loop": lambda: by_loop(model, rows, pad),
        "engine": lambda: by_engine(engine, rows),
    }
    by_loop(model, rows[:200], pad)  # the first of each pays for kernels and memory
    by_engine(engine, rows[:200])
    found: dict[str, list[tuple[float, list[float], int]]] = {title: [] for title in runs}
    for _ in range(asked.runs):
        for title, run in runs.items():
            found[title].append(timed(run))
    engine.close()

    device = torch.cuda.get_device_name() if asked.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    dtype = str(model.dtype).removeprefix("torch.")
    lengths = np.array([len(row) for row in rows])
    print(
        f"{asked.shape}, {dtype}, {device}; torch {torch.__version__}, transformers {transformers.__version__}\n"
        f"{len(rows):,} conversations, {num_tokens:,} tokens, median {np.median(lengths):.0f}, "
        f"longest {lengths.max()}; batch_tokens {asked.batch_tokens:,}; medians of {asked.runs} runs\n"
    )
    length = float(
        (lengths.astype(float) ** 2).sum() / num_tokens
    )  # of the conversation that a token is in, on average
    flops, peak = flops_per_token(model.config.to_dict(), length), peak_flops(device, dtype)
    print("| | tokens/s | padding share | MFU |\n| --- | --- | --- | --- |")
    rates = {}
    for title, each in found.items():
        seconds, padded = statistics.median(run[0] for run in each), each[0][2]
        rates[title] = num_tokens / seconds
        mfu = f"{rates[title] * flops / peak:.1%}" if peak and flops else "unknown"
        print(f"| {title} | {rates[title]:,.0f} | {padded / (num_tokens + padded):.1%} | {mfu} |")
    ours, theirs = (np.array(found[title][0][1]) for title in ("engine", "padded loop"))
    print(
        f"\nratio {rates['engine'] / rates['padded loop']:.2f}; "
        f"scores at most {np.abs(ours - theirs).max():.1e} apart, of a standard deviation of {theirs.std():.1e}"
    )


if __name__ == "__main__":
    main()
