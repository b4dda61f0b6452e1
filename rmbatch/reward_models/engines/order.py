"""The order in which an engine gets conversations: those of one prompt next to each other, the longest groups first.

Neighbours share a prefix, which the engine computes once while it is in its cache. The longest come first, so that too
little memory shows early and small pieces fill the end of a window.

    engine.score(ids.take(pa.array(engine_order(ids, prompt))))
    for rows in chunks(lengths, prompt, max_tokens=32_768): ...
"""

import numpy as np
import pyarrow as pa


def engine_order(ids: pa.Array, prompt: np.ndarray) -> np.ndarray:
    """The positions of n conversations (IDS) in engine order: int64 [n]; ``prompt`` [n] as in ``Encoded``."""
    return order_by_prompt(np.asarray(ids.value_lengths()), prompt)


def order_by_prompt(lengths: np.ndarray, prompt: np.ndarray) -> np.ndarray:
    """``engine_order`` by the lengths alone."""
    if len(lengths) == 0:
        return np.zeros(0, np.int64)
    _, group = np.unique(prompt, return_inverse=True)
    longest = np.zeros(group.max() + 1, np.int64)
    np.maximum.at(longest, group, lengths)
    return np.asarray(np.lexsort((-lengths, group, -longest[group])), np.int64)


def chunks(lengths: np.ndarray, prompt: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """The positions in that order, in pieces of about ``max_tokens`` tokens; a prompt's conversations stay together.

    A prompt is cut only if it has more tokens than that. A longer conversation is a piece of its own.
    """
    order = order_by_prompt(lengths, prompt)
    pieces: list[np.ndarray] = []
    start, tokens = 0, 0
    for stop, place in enumerate(order):
        fits = tokens + lengths[place] <= max_tokens
        same = stop > start and prompt[place] == prompt[order[stop - 1]]
        if stop > start and not fits and not (same and tokens < max_tokens):
            pieces.append(order[start:stop])
            start, tokens = stop, 0
        tokens += int(lengths[place])
    return [*pieces, order[start:]] if len(order) else []
