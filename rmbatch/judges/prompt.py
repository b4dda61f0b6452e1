"""The prompt of a judge: a jinja2 template. Its variables are checked before any row; each row is rendered.

    prompt = Prompt("pointwise", read_template("mine.jinja"), [("response",)], compares=False)
    prompt.columns                                       # what else it reads of the rows: ()
    prompt.render(prompt=…, response="4", …)

Variables of every template: ``prompt`` (the conversation as text), ``messages`` (as a list of role and content),
``reference`` (text or none), ``about`` and ``principles`` (of the principle set: a list of name and text),
``answer_format`` (how the verdict is to be written), ``mark`` (letters that stand in no response, for tags), ``low``
and ``high`` (of the scale). What is judged, each kind names itself (``JudgeKind.shows``). Any other name is a column of
the rows. Null shows as nothing.
"""

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from connectors.errors import UserError
from rmbatch.chat.templates import Template

COMMON = ("prompt", "messages", "reference", "about", "principles", "answer_format", "mark", "low", "high")


class Prompt:
    """A template of one kind of judge. Pickles as its text."""

    def __init__(self, kind: str, text: str, shows: Sequence[Sequence[str]], *, compares: bool) -> None:
        """Raises UserError for a template that cannot be read, or does not show what is judged.

        ``shows``: names of what is judged, of each group at least one; ``compares``: whether that is several responses.
        """
        self.text = text
        self._template = Template(text, {"parts.jinja": read_packaged("parts.jinja")})
        used = self._template.variables
        if self._template.imports:
            used |= {"prompt", "about", "principles", "mark"}
        for group in shows:
            if used.isdisjoint(group):
                raise UserError(f"template: it never shows {{{{ {group[0]} }}}}, which a {kind} judge judges")
        if "answer_format" not in used:
            raise UserError("template: it never shows {{ answer_format }}, so no verdict of it could be read")
        judged = [name for group in shows for name in group]
        self.columns = tuple(sorted(used - {*COMMON, *judged}))
        """Columns of the rows that it shows, by role or name."""
        if compares and (wrong := [n for n in self.columns if n.startswith("response")]):
            raise UserError(
                f"template: {{{{ {wrong[0]} }}}} belongs to one response, and a {kind} judge sees several: "
                f"{', '.join(judged)}"
            )
        self.shows_reference = "reference" in used

    def render(self, **variables: Any) -> str:
        """Render the text that is sent. Raises TemplateFailed where the template fails with these values."""
        return self._template.render(**variables)


def make_mark(prompt: str, texts: Sequence[str]) -> str:
    """Eight letters, derived from the prompt, that occur in none of the texts, so that no text can close a tag."""
    for number in itertools.count():
        said = f"{number} {prompt}".encode(errors="replace")
        mark = hashlib.blake2b(said, digest_size=4, person=b"rmbatch-mark").hexdigest()
        if not any(mark in text for text in texts):
            return mark
    raise AssertionError("unreachable")


def read_packaged(name: str) -> str:
    """The text of a template that comes with the package."""
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
