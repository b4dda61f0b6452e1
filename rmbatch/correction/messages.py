"""What editors and critics are told: a jinja2 template, filled in for a row, as the messages of a chat.

    told = Instructions("edit.jinja", None, needs=("response",))
    told.columns                                  # what else of the rows it shows, by role or name
    told.write(row, system=None, critique="- math: scored 0", show_reference=False)

Variables of every template: ``prompt`` (the conversation as text), ``messages`` (as a list of role and content),
``response`` (the best text so far), ``score``, ``critique`` (what was found about it), ``failed`` (what was tried since
and was no better: a list of ``text``, ``decision`` and ``score``), ``reference`` (none unless it may be shown) and
``mark`` (letters that stand in no text, for tags). Any other name is a column of the rows. Null shows as nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xxhash

from connectors.errors import JobError, UserError
from rmbatch.chat.templates import Template, TemplateFailed, read_template
from rmbatch.correction.critique import hide_reference
from rmbatch.correction.history import Attempt, Row
from rmbatch.judges.prompt import make_mark

VARIABLES = ("prompt", "messages", "response", "score", "critique", "failed", "reference", "mark")
MOST_FAILED = 3
"""Failed tries that are shown, the latest."""
MOST_FAILED_TEXT = 400
"""Characters of a failed try that are shown."""

Messages = list[dict[str, Any]]


class Instructions:
    """A template of what an editor or a critic is told. Pickles as its text."""

    def __init__(self, own: str, template: str | None, *, needs: Sequence[str], where: str) -> None:
        """``own``: the name of our own template; ``needs``: variables that must be shown, of them one.

        Raises UserError, beginning with ``where``, for a template that cannot be used.
        """
        self._where = where
        try:
            text = _read_packaged(own) if template is None else read_template(template)
            self._template = Template(text)
        except UserError as error:
            raise UserError(f"{where}.{error}") from None
        used = self._template.variables
        if used.isdisjoint(needs):
            raise UserError(f"{where}.template: it never shows {{{{ {needs[0]} }}}}")
        self.columns = tuple(sorted(used - {*VARIABLES}))
        """Columns of the rows that it shows, by role or name."""

    def write(self, row: Row, *, system: str | None, critique: str | None, show_reference: bool) -> Messages:
        """The messages for a row. Raises JobError where the template fails with its values."""
        prompt = row.prompt
        reference, hidden = (row.reference, None) if show_reference else (None, row.reference)
        failed = [_shorten(each, hidden) for each in row.failed_tries()[-MOST_FAILED:]]
        texts = [row.best.text, critique, reference, *(each["text"] for each in failed)]
        try:
            text = self._template.render(
                **{
                    **{name: row.columns.get(name) for name in self.columns},
                    "prompt": prompt,
                    "messages": row.messages,
                    "response": row.best.text,
                    "score": row.best.score,
                    "critique": critique,
                    "failed": failed,
                    "reference": reference,
                    "mark": make_mark(prompt, [each for each in texts if each is not None]),
                }
            )
        except TemplateFailed as error:
            raise JobError(f"{self._where}.template: it fails for the prompt {prompt[:80]!r}: {error}") from None
        told = [] if system is None else [{"role": "system", "content": system}]
        return [*told, {"role": "user", "content": text}]


def make_seed(seed: int, row: Row, who: str, round_number: int, number: int) -> int:
    """The seed of a request: a hash of the row's texts and of what it is for, so that a resumed job asks the same."""
    texts = [row.prompt, "" if row.first.text is None else f"={row.first.text}"]
    address = "\0".join([str(seed), who, str(round_number), str(number), *texts])
    return xxhash.xxh3_64_intdigest(address.encode(errors="replace")) & 0x7FFF_FFFF


def _shorten(attempt: Attempt, hidden: str | None) -> dict[str, Any]:
    text, decision = attempt.text or "", attempt.decision
    return {
        "text": text if len(text) <= MOST_FAILED_TEXT else f"{text[:MOST_FAILED_TEXT]} [...]",
        "decision": hide_reference(decision, hidden) if hidden and attempt.code == "no_score" else decision,
        "score": attempt.score,
    }


def _read_packaged(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
