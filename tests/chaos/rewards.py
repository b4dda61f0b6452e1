"""A user's own rewards, named by path in the chaos jobs: one takes its time, and kills its process where a row says so.

rewards: {slow: {reward: "tests/chaos/rewards.py:slow", ms: 10}}
"""

import ctypes
import os
import signal
import time
import zlib

import pyarrow as pa

from rmbatch.rewards.contract import Scores, reward

DEATHS = {
    "[dies: exit]": lambda: os._exit(3),
    "[dies: sigkill]": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "[dies: segfault]": lambda: ctypes.string_at(0),
}
"""What a response may contain, and what then becomes of the process that scores it."""


@reward("slow")
def slow(response: pa.Array, *, ms: float = 0.0) -> Scores:
    """A checksum of the text, after ``ms`` milliseconds for each response.

    response[n] text -> score[n] float64 in [0, 1), many of them equal; the reason repeats the text's beginning.
    Null or empty text: null and an error.
    """
    texts = response.to_pylist()
    for text in texts:
        time.sleep(ms / 1000)
        for mark, die in DEATHS.items():
            if text and text.startswith(mark):
                die()
    score = [zlib.crc32(text.encode()) % 7 / 7 if text else None for text in texts]
    return Scores(
        pa.array(score, pa.float64()),
        pa.array([None if text else "no_text: nothing to score" for text in texts], pa.string()),
        pa.array([text[:20] if text else None for text in texts], pa.string()),
    )
