"""Correction over recorded data: ChatGPT's own edits replayed as the editor, and real wrong answers."""

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.editing import Told, editor_server, requests
from tests.jobs.running import by, rows, run

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("no_client_stays")]

REACHED = """
import json, pathlib
import pyarrow as pa
from rmbatch.rewards.contract import reward

TRUTH = json.loads(pathlib.Path(__file__).with_name("truth.json").read_text())

@reward("reached")
def reached(response: pa.Array, record: pa.Array) -> pa.Array:
    pairs = zip(response.to_pylist(), record.to_pylist())
    return pa.array([TRUTH[str(number)].get(text) for text, number in pairs], pa.float64())
"""


def recorded(shared_data: Path) -> dict[int, list[dict[str, Any]]]:
    """Self-Refine's rounds by record, those that have all five."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for line in (shared_data / "self_refine/yelp_chatgpt.jsonl").read_text().splitlines():
        each = json.loads(line)
        found[each["record_id"]].append(each)
    return {number: sorted(some, key=lambda each: each["attempt"]) for number, some in found.items() if len(some) == 5}


def is_reached(each: dict[str, Any]) -> bool:
    """By what the model that judged it said."""
    return re.search(rf"\b(is|as) {each['target_sentiment']}", each["transferred_review_sentiment"]) is not None


def test_recorded_edits_end_on_the_best_of_their_history(here: None, shared_data: Path, tmp_path: Path) -> None:
    rounds = recorded(shared_data)
    truth = {
        number: {each["transferred_review"]: float(is_reached(each)) for each in some}
        for number, some in rounds.items()
    }
    assert len(rounds) == 460
    assert sum(is_reached(some[0]) for some in rounds.values()) == 431
    assert sum(is_reached(some[-1]) for some in rounds.values()) == 313  # what the last-text rule gives
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "reached.py").write_text(REACHED)
    (tmp_path / "in.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "record": number,
                    "prompt": f"[record {number}] Rewrite to {some[0]['target_sentiment']}: {some[0]['review']}",
                    "response": some[0]["transferred_review"],
                }
            )
            + "\n"
            for number, some in rounds.items()
        )
    )
    asked: Counter[int] = Counter()

    def replay(told: Told) -> str:
        """The next recorded text of this record."""
        number = int(told.prompt.split("[record ")[1].split("]")[0])
        asked[number] += 1
        text: str = rounds[number][asked[number]]["transferred_review"]
        return text

    with editor_server(replay) as server:
        run(
            {
                "job": "correct",
                "input": {"path": str(tmp_path / "in.jsonl")},
                "rewards": {"reached": {"reward": f"{tmp_path}/reached.py:reached"}},
                "correct": {
                    "gate": {"below": 1.0},
                    "editor": {"endpoint": server.url, "model": "chatgpt"},
                    "rounds": 4,
                    "stop": {"patience": 4},
                    "guards": {"length": None, "refusal": False, "language": None, "format": False},
                },
                "output": {"path": str(tmp_path / "out")},
            }
        )
        assert set(asked) == {n for n, some in rounds.items() if not is_reached(some[0])}
        assert len(requests(server)) == sum(asked.values())
    written = rows(tmp_path / "out")
    assert len(written) == 460
    assert sum(row["correct.score_before"] for row in written) == 431
    assert sum(row["correct.score"] for row in written) == 457
    assert all(row["correct.score"] >= row["correct.score_before"] for row in written)
    assert all(truth[row["record"]][row["correct.response"]] == row["correct.score"] for row in written)


def test_repaired_share_of_real_wrong_answers_is_gained(here: None, shared_data: Path, tmp_path: Path) -> None:
    """The editor repairs every third wrong answer, worsens others and spoils right ones if it is asked about them."""
    lines = (shared_data / "realcritic/gsm8k.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    problems = [
        {"n": n, "prompt": f"[{n}] {each['question']}", "response": each["reasoning"], "answer": each["gt"]}
        for n, each in enumerate(found)
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(each) + "\n" for each in problems))

    def number_of(told: Told) -> int:
        return int(told.prompt.split("[", 2)[2].split("]")[0])

    def repair(told: Told) -> str:
        n = number_of(told)
        value = problems[n]["answer"] if n % 3 == 0 else "123456789"
        steps = re.sub(r"\\boxed\{([^}]*)\}", r"\1", told.best)
        return rf"{steps} So once more. The answer is \boxed{{{value}}}"

    with editor_server(repair) as server:
        run(
            {
                "job": "correct",
                "input": {"path": str(tmp_path / "in.jsonl")},
                "rewards": {"math": {"reward": "math_verify"}},
                "correct": {
                    "gate": {"below": 1.0},
                    "editor": {"endpoint": server.url, "model": "m", "edits": 2},
                    "rounds": 1,
                },
                "output": {"path": str(tmp_path / "out")},
            }
        )
        asked = Counter(number_of(told) for told in requests(server))
    written = by("n", rows(tmp_path / "out"))
    wrong = {row["n"] for row in written if row["correct.score_before"] == 0.0}
    repaired = {n for n in wrong if n % 3 == 0}
    assert wrong == {n for n, each in enumerate(found) if each["previous_score"] == [False]}  # the data's own verdicts
    assert len(wrong) == 137
    assert asked == dict.fromkeys(wrong, 2)
    gained = {row["n"] for row in written if row["correct.score"] == 1.0 and row["correct.score_before"] == 0.0}
    assert gained == repaired
    assert all(row["correct.score"] == 1.0 for row in written if row["correct.score_before"] == 1.0)
    assert all(row["correct.response"] == row["response"] for row in written if row["n"] not in repaired)
