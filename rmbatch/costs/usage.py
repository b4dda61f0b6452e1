"""What engines and chat servers were used for since one last looked, in this process: counts by who used them.

record("judge.4f1c…", {"answers": 12})
taken = take()                           # the counts so far; counting begins anew
usage_of("judge.4f1c…", taken)           # {"answers": 12}
"""

import threading
from collections import Counter
from collections.abc import Mapping

_counts: Counter[str] = Counter()
_lock = threading.Lock()


def record(user: str, counts: Mapping[str, int]) -> None:
    """Add what was used by a user: a judge or a reward model."""
    with _lock:
        _counts.update({f"{user}.{what}": count for what, count in counts.items()})


def take() -> dict[str, int]:
    """The counts since the last call; sums of several processes mean the same."""
    with _lock:
        taken = dict(_counts)
        _counts.clear()
    return taken


def usage_of(user: str, counts: Mapping[str, int]) -> dict[str, int]:
    """What one user has used, by what it is."""
    start = f"{user}."
    return {key.removeprefix(start): count for key, count in counts.items() if key.startswith(start)}
