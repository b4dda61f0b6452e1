"""What is wrong with a text: what rules have found, then what judges say, then critics in their own words.

digest = write_findings(assessment, ["math", "help"], judges={"help"}, hidden=None)
# Checks:
# - math: scored 0; found 5; the reference is [reference]
# Judges:
# - help: scored 4; It is curt.
"""

import re
from collections.abc import Collection, Mapping, Sequence

from rmbatch.correction.history import Assessment

MOST_REASON = 2_000
"""Characters of a reason that are shown: its beginning and its end, for that is where a test says what failed."""
HIDDEN_REFERENCE = "[reference]"
_SAYS_REFERENCE = re.compile(r"(?<=\bthe reference is ).*", re.DOTALL)
_NOT_SAID = ("not_reached", "not_asked")
"""Codes of errors that say nothing about the text."""


def write_findings(
    assessment: Assessment, critics: Sequence[str], *, judges: Collection[str], hidden: str | None
) -> str | None:
    """The scores, reasons and errors of these rewards and their parts, those of rules first. None where there are none.

    ``judges``: which of them, or of their parts, are judges; ``hidden``: a reference that must not be quoted.
    """
    names = [name for name in assessment.scores if any(_is_part(name, critic) for critic in critics)]
    sections: dict[str, list[str]] = {"Checks": [], "Judges": []}
    for name in names:
        if (line := _describe(assessment, name, hidden)) is not None:
            sections["Judges" if name in judges else "Checks"].append(f"- {name}: {line}")
    return join_sections({title: "\n".join(lines) for title, lines in sections.items()})


def join_sections(sections: Mapping[str, str | None]) -> str | None:
    """Sections under their titles, without empty ones; None where all are."""
    said = [f"{title}:\n{text}" for title, text in sections.items() if text]
    return "\n\n".join(said) or None


def hide_reference(text: str, reference: str) -> str:
    """The text without the reference, where that stands as it is or where a reason says what it is."""
    text = _SAYS_REFERENCE.sub(HIDDEN_REFERENCE, text)
    if not reference.strip():
        return text
    return re.sub(rf"(?<![\w.]){re.escape(reference.strip())}(?!\w|\.\d)", HIDDEN_REFERENCE, text)


def _describe(assessment: Assessment, name: str, hidden: str | None) -> str | None:
    score, error = assessment.scores[name], assessment.errors.get(name)
    if score is not None:
        return "; ".join(filter(None, (f"scored {score:g}", _quote(assessment.reasons.get(name), hidden))))
    if error is None or error.partition(":")[0] in _NOT_SAID:
        return None
    return f"no score, {_quote(error, hidden)}"


def _quote(text: str | None, hidden: str | None) -> str | None:
    """What a reward has said, without a reference that must not be quoted, and not too long."""
    if text is None:
        return None
    text = text if hidden is None else hide_reference(text, hidden)
    if len(text) <= MOST_REASON:
        return text
    half = MOST_REASON // 2
    return f"{text[:half]} [...] {text[-half:]}"


def _is_part(name: str, critic: str) -> bool:
    return name == critic or name.startswith(f"{critic}.")
