"""What engines have cost since one last looked, in this process: counts by engine key, as ``Outputs.usage`` has them.

record(spec.engine_key, outputs.usage)
take()                                   # {"served.4f1c….tokens": 204800, …}, and counting begins anew
"""

import threading
from collections import Counter
from collections.abc import Mapping

PREFIX = "served."

_counts: Counter[str] = Counter()
_lock = threading.Lock()


def record(key: str, usage: Mapping[str, int]) -> None:
    """Add what an answer cost."""
    with _lock:
        _counts.update({f"{PREFIX}{key}.{name}": count for name, count in usage.items()})


def take() -> dict[str, int]:
    """The counts since the last call."""
    with _lock:
        taken = dict(_counts)
        _counts.clear()
    return taken
