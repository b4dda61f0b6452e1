"""The reward for answers that are mathematics: ``math_verify_reward``, by Hugging Face's math-verify.

A signal stops long computations, and Python delivers signals to the main thread only. On the main thread math-verify
runs in this process. On any other thread (an async actor, a thread pool) it runs in a helper process
(``math_process.py``), on that process's main thread.
"""

import threading
from collections.abc import Sequence
from typing import Annotated

import pyarrow as pa
from pydantic import Field

from rmbatch.rewards.contract import Scores, reward
from rmbatch.rewards.rules.math_comparison import Comparison, Pair, compare_pairs
from rmbatch.rewards.rules.math_process import HELPER
from rmbatch.rewards.rules.texts import to_scores


@reward("math_verify_reward")
def math_verify_reward(
    response: pa.Array, reference: pa.Array, *, timeout_s: Annotated[int, Field(ge=1)] = 5
) -> Scores:
    r"""1.0 where the answer that the response ends on equals the reference as mathematics, else 0.0.

    response[n] text, reference[n] text -> score[n] float64 in {0, 1}; the reason shows what was compared. Both are read
    by the same rules. A last line that is nothing but mathematics, also after "answer is", "answer:", "A:" or "####",
    is read whole as LaTeX (``16\sqrt{3}``, ``y = -2x``, ``1,-2``, ``12 pi``). In all else math-verify looks for the
    answer: ``\boxed{}``, then ``$…$`` and plain numbers, the last one first (boxes close together are one set). Two
    texts, or two answers, that are the same but for ``$``, ``\text{}``, white space and a full stop are equal. A
    response without an answer: 0.0.
    Null response or reference: null. Null with a code: ``unparsable_reference``, it holds no mathematics and the
    response does not repeat it; ``timeout`` where parsing or comparing takes over ``timeout_s`` seconds of processor
    time each; ``verify_failed`` where the comparison raises.
    Source: math-verify, https://github.com/huggingface/Math-Verify, as RM-Gallery's ``math_verify_reward`` uses it,
    https://github.com/modelscope/RM-Gallery.
    Deviation: a last line that is nothing but mathematics is read whole, where RM-Gallery compares the 16 in
    ``16\sqrt{3}``, or the -2 in ``y = -2x``; and equal texts are right, where RM-Gallery gives 0.0 to ``(1,2)`` or
    ``A`` for itself.
    Deviation: a reference without mathematics is null, and so is what takes too long or raises; RM-Gallery gives 0.0,
    or its ``timeout_score``.
    Deviation: the knob ``timeout_score`` is refused: what takes too long has no score.
    Deviation: a thread that is not the main one gets the same scores, where RM-Gallery's time limit fails.
    """
    pairs = list(zip(response.to_pylist(), reference.to_pylist()))
    different = list(dict.fromkeys(pair for pair in pairs if None not in pair))
    found = dict(zip(different, compare_on_any_thread(different, timeout_s)))
    return to_scores(map(found.get, pairs))


def compare_on_any_thread(pairs: Sequence[Pair], timeout_s: int) -> list[Comparison]:
    """The comparison of each pair, in order: here on the main thread, in a helper process on any other."""
    if threading.current_thread() is threading.main_thread():
        return compare_pairs(pairs, timeout_s)
    return HELPER.compare_pairs(pairs, timeout_s)
