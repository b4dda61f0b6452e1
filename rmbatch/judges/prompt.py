"""What a judge is asked: a jinja2 template, its variables checked before any row, rendered row by row.

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
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from connectors.errors import UserError

COMMON = ("prompt", "messages", "reference", "about", "principles", "answer_format", "mark", "low", "high")
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")

_LINE_END = "[\r\v\f\x1c-\x1e\x85\u2028\u2029]"


class TemplateFailed(Exception):  # noqa: N818 - as messages call it
    """A template could not be rendered for a row."""


class Prompt:
    """A template of one kind of judge. Pickles as its text."""

    def __init__(self, kind: str, text: str, shows: Sequence[Sequence[str]], *, compares: bool) -> None:
        """Raises UserError for a template that cannot be read, or does not show what is judged.

        ``shows``: names of what is judged, of each group at least one; ``compares``: whether that is several responses.
        """
        self.text = text
        used = self._variables()
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

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_template"}

    def render(self, **variables: Any) -> str:
        """The text that is sent. Raises TemplateFailed for what goes wrong with these values."""
        import jinja2

        try:
            text: str = self._template.render(variables)
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise TemplateFailed(f"{type(error).__name__}: {error}") from None
        return text.strip()

    @cached_property
    def _template(self) -> Any:
        return _make_environment().from_string(self.text)

    def _variables(self) -> set[str]:
        """The names that it takes from outside, those of its macros among them."""
        from jinja2 import TemplateSyntaxError, meta, nodes

        try:
            tree = _make_environment().parse(self.text)
        except TemplateSyntaxError as error:
            raise UserError(f"template: line {error.lineno}: {error.message}") from None
        used = set(meta.find_undeclared_variables(tree))
        if any(tree.find_all((nodes.FromImport, nodes.Import, nodes.Include))):
            used |= {"prompt", "about", "principles", "mark"}
        return used


def format_conversation(messages: Sequence[Mapping[str, str | None]]) -> str:
    """A conversation as text: each message under who said it.

    A line of a message that would look like the beginning of another one gets a backslash before it.
    """
    roles = {str(message["role"]) for message in messages} | set(_ROLES)
    named = "|".join(re.escape(role) for role in sorted(roles))
    header = re.compile(rf"((?:^|{_LINE_END})[ \t\xa0\u3000]*)(?=[\[［【]\s*(?:{named})\s*[\]］】])", re.I | re.M)
    said = (header.sub(r"\1\\", message["content"] or "") for message in messages)
    return "\n\n".join(f"[{message['role']}]\n{text}" for message, text in zip(messages, said))


def make_mark(prompt: str, texts: Sequence[str]) -> str:
    """Eight letters that follow from a prompt and stand in none of the texts, so that none of them can close a tag."""
    for number in itertools.count():
        said = f"{number} {prompt}".encode(errors="replace")
        mark = hashlib.blake2b(said, digest_size=4, person=b"rmbatch-mark").hexdigest()
        if not any(mark in text for text in texts):
            return mark
    raise AssertionError("unreachable")


def read_template(template: str) -> str:
    """The text of a template that is a file (``*.jinja``) or the text itself; raises UserError."""
    if not template.endswith(".jinja"):
        if "{{" not in template:
            raise UserError(f"template: {template[:80]!r} shows nothing; the name of a file ends in .jinja")
        return template
    try:
        return Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"template: {template} cannot be read: {error}") from None


def read_packaged(name: str) -> str:
    """The text of a template that comes with the package."""
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _make_environment() -> Any:
    """Templates are data: sandboxed, and a name that is not there is an error."""
    from jinja2 import DictLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    loader = DictLoader({"parts.jinja": read_packaged("parts.jinja")})
    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        loader=loader,
        finalize=lambda value: "" if value is None else value,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
