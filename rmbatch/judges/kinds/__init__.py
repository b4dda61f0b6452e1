"""The kinds of judges, by name: what each asks, and how votes become scores.

To add one, write a file here with a subclass of ``JudgeKind`` (``base.py``) and a line in ``KINDS``. Nothing else knows
the kinds by name. This table loads none of them.
"""

KINDS: dict[str, str] = {
    "pointwise": "rmbatch.judges.kinds.pointwise:Pointwise",
    "pairwise": "rmbatch.judges.kinds.pairwise:Pairwise",
    "listwise": "rmbatch.judges.kinds.listwise:Listwise",
    "stepwise": "rmbatch.judges.kinds.stepwise:Stepwise",
}
