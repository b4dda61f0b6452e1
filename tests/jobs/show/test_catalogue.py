"""``rmbatch rewards``: the list of rewards and judges, and one of them."""

import json
from pathlib import Path

from tests.jobs.commands import Command, mistake_of


def test_list_of_rewards(rmbatch: Command) -> None:
    outcome = rmbatch("rewards")
    assert outcome.code == 0
    assert "f1_score" in outcome.out
    assert "F1 of the sets of tokens" in outcome.out


def test_one_reward(rmbatch: Command, tmp_path: Path) -> None:
    outcome = rmbatch("rewards", "f1_score")
    assert outcome.code == 0
    assert "knob     tokenizer: 'words' | 'jieba' | 'tiktoken' = 'words'" in outcome.out
    assert "Null response or reference: null." in outcome.out
    (tmp_path / "mine.py").write_text('def kind(response, *, word="please"):\n    "Says the word."\n')
    assert "Says the word." in rmbatch("rewards", "mine.py:kind").out
    assert mistake_of(rmbatch("rewards", "f1scor")).startswith("no reward or judge 'f1scor': did you mean 'f1_score'?")


def test_rewards_are_listed_by_topic(rmbatch: Command) -> None:
    out = rmbatch("rewards").out
    assert out.index("mathematics") < out.index("math_verify_reward") < out.index("programs") < out.index("code_execut")


def test_rewards_as_json(rmbatch: Command) -> None:
    outcome = rmbatch("rewards", "--json")
    found = json.loads(outcome.out)
    assert {"name": "pairwise", "kind": "pairwise"}.items() <= found["judges"][1].items()
    (f1,) = (each for each in found["rewards"] if each["name"] == "f1_score")
    assert (f1["topic"], f1["columns"]) == ("answers", ["response", "reference"])
    assert json.loads(rmbatch("rewards", "math_verify", "--json").out)["rewards"][0]["topic"] == "mathematics"
