"""jinja2 templates of what a chat model is told. They are data: sandboxed, and a name that is not there is an error.

template = Template("Solve: {{ prompt }}")           # UserError where it cannot be read
template.variables                                   # {"prompt"}
template.render(prompt="2 + 2 = ?")                  # TemplateFailed where it fails with these values
"""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from connectors.errors import UserError

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_LINE_END = "[\r\v\f\x1c-\x1e\x85\u2028\u2029]"


class TemplateFailed(Exception):  # noqa: N818 - as messages call it
    """A template could not be rendered for a row."""


class Template:
    """A template. Null shows as nothing. Pickles as its text."""

    def __init__(self, text: str, parts: Mapping[str, str] | None = None) -> None:
        """``parts``: templates by name that it may import. Raises UserError for a text that is no template."""
        from jinja2 import TemplateSyntaxError, meta, nodes

        self.text, self._parts = text, dict(parts or {})
        try:
            tree = self._environment.parse(text)
        except TemplateSyntaxError as error:
            raise UserError(f"template: line {error.lineno}: {error.message}") from None
        self.variables = set(meta.find_undeclared_variables(tree))
        """The names that it takes from outside."""
        self.imports = any(tree.find_all((nodes.FromImport, nodes.Import, nodes.Include)))
        """Whether it uses one of its parts."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_compiled", "_environment")}

    def render(self, **variables: Any) -> str:
        """Render the text that is sent. Raises TemplateFailed where the template fails with these values."""
        import jinja2

        try:
            text: str = self._compiled.render(variables)
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise TemplateFailed(f"{type(error).__name__}: {error}") from None
        return text.strip()

    @cached_property
    def _compiled(self) -> Any:
        return self._environment.from_string(self.text)

    @cached_property
    def _environment(self) -> Any:
        from jinja2 import DictLoader, StrictUndefined
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        return ImmutableSandboxedEnvironment(
            undefined=StrictUndefined,
            loader=DictLoader(self._parts),
            finalize=lambda value: "" if value is None else value,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
        )


def read_template(template: str) -> str:
    """The text of a template, given as a file (``*.jinja``) or as the text itself; raises UserError."""
    if not template.endswith(".jinja"):
        if "{{" not in template:
            raise UserError(f"template: {template[:80]!r} shows nothing; the name of a file ends in .jinja")
        return template
    try:
        return Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"template: {template} cannot be read: {error}") from None


def format_conversation(messages: Sequence[Mapping[str, str | None]]) -> str:
    """A conversation as text: each message under who said it.

    A line of a message that would look like the beginning of another one gets a backslash before it.
    """
    roles = {str(message["role"]) for message in messages} | set(_ROLES)
    named = "|".join(re.escape(role) for role in sorted(roles))
    header = re.compile(rf"((?:^|{_LINE_END})[ \t\xa0\u3000]*)(?=[\[［【]\s*(?:{named})\s*[\]］】])", re.I | re.M)
    said = (header.sub(r"\1\\", message["content"] or "") for message in messages)
    return "\n\n".join(f"[{message['role']}]\n{text}" for message, text in zip(messages, said))
