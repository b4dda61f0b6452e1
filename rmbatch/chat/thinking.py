"""What a model thought, kept apart from what it said, where its server leaves both in one text.

without_thinking("<think>hm</think> 4")        # ("hm", "4")
"""

import json
import re

_THOUGHT_START = re.compile(r"\s*(?:<think(?:ing)?>|\[THINK\])")
_THOUGHT_END = re.compile(r"</think(?:ing)?>|\[/THINK\]")
_THOUGHT_TAG = re.compile(r"</?think(?:ing)?>|\[/?THINK\]")


def without_thinking(text: str) -> tuple[str, str]:
    """What was thought, and what was said: of models whose server leaves ``<think>…</think>`` in their text.

    Templates may open the thinking, so that only its end is there; cut off it has no end, and nothing is said.
    Text that is one JSON value is said as a whole, whatever its strings hold.
    """
    said = text.strip()
    if said.startswith(("{", "[{")) and _is_json(said):
        return "", text
    ends = list(_THOUGHT_END.finditer(text))
    start = ends[-1].end() if ends else 0
    if _THOUGHT_START.match(text, start):
        start = len(text)
    if not start:
        return "", text
    return _THOUGHT_TAG.sub("", text[:start]).strip(), text[start:].lstrip()


def _is_json(text: str) -> bool:
    try:
        json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return False
    return True
