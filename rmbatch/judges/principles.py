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
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, JsonValue, StringConstraints, ValidationError, model_validator

from connectors.errors import UserError
from rmbatch.judges.library import LIBRARY, TOPICS, topic_file
from rmbatch.settings.base import PlainName, Positive, Settings
from rmbatch.settings.names import nearest

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Label = Annotated[str, StringConstraints(strip_whitespace=True, max_length=80, pattern=r"^[^\r\n]*$")]

_ENDINGS = (".yaml", ".yml")
_OF_A_LIST = "What counts is whether the response follows the principles."
_CURES = {
    "model_type": "write keys and values: text, name, source",
    "string_too_short": "write some text",
    "string_type": "write text, in quotes",
    "too_short": "write at least one",
    "tuple_type": "write a list",
}
"""What to write instead, by pydantic's type of error."""
_MAX_TOLD = 3
"""Mistakes that are told at a time."""
_MAX_SHOWN = 80
"""Characters of a wrong value that are shown."""


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
                    raise ValueError(f"principles.{place}.{what}: the same as principles.{first}'s, {_shown(said)}")
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
        return _checked({"topic": "listed", "about": _OF_A_LIST, "principles": listed}, "a list")
    if what.endswith(_ENDINGS):
        return _checked(_parsed(_read(what), what), what)
    if what in TOPICS:
        return _checked(_parsed(topic_file(what), f"{what}.yaml"), f"{what}.yaml")
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
    told = principles.model_dump(mode="json", exclude_defaults=True)
    text = yaml.dump(told, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=116)
    store, place = open_url(path, StorageOptions())
    try:
        store.write(place, text.encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


def _read(path: str) -> bytes:
    from connectors.storage import StorageOptions, open_url

    store, place = open_url(path, StorageOptions())
    try:
        return store.read(place)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"no file {path}; `principles` is a topic, a .yaml file's path, or a list") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


class _Loader(yaml.SafeLoader):
    """YAML without keys that occur twice, of which it would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} occurs twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Safe YAML that escapes what no one sees; PyYAML loses U+0085 and U+2028 when it writes them as they are."""


def _text_node(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None if text.replace("\n", "").isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text_node)


def _parsed(content: bytes, where: str) -> Any:
    try:
        return yaml.load(content.decode("utf-8-sig"), _Loader)
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark, str(error.problem)
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        hint = "; text with `: ` in it needs quotes" if "mapping values" in problem else ""
        raise UserError(f"{place}: cannot be read: {problem}{hint}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of a date that is none, 2026-13-01
        raise UserError(f"{where}: cannot be read: {error}") from None


def _checked(data: Any, where: str) -> PrincipleSet:
    if not isinstance(data, dict):
        raise UserError(f"{where}: got {_shown(data)}; write keys and values: {', '.join(PrincipleSet.model_fields)}")
    try:
        return PrincipleSet.model_validate(data)
    except ValidationError as invalid:
        told = [_told(error) for error in _causes([dict(error) for error in invalid.errors()])]
        raise UserError(f"{where}: {'; '.join(told[:_MAX_TOLD])}") from None


def _causes(errors: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Without what follows from another: a list is too short of which an entry is wrong, a misspelt key is missing."""
    outer = {error["loc"][:depth] for error in errors for depth in range(len(error["loc"]))}
    misspelt = {error["loc"][:-1] for error in errors if error["type"] == "extra_forbidden"}
    return [
        error
        for error in errors
        if error["loc"] not in outer and not (error["type"] == "missing" and error["loc"][:-1] in misspelt)
    ]


def _told(error: Mapping[str, Any]) -> str:
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        owner = PrincipleSet if len(error["loc"]) == 1 else Principle
        return f"{key}: unknown key; {nearest(str(error['loc'][-1]), owner.model_fields)}"
    if error["type"] == "missing":
        return f"{key}: missing"
    if error["type"] == "value_error":
        return str(error["msg"]).removeprefix("Value error, ")
    cure = _CURES.get(error["type"]) or f"{error['msg'][0].lower()}{error['msg'][1:]}"
    return f"{key}: got {_shown(error['input'])}; {cure}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
