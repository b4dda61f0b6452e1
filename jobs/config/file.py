"""Reads a job file: replaces values by those of the command line, puts in environment variables, refuses secrets.

``${NAME}`` stands for an environment variable (``$${`` for the text itself) and is put in after the YAML is parsed, so
a value can never become YAML. A job file holds no secrets, not even by reference, because it is kept beside the output.

    data = read_job_file("job.yaml", ["input.path=s3://team/rollouts/", "select.keep=2"], os.environ)
    job = parse_job(data, "job.yaml")
"""

import re
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

from connectors.errors import UserError
from rmbatch.settings.mistakes import show
from rmbatch.settings.yaml_file import MAX_DEPTH, TOO_DEEP, YamlSyntaxError, parse_yaml, read_yaml

_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRET_KEY = re.compile(
    r"(^|_)(secret|password|passwd|credentials|authorization|(api|access|secret|private)_?key"
    r"|(session|access|auth|bearer|hf)_token)$|^token$"  # not stop_token, think_token, max_tokens
)
_USER_IN_URL = re.compile(r"([A-Za-z0-9+.-]+)://([^/\s@]+)@")
_USERS_ARE_NAMED = frozenset(("abfs", "abfss", "wasb", "wasbs", "adl"))  # Azure: container@account
_USERS_ARE_NAMED |= {"ftp", "hdfs", "viewfs", "webhdfs", "sftp", "smb", "ssh"}
"""Where a name before the @ is no secret, as long as no password follows it; elsewhere it is a token."""


def read_job_file(path: str, overrides: Sequence[str], environ: Mapping[str, str]) -> dict[str, Any]:
    """The job file's content with overrides and variables put in; raises UserError for what cannot be read."""
    data = read_yaml(path, "job file")
    if not isinstance(data, dict):
        raise UserError(f"{path}: a job file holds keys and values, such as `job: score`")
    for override in overrides:
        _apply_override(data, override)
    try:
        resolved: dict[str, Any] = _substitute(data, environ, ())
        _refuse_secrets(resolved, ())
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return resolved


def _parse_value(text: str, override: str) -> Any:
    try:
        return parse_yaml(text, repr(override))
    except YamlSyntaxError:
        key = override.partition("=")[0]
        cure = f"put text with such signs in quotes of its own: {key}='\"{text}\"'"
        raise UserError(f"{override!r}: the value is not YAML; {cure}") from None


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key or any(not part for part in key.split(".")):
        raise UserError(f"{override!r} is no override; write key.sub=value, such as select.keep=2")
    *parents, last = key.split(".")
    if len(parents) >= MAX_DEPTH:
        raise UserError(f"{show(override)}: {TOO_DEEP}")
    place: Any = data
    for depth, part in enumerate(parents):
        place = _enter(place, part, ".".join(parents[: depth + 1]))
    value = _parse_value(text, override)
    if isinstance(place, list):
        place[_parse_position(place, last, key)] = value
    else:
        place[last] = value


def _enter(place: Any, part: str, key: str) -> Any:
    at: Any = _parse_position(place, part, key) if isinstance(place, list) else part
    if at == part and place.get(part) is None:
        place[part] = {}
    if not isinstance(place[at], dict | list):
        raise UserError(f"{key} is {show(place[at])}, which holds no keys; override {key} itself")
    place[at] = copy(place[at])  # a YAML anchor may have put the same object elsewhere, too
    return place[at]


def _parse_position(place: list[Any], part: str, key: str) -> int:
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
                raise _secret_error((*path, key))
            _refuse_secrets(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_secrets(item, (*path, str(index)))
    elif isinstance(value, str):
        for protocol, user in _USER_IN_URL.findall(value):
            if ":" in user or protocol.lower() not in _USERS_ARE_NAMED:
                raise _secret_error(path)


def _secret_error(path: Sequence[str]) -> UserError:
    return UserError(
        f"{'.'.join(path)}: secrets do not belong into a job file, which is kept beside the output; "
        "set them in the environment (AWS_ACCESS_KEY_ID, ...; of a model OPENAI_API_KEY, or what api_key_env names) "
        "or name a storage.profile"
    )
