"""Splits a text into a model's thinking and its answer, where the server leaves both in one text.

split_thinking("<think>hm</think> 4")        # ("hm", "4")
"""

import json
import re

_START = re.compile(r"\s*(?:<think(?:ing)?>|\[THINK\])")
_END = re.compile(r"</think(?:ing)?>|\[/THINK\]")
_TAG = re.compile(r"</?think(?:ing)?>|\[/?THINK\]")
_MOST_ENDS = 64
"""Of more ends of thinking than this, only the last are looked at."""


def split_thinking(text: str) -> tuple[str, str]:
    """The thinking and the answer of a text that may hold ``<think>…</think>``.

    A template may open the thinking, so that only its end is in the text. Thinking that was cut off has no end, and
    there is no answer. A text that is one JSON value is all answer, whatever its strings hold. A quoted end does not
    count.
    """
    starts = find_thinking_ends(text)
    whole = (start for start in starts if _is_json(text[start:]))
    return split_at(text, next(whole, starts[-1]))


def find_thinking_ends(text: str) -> list[int]:
    """The places where the answer may begin, at least one; 0 where there may be no thinking."""
    is_open = _START.match(text) is not None
    ends = [match.end() for match in list(_END.finditer(text))[-_MOST_ENDS:] if not _is_quoted(text, match.start())]
    if ends and _START.match(text, ends[-1]):
        ends.append(len(text))
    starts = ([] if is_open else [0]) + ends
    return starts or [len(text)]


def split_at(text: str, start: int) -> tuple[str, str]:
    """The thinking before a place, without its tags, and the answer from there."""
    return ("", text) if not start else (_TAG.sub("", text[:start]).strip(), text[start:].lstrip())


def _is_quoted(text: str, place: int) -> bool:
    """Whether a place is inside quotation marks (which end with their line) or a code fence."""
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
