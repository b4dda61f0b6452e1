"""The order in which conversations go to an engine, and the chunks that they are cut into."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmbatch.reward_models.engines.order import chunks, order_by_prompt


@pytest.mark.parametrize(
    ("lengths", "prompt", "expected"),
    [
        ([], [], []),
        ([5], [9], [0]),
        ([1, 2, 3], [7, 7, 7], [2, 1, 0]),
        ([10, 90, 20, 30], [1, 2, 1, 2], [1, 3, 2, 0]),  # the group with the longest first, whole
        ([50, 50, 60, 60], [1, 2, 1, 2], [2, 0, 3, 1]),  # equal longest: still not interleaved
    ],
)
def test_a_prompts_conversations_stay_together_longest_first(
    lengths: list[int], prompt: list[int], expected: list[int]
) -> None:
    assert order_by_prompt(np.array(lengths, np.int64), np.array(prompt, np.int64)).tolist() == expected


@pytest.mark.parametrize(
    ("lengths", "prompt", "max_tokens", "expected"),
    [
        ([], [], 100, []),
        ([500], [1], 100, [[0]]),  # longer than a chunk: a chunk of its own
        ([60, 50, 40, 30], [1, 2, 3, 4], 100, [[0], [1, 2], [3]]),
        ([60, 60, 40], [1, 1, 2], 100, [[0, 1], [2]]),  # one prompt is not parted for a few tokens
        ([60, 60, 60, 60], [1, 1, 1, 1], 100, [[0, 1], [2, 3]]),  # but for many
    ],
)
def test_chunks(lengths: list[int], prompt: list[int], max_tokens: int, expected: list[list[int]]) -> None:
    found = chunks(np.array(lengths, np.int64), np.array(prompt, np.int64), max_tokens)
    assert [piece.tolist() for piece in found] == expected


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 5)), max_size=60), st.integers(1, 1000))
def test_every_conversation_is_in_one_chunk(rows: list[tuple[int, int]], max_tokens: int) -> None:
    lengths = np.array([length for length, _ in rows], np.int64)
    prompt = np.array([group for _, group in rows], np.int64)
    pieces = chunks(lengths, prompt, max_tokens)
    assert sorted(place for piece in pieces for place in piece.tolist()) == list(range(len(rows)))
    for piece in pieces:
        largest = max(int(lengths[prompt == group].sum()) for group in set(prompt[piece].tolist()))
        assert lengths[piece].sum() <= max(max_tokens, largest) + max_tokens
