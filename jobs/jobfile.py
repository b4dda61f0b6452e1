"""Reads a job file: YAML that is data, environment variables by name, values replaced on the command line.

``${NAME}`` stands for an environment variable (``$${`` for the text itself) and is put in after the YAML is parsed, so a
value can never become YAML. Secrets do not belong into a job file, not even by reference: the job is written beside the
output. A mistake is one line: the file, the key, the value, what to write instead.

    data = read_job_file("job.yaml", ["input.path=s3://team/rollouts/", "select.keep=2"], os.environ)
    job = validate(ScoreJob, data, where="job.yaml")
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

import fsspec
import yaml
from pydantic import BaseModel, ValidationError

from connectors.errors import UserError
from rmbatch.names import nearest

M = TypeVar("M", bound=BaseModel)

_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRET = re.compile(
    r"(^|_)(secret|password|api_key|access_key|secret_key|session_token|access_token|auth_token)$|^token$"
)
MAX_TOLD = 3
"""Mistakes that are told at a time."""


class _Loader(yaml.SafeLoader):
    """YAML without repeated keys, and without keys that YAML 1.1 makes something else of (on, yes, 1)."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise UserError(f"line {line}: the key {key_node.value!r} reads as {key!r} in YAML; put it in quotes")
        if key in found:
            raise UserError(f"line {line}: the key {key!r} occurs twice; keep one")
        found[key] = loader.construct_object(value_node, deep=True)
    return found


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_job_file(path: str, overrides: Sequence[str], environ: Mapping[str, str]) -> dict[str, Any]:
    """The job file's content with overrides and variables put in; raises UserError for what cannot be read."""
    try:
        with fsspec.open(path, "rt", encoding="utf-8") as file:
            text = file.read()
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"no job file {path}") from None
    data = _parse(text, path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: a job file holds keys and values, such as `job: score`")
    for override in overrides:
        _override(data, override)
    _refuse_secrets(data, path, ())
    resolved: dict[str, Any] = _substitute(data, environ, ())
    return resolved


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise UserError(f"{place}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not YAML: {str(error).splitlines()[0]}") from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key or any(not part for part in key.split(".")):
        raise UserError(f"{override!r} is no override; write key.sub=value, such as select.keep=2")
    *parents, last = key.split(".")
    place: Any = data
    for depth, part in enumerate(parents):
        place = _enter(place, part, ".".join(parents[: depth + 1]))
    value = _parse(text, override)
    if isinstance(place, list):
        place[_position(place, last, key)] = value
    else:
        place[last] = value


def _enter(place: Any, part: str, key: str) -> Any:
    if isinstance(place, list):
        return place[_position(place, part, key)]
    if place.get(part) is None:
        place[part] = {}
    if not isinstance(place[part], dict | list):
        raise UserError(f"{key} is {place[part]!r}, which holds no keys; override {key} itself")
    return place[part]


def _position(place: list[Any], part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(place):
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


def _refuse_secrets(value: Any, where: str, path: tuple[str, ...]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if _SECRET.search(key.lower()) and isinstance(item, str) and item:
                raise UserError(
                    f"{where}: {'.'.join((*path, key))}: secrets do not belong into a job file, which is kept beside the "
                    "output; set them in the environment (AWS_ACCESS_KEY_ID, ...) or name a storage.profile"
                )
            _refuse_secrets(item, where, (*path, key))
    if isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_secrets(item, where, (*path, str(index)))


def validate(model: type[M], data: Mapping[str, Any], *, where: str) -> M:
    """The model with this content; raises UserError with the first mistakes, each naming key, value and cure."""
    try:
        return model.model_validate(data)
    except ValidationError as invalid:
        told = [_told(model, dict(error)) for error in invalid.errors()[:MAX_TOLD]]
        raise UserError("; ".join(f"{where}: {line}" for line in told)) from None


def _told(model: type[BaseModel], error: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in error["loc"]) or "the job"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        owner = _model_at(model, error["loc"][:-1])
        known = list(owner.model_fields) if owner else []
        return f"{key}: unknown key; {nearest(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return f"{key}: missing; it has no default"
    if error["type"] == "value_error":
        return f"{key}: {message}"
    return f"{key}: got {error['input']!r}; {message[0].lower()}{message[1:]}"


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
