"""The principles that a judge goes by, and the files that hold them: read, checked, written.

What a judge is asked, and what becomes of its answer, is not known here; nor is where generated principles come from.

    load_principles("helpfulness")                           # a topic of the library
    load_principles("principles/support.yaml")               # a file, or a URL
    load_principles(["It names a price.", "It is polite."])  # sentences
    write_principles("principles/support.yaml", principles)
    principles.digest                                        # equal where a judge is shown the same
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Self

import yaml
from pydantic import Field, JsonValue, StringConstraints, model_validator

from connectors.errors import UserError
from rmbatch.judges.library import LIBRARY, TOPICS, topic_file
from rmbatch.settings.base import PlainName, Positive, Settings
from rmbatch.settings.mistakes import show, validate
from rmbatch.settings.names import nearest
from rmbatch.settings.yaml_file import parse_yaml, read_yaml

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Label = Annotated[str, StringConstraints(strip_whitespace=True, max_length=80, pattern=r"^[^\r\n]*$")]

_ENDINGS = (".yaml", ".yml")
_ABOUT_A_LIST = "What counts is whether the response follows the principles."


class Principle(Settings):
    """One thing that makes a response good; it holds or is violated."""

    name: Label = ""
    """A few words on one line, by which a judge may refer to it; empty: it has none."""
    text: Text
    """What it demands, in a sentence or two."""
    source: Text | None = None
    """Where the idea comes from. None: from the author of the file."""


class PrincipleSet(Settings):
    """What a judge goes by."""

    topic: PlainName
    """A short name, of letters, digits, _ and -."""
    about: Text
    """What is judged, in whole sentences, one or two, that are put into the judge's prompt."""
    version: Positive = 1
    """Counted up by who changes the file."""
    principles: Annotated[tuple[Principle, ...], Field(min_length=1)]
    """In the order in which a judge sees them; names and texts are all different."""
    provenance: dict[str, JsonValue] = Field(default_factory=dict)
    """How a generated file came to be: model, data, seed, what was measured. No judge sees it."""

    @model_validator(mode="after")
    def _says_nothing_twice(self) -> Self:
        for what in ("name", "text"):
            seen: dict[str, int] = {}
            for place, principle in enumerate(self.principles):
                said = getattr(principle, what)
                first = seen.setdefault(said.casefold(), place)
                if said and first != place:
                    raise ValueError(f"principles.{place}.{what}: the same as principles.{first}'s, {show(said)}")
        return self

    @property
    def digest(self) -> str:
        """Of what a judge is shown: ``about``, names and texts, in order; 16 hexadecimal digits."""
        shown = [self.about, *([each.name, each.text] for each in self.principles)]
        return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]


def load_principles(what: str | Sequence[str] | PrincipleSet) -> PrincipleSet:
    """The principles that are meant: a topic of the library, a .yaml file's path or URL, or sentences as they are.

    Raises UserError naming the file, the key, the value and the cure.
    """
    if isinstance(what, PrincipleSet):
        return what
    if not isinstance(what, str):
        listed = [{"text": text} for text in what]
        return validate(PrincipleSet, {"topic": "listed", "about": _ABOUT_A_LIST, "principles": listed}, where="a list")
    if what.endswith(_ENDINGS):
        return validate(PrincipleSet, read_yaml(what, "principle file"), where=what)
    if what in TOPICS:
        where = f"{what}.yaml"
        return validate(PrincipleSet, parse_yaml(topic_file(what).decode(), where), where=where)
    if what in LIBRARY:
        raise UserError(f"principles: {what!r} is a judge; its principles are {LIBRARY[what].topic!r}")
    raise UserError(
        f"no principles {what!r}; {nearest(what, TOPICS)} "
        "Your own are a file that ends in .yaml, or a list of sentences."
    )


def write_principles(path: str, principles: PrincipleSet) -> None:
    """Write a file, at a path or a URL that ends in .yaml, that ``load_principles`` reads as the same principles.

    What stands there is replaced. Raises UserError where it cannot be written.
    """
    from connectors.storage import StorageOptions, open_url

    if not path.endswith(_ENDINGS):
        raise UserError(f"{path}: principles are kept in a file that ends in .yaml")
    written = principles.model_dump(mode="json", exclude_defaults=True)
    text = yaml.dump(written, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=116)
    store, place = open_url(path, StorageOptions())
    try:
        store.write(place, text.encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


class _Dumper(yaml.SafeDumper):
    """Safe YAML that escapes what no one sees; PyYAML loses U+0085 and U+2028 when it writes them as they are."""


def _text_node(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None if text.replace("\n", "").isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text_node)
