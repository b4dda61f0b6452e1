"""The control of correction: a share of the rows gets plain answers to its prompt, for about as many tokens.

    is_control(0.05, seed=0, row=row)
    count_samples([edit, critique], sample, [attempt], most=8)       # 3: so many samples cost what those would cost

Nothing here looks at other rows, so a row's samples do not depend on the block that it is worked off in.
"""

from collections.abc import Sequence

from rmbatch.chat.client import ChatRequest
from rmbatch.correction.history import Row
from rmbatch.correction.messages import make_seed
from rmbatch.costs.prices import Usage

TOKEN_BYTES = 4
"""Bytes of text per token, where a prompt is too short to tell."""
MOST_AROUND = 64
"""Tokens that a chat template may put around a prompt."""
_SEEDS = 2**31


def is_control(share: float, seed: int, row: Row) -> bool:
    """Whether a row belongs to the control; its texts decide, so that equal rows are on one side."""
    return make_seed(seed, row, "control", 0, 0) < share * _SEEDS


def count_samples(replaced: Sequence[ChatRequest], sample: ChatRequest, usage: Sequence[Usage], most: int) -> int:
    """How many samples cost as much as the requests that they stand for, rounded; at least one.

    ``usage``: of the samples that there are. The prompts of what was not sent are estimated by their bytes, beside what
    a chat template puts around each prompt; their answers are taken to be as long as a sample.
    """
    if not usage:
        return 1
    prompt = sum(each.prompt for each in usage) / len(usage)
    answer = sum(each.completion for each in usage) / len(usage)
    num_bytes = max(_count_bytes(sample), 1)
    around = min(max(prompt - num_bytes / TOKEN_BYTES, 0), MOST_AROUND)
    each_byte = (prompt - around) / num_bytes
    wanted = sum(_count_bytes(each) * each_byte + around + answer for each in replaced)
    return min(max(round(wanted / max(prompt + answer, 1)), 1), most)


def _count_bytes(request: ChatRequest) -> int:
    return sum(len(str(message["content"]).encode(errors="replace")) for message in request.messages)
