"""The sentences that stand first in a report."""

from rmbatch.reports.findings import find_all

NOTHING = {
    **dict.fromkeys(("length", "curve", "drift")),
    "columns": {"by": "math", "gold": None},
    "picks": None,
    "scores": {},
    "rows": {"data": 3},
    "read_rows": 3,
}


def test_gain_of_few_rows_has_no_interval() -> None:
    gain = {"mean": 0.5, "low": None, "high": None}
    gains = {"groups": {"corrected": {"rounds": [{"round": 1, "gain": gain}]}}, "apart": None}
    report = {**NOTHING, "correction": {"gains": gains}}
    (said,) = (each["text"] for each in find_all(report) if "Correction" in each["text"])
    assert said.startswith("Correction gained 0.5 a row in 1 rounds (too few for an interval). ")
