"""Tells what is wrong with settings that somebody wrote: the key, the value, what to write instead.

    validate(ScoreJob, data, where="job.yaml")
    # UserError: job.yaml: select.keep: got 0; write 1 or more

Every model of settings, in job files and in Python, is checked here, so one mistake reads the same everywhere.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, RootModel, ValidationError

from connectors.errors import UserError
from rmbatch.settings.names import nearest

M = TypeVar("M", bound=BaseModel)

MAX_MISTAKES = 3
"""Mistakes that are told at a time."""
MAX_SHOWN = 80
"""Characters of a wrong value that are shown."""
_CURES = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "keys and values",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
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


def validate(
    model: type[M], data: Any, *, where: str, noun: str = "key", context: Mapping[str, Any] | None = None
) -> M:
    """The model with this content; raises UserError with the first mistakes, each naming key, value and cure.

    ``noun``: what the model's fields are for the user. ``context``: what validators may look up.
    """
    try:
        return model.model_validate(data, context=context)
    except ValidationError as invalid:
        lines = _list_mistakes(model, data, [dict(error) for error in invalid.errors()], noun)
        raise UserError("; ".join(f"{where}: {line}" for line in lines[:MAX_MISTAKES])) from None


def show(value: Any) -> str:
    """A value as a job file writes it, on one line and not too long."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def _list_mistakes(model: type[BaseModel], data: Any, errors: Sequence[dict[str, Any]], noun: str) -> list[str]:
    """A line for each key. A union's members share a line; a key that is only misspelt is not also missing."""
    errors = [error for error in errors if error["type"] != "too_short" or not _has_mistake_inside(error, errors)]
    misspelt = {error["loc"][:-1] for error in errors if error["type"] == "extra_forbidden"}
    by_key: dict[str, list[dict[str, Any]]] = {}
    for error in errors:
        if error["type"] != "missing" or error["loc"][:-1] not in misspelt:
            by_key.setdefault(_find_key(data, error), []).append(error)
    innermost = [key for key in by_key if not any(other.startswith(f"{key}.") for other in by_key)]
    return [_describe(model, data, key, by_key[key], noun) for key in innermost]


def _has_mistake_inside(error: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an item of the value has a mistake of its own: pydantic leaves it out, and then finds too few."""
    place = error["loc"]
    return any(other["loc"][: len(place)] == place and other["loc"] != place for other in errors)


def _find_key(data: Any, error: Mapping[str, Any]) -> str:
    """The key in the data. Pydantic's own path also names members of unions and values that validators made.

    Of a short form (``serve: NAME, gpus: 1`` for ``serve: {model: NAME, gpus: 1}``) it is the key beside it.
    """
    path: list[str] = []
    beside: Any = ()
    for part in error["loc"]:
        known = data if isinstance(data, Mapping) else range(len(data)) if isinstance(data, list) else ()
        if part in known:
            beside, data = data, data[part]
            path.append(str(part))
        elif path and isinstance(beside, Mapping) and isinstance(data, str) and part in beside:
            data, path[-1] = beside[part], str(part)
    return ".".join([*path, str(error["loc"][-1])] if error["type"] == "missing" else path)


def _describe(model: type[BaseModel], data: Any, key: str, alternatives: Sequence[dict[str, Any]], noun: str) -> str:
    error = alternatives[0]
    if error["type"] == "extra_forbidden":
        owner = _find_model(model, data, error["loc"][:-1])
        known = _list_keys(owner) if owner else []
        return f"{key}: unknown {noun}; {nearest(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return f"{key}: missing; it has no default"
    if error["type"] == "value_error":
        message = error["msg"].removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    cures = dict.fromkeys(_find_cure(model, data, each) for each in alternatives)
    got = f"got {show(error['input'])}; write {' or '.join(cures)}"
    return f"{key}: {got}" if key else got


def _list_keys(model: type[BaseModel]) -> list[str]:
    """The keys of a model, as somebody writes them."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _find_cure(model: type[BaseModel], data: Any, error: Mapping[str, Any]) -> str:
    if error["type"] in ("model_type", "model_attributes_type"):
        owner = _find_model(model, data, error["loc"])
        return f"keys and values: {', '.join(_list_keys(owner))}" if owner else "keys and values"
    if error["type"] == "value_error":
        return str(error["msg"]).removeprefix("Value error, ").removeprefix("write ")
    if error["type"] not in _CURES:
        return f"something else: {error['msg'][0].lower()}{error['msg'][1:]}"
    return _CURES[error["type"]].format(**error.get("ctx", {}))


def _find_model(model: type[BaseModel], data: Any, path: Sequence[str | int]) -> type[BaseModel] | None:
    """The model at a place of a nested model, through unions, optional fields and mappings of models.

    A model whose keys depend on what is written has a class method ``model_for(data)`` that gives the one that is
    meant.
    """
    kinds: list[Any] = [model]
    for part in path:
        members = list(_list_models(kinds))
        named = [each for each in members if each.__name__ == part]
        with_field = [each for each in members if str(part) in each.model_fields]
        if named:
            kinds = named
        elif with_field:
            kinds = [with_field[0].model_fields[str(part)].annotation]
        else:
            kinds = [kind for kind in kinds if not isinstance(kind, type)]
        if isinstance(data, Mapping | list) and (part in data if isinstance(data, Mapping) else type(part) is int):
            data = data[part]  # type: ignore[index]
    found = next((each for each in _list_models(kinds) if not issubclass(each, RootModel)), None)
    choose = getattr(found, "model_for", None)
    return choose(data) if choose and isinstance(data, Mapping) else found


def _list_models(kinds: Sequence[Any]) -> Iterator[type[BaseModel]]:
    """The models among types and inside them; after a root model comes what it holds."""
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind
            if issubclass(kind, RootModel):
                yield from _list_models([kind.model_fields["root"].annotation])
        else:
            yield from _list_models(get_args(kind))
