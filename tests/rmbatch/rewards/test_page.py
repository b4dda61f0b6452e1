"""The page of rewards is what the command prints."""

import subprocess
import sys
from pathlib import Path

from rmbatch.rewards.page import page
from rmbatch.rewards.registry import BUILTIN

ROOT = Path(__file__).parents[3]


def test_the_committed_page_is_what_the_command_prints() -> None:
    committed = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
    assert committed == page(), "run: python -m rmbatch.rewards.page > docs/rewards.md"
    command = [sys.executable, "-m", "rmbatch.rewards.page"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode() == committed


def test_each_reward_says_what_it_reads_its_range_its_nulls_and_its_source() -> None:
    entries = page().split("\n## ")[2:]
    assert [entry.split("\n")[0] for entry in entries] == sorted(BUILTIN)
    for entry in entries:
        for part in ("- reads: ", "- writes: ", "- range: ", "- nulls: ", "- source: "):
            assert part in entry, f"{entry.splitlines()[0]} does not say {part!r}"
