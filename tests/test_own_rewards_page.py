"""docs/own_rewards.md: its snippets run, one after the other, as a reader would type them."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "own_rewards.md"


def test_the_snippets_of_the_page_run_in_order() -> None:
    snippets = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(snippets) > 8
    names: dict[str, object] = {"__name__": "own_rewards"}
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), names)
