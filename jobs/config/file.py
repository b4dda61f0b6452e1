"""Reads a job file: YAML that is data, environment variables by name, values replaced on the command line.

``${NAME}`` stands for an environment variable (``$${`` for the text itself) and is put in after the YAML is parsed, so
a value can never become YAML. Secrets do not belong into a job file, not even by reference: the job is written beside
the output. A mistake is one line: the file, the key, the value, what to write instead.

    data = read_job_file("job.yaml", ["input.path=s3://team/rollouts/", "select.keep=2"], os.environ)
    job = validate(ScoreJob, data, where="job.yaml")
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from connectors.errors import UserError
from connectors.storage import StorageOptions, open_url
from rmbatch.settings.names import nearest

M = TypeVar("M", bound=BaseModel)

_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRET_KEY = re.compile(
    r"(^|_)(secret|password|passwd|credentials|authorization|(api|access|secret|private)_?key"
    r"|(session|access|auth|bearer|hf)_token)$|^token$"  # not stop_token, think_token, max_tokens
)
_USER_IN_URL = re.compile(r"([A-Za-z0-9+.-]+)://([^/\s@]+)@")
_USERS_ARE_NAMED = frozenset(("abfs", "abfss", "wasb", "wasbs", "adl"))  # Azure: container@account
_USERS_ARE_NAMED |= {"ftp", "hdfs", "viewfs", "webhdfs", "sftp", "smb", "ssh"}
"""Where a name before the @ is no secret, as long as no password follows it; elsewhere it is a token."""
MAX_TOLD = 3
"""Mistakes that are told at a time."""
MAX_SHOWN = 80
"""Characters of a wrong value that are shown."""
MAX_BYTES = 4 << 20
MAX_DEPTH = 64
MAX_VALUES = 100_000
"""A job file has no more bytes, no deeper nesting and, with its anchors written out, no more keys and values."""

_CURES = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "keys and values",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than_equal": "{ge} or more",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "list_type": "a list",
    "literal_error": "{expected}",
    "string_too_short": "some text",
    "string_type": "text in quotes",
    "too_long": "at most {max_length} of them",
    "too_short": "at least {min_length} of them",
    "tuple_type": "a list",
}
"""What to write instead, by pydantic's type of error."""


class _Loader(yaml.SafeLoader):
    """YAML without repeated keys, without keys that YAML 1.1 makes something else of (on, yes, 1), and of some size."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise UserError(f"line {line}: nested more than {MAX_DEPTH} deep; no job is")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _num_values(node, {}) > MAX_VALUES:
            raise UserError(f"its anchors come to more than {MAX_VALUES:,} values; write out what is meant")
        return node


def _num_values(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """Keys and values of a node with its aliases written out; one inside itself counts once, and is refused later."""
    if node not in known:
        known[node] = 1
        inner = [each for pair in node.value for each in pair] if isinstance(node, yaml.MappingNode) else node.value
        if isinstance(node, yaml.CollectionNode):
            known[node] += sum(_num_values(each, known) for each in inner)
    return known[node]


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            raise UserError(f"line {key_node.start_mark.line + 1}: << is not read; write the keys out")
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"line {line}: {shown(key)} cannot be a key; a key is text")
        if not isinstance(key, str):
            raise UserError(f"line {line}: the key {key_node.value!r} reads as {shown(key)} in YAML; put it in quotes")
        if key in found:
            raise UserError(f"line {line}: the key {key!r} occurs twice; keep one")
        found[key] = loader.construct_object(value_node, deep=True)
    return found


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_job_file(path: str, overrides: Sequence[str], environ: Mapping[str, str]) -> dict[str, Any]:
    """The job file's content with overrides and variables put in; raises UserError for what cannot be read."""
    data = _parse(_read(path), path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: a job file holds keys and values, such as `job: score`")
    for override in overrides:
        _override(data, override)
    try:
        resolved: dict[str, Any] = _substitute(data, environ, ())
        _refuse_secrets(resolved, ())
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return resolved


def _read(path: str) -> str:
    store, place = open_url(path, StorageOptions())
    try:
        found = store.stat(place)
        if found is not None and found[1] > MAX_BYTES:
            raise UserError(f"{path}: {found[1]:,} bytes; a job file has at most {MAX_BYTES:,}. Is it the data?")
        return store.read(place).decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"no job file {path}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; is it a job file?") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        braces = mark and "${" in "".join(text.splitlines()[mark.line : mark.line + 1])
        hint = "; between { } or [ ], put ${NAME} in quotes" if braces else ""
        raise UserError(f"{place}: not YAML: {error.problem}{hint}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not YAML: {str(error).splitlines()[0]}") from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except (ValueError, OverflowError) as error:  # what looks like a date and is none
        raise UserError(f"{where}: a value is not YAML: {error}; put text in quotes") from None


def _parse_value(text: str, override: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, OverflowError):
        key = override.partition("=")[0]
        cure = f"put text with such signs in quotes of its own: {key}='\"{text}\"'"
        raise UserError(f"{override!r}: the value is not YAML; {cure}") from None
    except UserError as error:
        raise UserError(f"{override!r}: {error}") from None


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key or any(not part for part in key.split(".")):
        raise UserError(f"{override!r} is no override; write key.sub=value, such as select.keep=2")
    *parents, last = key.split(".")
    if len(parents) >= MAX_DEPTH:
        raise UserError(f"{shown(override)}: nested more than {MAX_DEPTH} deep; no job is")
    place: Any = data
    for depth, part in enumerate(parents):
        place = _enter(place, part, ".".join(parents[: depth + 1]))
    value = _parse_value(text, override)
    if isinstance(place, list):
        place[_position(place, last, key)] = value
    else:
        place[last] = value


def _enter(place: Any, part: str, key: str) -> Any:
    at: Any = _position(place, part, key) if isinstance(place, list) else part
    if at == part and place.get(part) is None:
        place[part] = {}
    if not isinstance(place[at], dict | list):
        raise UserError(f"{key} is {shown(place[at])}, which holds no keys; override {key} itself")
    place[at] = copy(place[at])  # a YAML anchor may have put the same object elsewhere, too
    return place[at]


def _position(place: list[Any], part: str, key: str) -> int:
    if not part.isdecimal() or int(part) >= len(place):
        raise UserError(f"{key}: {part!r} is no position in a list of {len(place)}; positions begin at 0")
    return int(part)


def _substitute(value: Any, environ: Mapping[str, str], path: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _substitute(item, environ, (*path, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, environ, (*path, str(index))) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        name = match.group(1)
        if name is None:
            return "${"
        if name not in environ:
            raise UserError(f"{'.'.join(path)}: the environment variable {name} is not set")
        return environ[name]

    return _VARIABLE.sub(variable, value)


def _refuse_secrets(value: Any, path: tuple[str, ...]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            named = _SECRET_KEY.search(key.lower().replace("-", "_"))
            if named and item and isinstance(item, str | int | list) and item is not True:
                raise _secret((*path, key))
            _refuse_secrets(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_secrets(item, (*path, str(index)))
    elif isinstance(value, str):
        for protocol, user in _USER_IN_URL.findall(value):
            if ":" in user or protocol.lower() not in _USERS_ARE_NAMED:
                raise _secret(path)


def _secret(path: Sequence[str]) -> UserError:
    return UserError(
        f"{'.'.join(path)}: secrets do not belong into a job file, which is kept beside the output; "
        "set them in the environment (AWS_ACCESS_KEY_ID, ...) or name a storage.profile"
    )


def validate(model: type[M], data: Mapping[str, Any], *, where: str) -> M:
    """The model with this content; raises UserError with the first mistakes, each naming key, value and cure."""
    try:
        return model.model_validate(data)
    except ValidationError as invalid:
        told = _mistakes(model, data, [dict(error) for error in invalid.errors()])
        raise UserError("; ".join(f"{where}: {line}" for line in told[:MAX_TOLD])) from None


def _mistakes(model: type[BaseModel], data: Mapping[str, Any], errors: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each key: what a union's members say of one value together, no key missing that is only misspelt."""
    misspelt = {error["loc"][:-1] for error in errors if error["type"] == "extra_forbidden"}
    by_key: dict[str, list[dict[str, Any]]] = {}
    for error in errors:
        if error["type"] != "missing" or error["loc"][:-1] not in misspelt:
            by_key.setdefault(_key(data, error), []).append(error)
    nested = [key for key in by_key if not any(other.startswith(f"{key}.") for other in by_key)]
    return [_told(model, key, by_key[key]) for key in nested]


def _key(data: Any, error: Mapping[str, Any]) -> str:
    """Where the mistake stands in the job file; pydantic's own path also holds a union's members and what it made."""
    path = []
    for part in error["loc"]:
        known = data if isinstance(data, Mapping) else range(len(data)) if isinstance(data, list) else ()
        if part in known:
            data = data[part]
            path.append(str(part))
    return ".".join([*path, str(error["loc"][-1])] if error["type"] == "missing" else path)


def _told(model: type[BaseModel], key: str, alternatives: Sequence[dict[str, Any]]) -> str:
    error = alternatives[0]
    if error["type"] == "extra_forbidden":
        owner = _model_at(model, error["loc"][:-1])
        known = list(owner.model_fields) if owner else []
        return f"{key}: unknown key; {nearest(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return f"{key}: missing; it has no default"
    if error["type"] == "value_error":
        message = error["msg"].removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    cures = dict.fromkeys(_cure(model, each) for each in alternatives)
    return f"{key}: got {shown(error['input'])}; write {' or '.join(cures)}"


def _cure(model: type[BaseModel], error: Mapping[str, Any]) -> str:
    if error["type"] in ("model_type", "model_attributes_type"):
        owner = _model_at(model, error["loc"])
        return f"keys and values: {', '.join(owner.model_fields)}" if owner else "keys and values"
    if error["type"] not in _CURES:
        return f"something else: {error['msg'][0].lower()}{error['msg'][1:]}"
    return _CURES[error["type"]].format(**error.get("ctx", {}))


def shown(value: Any) -> str:
    """A value as a job file writes it, on one line and not too long."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def _model_at(model: type[BaseModel], path: Sequence[str | int]) -> type[BaseModel] | None:
    """The model at a place of a nested model, through optional fields and mappings of models."""
    current: type[BaseModel] | None = model
    kinds: list[Any] = [model]
    for part in path:
        current = next(_models(kinds), None)
        field = current.model_fields.get(str(part)) if current else None
        kinds = [field.annotation] if field else [kind for kind in kinds if not isinstance(kind, type)]
    return next(_models(kinds), None)


def _models(kinds: Sequence[Any]) -> Iterator[type[BaseModel]]:
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind
        else:
            yield from _models(get_args(kind))
