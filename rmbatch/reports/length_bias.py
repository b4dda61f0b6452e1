"""Whether a score is response length under another name: which way it decides between candidates of a prompt.

describe_length(agreement, "length")       # agreement: an ``Agreement`` of scores and the length of the texts
"""

from typing import Any, Literal

from rmbatch.reports.agreement import Agreement

ALONE, MOSTLY = 0.97, 0.8
"""Shares of the pairs that a score orders, from which on it is called length alone, or mostly length."""
FEWEST_PAIRS = 30
"""With fewer pairs nothing is said."""
Verdict = Literal["alone", "mostly", "little", "unknown"]


def describe_length(agreement: Agreement, length: str) -> list[dict[str, Any]]:
    """Of each score, as plain values: ``longer``, the share of its ordered pairs in which the longer one scores higher
    (of texts that differ in length), ``ordered``, their number, ``decides``, the share of all such pairs that it orders
    at all, and what that comes to."""
    at = agreement.names.index(length)
    found = []
    for place, name in enumerate(agreement.names):
        if place == at:
            continue
        each = agreement.pair(place, at)
        longer, ordered = each["agreement"], each["ordered"]
        differ = float(agreement.both[at, at])
        found.append(
            {
                "score": name,
                "longer": longer,
                "ordered": ordered,
                "decides": ordered / differ if differ else None,
                "verdict": _judge(longer, ordered),
            }
        )
    return found


def _judge(longer: float | None, ordered: int) -> Verdict:
    if longer is None or ordered < FEWEST_PAIRS:
        return "unknown"
    share = max(longer, 1.0 - longer)
    return "alone" if share >= ALONE else "mostly" if share >= MOSTLY else "little"
