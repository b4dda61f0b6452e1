"""What a model thought, kept apart from what it said, where its server leaves both in one text.

without_thinking("<think>hm</think> 4")        # ("hm", "4")
"""

import json
import re

_START = re.compile(r"\s*(?:<think(?:ing)?>|\[THINK\])")
_END = re.compile(r"</think(?:ing)?>|\[/THINK\]")
_TAG = re.compile(r"</?think(?:ing)?>|\[/?THINK\]")
_MOST_ENDS = 64
"""More ends of thinking than so many are no answer's: only the last are looked at."""


def without_thinking(text: str) -> tuple[str, str]:
    """What was thought, and what was said: of models whose server leaves ``<think>…</think>`` in their text.

    Templates may open the thinking, so that only its end is there; cut off it has no end, and nothing is said.
    Text that is one JSON value is said as a whole, whatever its strings hold. An end that is quoted is none.
    """
    starts = thinking_ends(text)
    whole = (start for start in starts if _is_json(text[start:]))
    return split_at(text, next(whole, starts[-1]))


def thinking_ends(text: str) -> list[int]:
    """Where the thinking may end and what is said begin; 0 where nothing may have been thought. At least one."""
    is_open = _START.match(text) is not None
    ends = [match.end() for match in list(_END.finditer(text))[-_MOST_ENDS:] if not _is_quoted(text, match.start())]
    if ends and _START.match(text, ends[-1]):
        ends.append(len(text))
    starts = ([] if is_open else [0]) + ends
    return starts or [len(text)]


def split_at(text: str, start: int) -> tuple[str, str]:
    """What was thought before a place, without its tags, and what was said from there."""
    return ("", text) if not start else (_TAG.sub("", text[:start]).strip(), text[start:].lstrip())


def _is_quoted(text: str, place: int) -> bool:
    """Whether a place is inside quotation marks, which end with their line, or inside a code fence."""
    line = text[text.rfind("\n", 0, place) + 1 : place]
    before = line.replace('\\"', "")
    if before.count('"') % 2 or before.count("`") % 2 or before.count("“") > before.count("”"):
        return True
    return text.count("```", 0, place) % 2 == 1


def _is_json(text: str) -> bool:
    if not text.lstrip().startswith(("{", "[{")):
        return False
    try:
        json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return False
    return True
