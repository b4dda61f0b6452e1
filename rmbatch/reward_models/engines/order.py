"""In which order conversations go to an engine: those of one prompt next to each other, longest prompts' groups first.

Next to each other, so that the engine computes their common prefix once, while it is still in its cache. Longest first,
so that what does not fit in memory shows early and the end of a window is made of small pieces.

    engine.score(ids.take(pa.array(engine_order(ids, prompt))))
    for rows in chunks(lengths, prompt, max_tokens=32_768): ...
"""

import numpy as np
import pyarrow as pa


def engine_order(ids: pa.Array, prompt: np.ndarray) -> np.ndarray:
    """The places of n conversations (IDS) in the order in which to ask: int64 [n]; ``prompt`` [n] as in ``Encoded``."""
    return ordered(np.asarray(ids.value_lengths()), prompt)


def ordered(lengths: np.ndarray, prompt: np.ndarray) -> np.ndarray:
    """``engine_order`` by the lengths alone."""
    if len(lengths) == 0:
        return np.zeros(0, np.int64)
    _, group = np.unique(prompt, return_inverse=True)
    longest = np.zeros(group.max() + 1, np.int64)
    np.maximum.at(longest, group, lengths)
    return np.asarray(np.lexsort((-lengths, group, -longest[group])), np.int64)


def chunks(lengths: np.ndarray, prompt: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """The places in that order, cut into pieces of about ``max_tokens`` tokens; a prompt's conversations stay together.

    Only a prompt with more tokens than that is cut, and a single longer conversation is a piece of its own.
    """
    order = ordered(lengths, prompt)
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
