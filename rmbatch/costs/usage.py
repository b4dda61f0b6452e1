"""What servers and engines have cost since one last looked, in this process: counts by name, which add up.

record({"served.4f1c….tokens": 204800})
take()                                   # the same, and counting begins anew
"""

import threading
from collections import Counter
from collections.abc import Mapping

_counts: Counter[str] = Counter()
_lock = threading.Lock()


def record(counts: Mapping[str, int]) -> None:
    """Add what an answer cost."""
    with _lock:
        _counts.update(counts)


def take() -> dict[str, int]:
    """The counts since the last call."""
    with _lock:
        taken = dict(_counts)
        _counts.clear()
    return taken
