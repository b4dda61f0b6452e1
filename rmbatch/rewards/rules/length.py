"""Rewards for length in tokens, as RL recipes shape it: ``soft_overlong`` and ``cosine_length``.

The tokens are a column, because only the generator knows its tokenizer. By characters: ``length_penalty`` in
``format.py``.
"""

from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from connectors.errors import UserError
from rmbatch.rewards.contract import reward

Length = Annotated[int, Field(ge=1)]


@reward("soft_overlong")
def soft_overlong(response_tokens: pa.Array, *, limit: Length = 20_480, buffer: Length = 4_096) -> pa.Array:
    """Penalise long responses: 0 up to ``limit - buffer`` tokens, then linearly down to -1 at ``limit`` and beyond.

    response_tokens[n] int, in tokens -> score[n] float64 in [-1, 0].
    Null response_tokens: null. UserError unless buffer <= limit.
    Source: DAPO, "Overlong Reward Shaping", arXiv 2503.14476.
    """
    if buffer > limit:
        raise UserError(f"soft_overlong: {buffer=} is above {limit=}, in tokens")
    excess = pc.subtract(pc.cast(response_tokens, pa.int64()), limit - buffer)
    excess = pc.min_element_wise(pc.max_element_wise(excess, 0, skip_nulls=False), buffer, skip_nulls=False)
    return pc.divide(pc.cast(excess, pa.float64()), -float(buffer))


@reward("cosine_length")
def cosine_length(
    response_tokens: pa.Array,
    response_correct: pa.Array,
    *,
    max_tokens: Length = 16_384,
    correct_short: float = 2.0,
    correct_long: float = 1.0,
    wrong_short: float = -10.0,
    wrong_long: float = 0.0,
    exceeded: float = -10.0,
) -> pa.Array:
    """Reward by correctness and length: a right answer earns less the longer it is, a wrong one loses less.

    response_tokens[n] int, in tokens; response_correct[n] bool or number, right from 0.5 on -> score[n] float64.
    Between no tokens (``…_short``) and ``max_tokens`` (``…_long``) it follows half a cosine; at ``max_tokens`` and
    beyond it is ``exceeded``.
    Null response_tokens or response_correct: null.
    Source: Yeo et al., "Demystifying Long Chain-of-Thought Reasoning", arXiv 2502.03373; the rewards are
    theirs.
    """
    right = pc.greater_equal(pc.cast(response_correct, pa.float64()), 0.5)
    tokens = pc.cast(pc.cast(response_tokens, pa.int64()), pa.float64())
    falling = pc.divide(pc.add(pc.cos(pc.multiply(tokens, np.pi / max_tokens)), 1.0), 2.0)

    def curve(short: float, long: float) -> pa.Array:
        return pc.add(pc.multiply(falling, short - long), long)

    within = pc.if_else(right, curve(correct_short, correct_long), curve(wrong_short, wrong_long))
    over = pc.and_(pc.greater_equal(tokens, float(max_tokens)), pc.is_valid(right))
    return pc.if_else(over, exceeded, within)
