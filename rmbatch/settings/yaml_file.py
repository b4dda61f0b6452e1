"""Reads YAML that people write: job files and principle files, as plain data, with one line about each mistake.

    read_yaml("s3://team/job.yaml", "job file")             # the content; raises UserError, naming line and column
    parse_yaml("a: {b: 1}", "job.yaml")                     # {"a": {"b": 1}}

Stricter than YAML: a key that occurs twice is refused, and so are ``<<``, keys that are not text, and files without
measure. Keys are read as YAML 1.2 has them, so ``on`` and ``yes`` are text. Values keep the meaning of YAML 1.1: read
as 1.2, ``flag: no`` would turn from false into text, which a reward's knob takes for true.
"""

from typing import Any

import yaml

from connectors.errors import UserError
from rmbatch.settings.mistakes import show

MAX_BYTES = 4 << 20
MAX_DEPTH = 64
MAX_VALUES = 100_000
"""A file has no more bytes, no deeper nesting and, with its anchors written out, no more keys and values."""
TOO_DEEP = f"nested more than {MAX_DEPTH} deep; is it the data?"


class YamlSyntaxError(UserError):
    """A text that is not YAML."""


def read_yaml(path: str, what: str) -> Any:
    """The content of a file at a path or URL, which is a ``what`` ("job file"); raises UserError."""
    from connectors.storage import StorageOptions, open_url

    store, place = open_url(path, StorageOptions())
    try:
        found = store.stat(place)
        if found is not None and found[1] > MAX_BYTES:
            raise UserError(f"{path}: {found[1]:,} bytes; a {what} has at most {MAX_BYTES:,}. Is it the data?")
        text = store.read(place).decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"no {what} {path}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; is it a {what}?") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    return parse_yaml(text, path)


def parse_yaml(text: str, where: str) -> Any:
    """The data that a text is. Raises UserError that begins with ``where``; YamlSyntaxError for what is not YAML."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        line = "".join(text.splitlines()[mark.line : mark.line + 1]) if mark else ""
        raise YamlSyntaxError(f"{place}: not YAML: {error.problem}{_hint(str(error.problem), line)}") from None
    except yaml.YAMLError as error:
        raise YamlSyntaxError(f"{where}: not YAML: {str(error).splitlines()[0]}") from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except (ValueError, OverflowError) as error:  # what looks like a date and is none
        raise YamlSyntaxError(f"{where}: a value is not YAML: {error}; put text in quotes") from None


def _hint(problem: str, line: str) -> str:
    if "mapping values" in problem:
        return "; text with `: ` in it needs quotes"
    return "; between { } or [ ], put ${NAME} in quotes" if "${" in line else ""


class _Loader(yaml.SafeLoader):
    """YAML of some size, whose keys are all different text."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise UserError(f"line {line}: {TOO_DEEP}")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _count_values(node, {}) > MAX_VALUES:
            raise UserError(f"its anchors come to more than {MAX_VALUES:,} values; write out what is meant")
        return node


def _count_values(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """Keys and values of a node with its aliases written out; one inside itself counts once, and is refused later."""
    if node not in known:
        known[node] = 1
        inner = [each for pair in node.value for each in pair] if isinstance(node, yaml.MappingNode) else node.value
        if isinstance(node, yaml.CollectionNode):
            known[node] += sum(_count_values(each, known) for each in inner)
    return known[node]


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        try:
            key = _construct_key(loader, key_node)
            if key in found:
                raise UserError(f"the key {key!r} occurs twice; keep one")
        except UserError as error:
            raise UserError(f"line {key_node.start_mark.line + 1}: {error}") from None
        found[key] = loader.construct_object(value_node, deep=True)
    return found


def _construct_key(loader: _Loader, node: yaml.Node) -> str:
    if node.tag == "tag:yaml.org,2002:merge":
        raise UserError("<< is not read; write the keys out")
    if node.tag == "tag:yaml.org,2002:bool" and node.value.lower() not in ("true", "false"):
        return str(node.value)  # on, off, yes, no
    key = loader.construct_object(node, deep=True)
    if not isinstance(node, yaml.ScalarNode):
        raise UserError(f"{show(key)} cannot be a key; a key is text")
    if not isinstance(key, str):
        raise UserError(f"the key {node.value!r} reads as {show(key)} in YAML; put it in quotes")
    return key


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
