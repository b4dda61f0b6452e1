"""The forms of reward functions, read from their signatures.

Names and annotations alone decide the form, before any row. An ambiguous signature is refused, and the message says
what to write. ``contract.py`` says what a reward is; ``docs/own_rewards.md`` has an example of every form.

    def polite(response: str) -> float: ...                                         # "row": called once a response
    def polite(response: list[str]) -> list[float]: ...                             # "list"; arrays and Series too
    def polite(completions, **kwargs): ...                                          # "trl"
    def compute_score(data_source, solution_str, ground_truth, extra_info=None): ...  # "verl"
"""

import inspect
import re
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from numbers import Number
from typing import Annotated, Any, Literal, NewType, Union, get_args, get_origin

from connectors.errors import UserError
from rmbatch.rows.roles import ALL_COLUMNS

Kind = Literal["arrow", "numpy", "pandas", "polars", "list", "row", "trl", "verl"]
Class = Literal["arrow", "numpy", "pandas", "polars", "list", "value", "scores", "null", "any", "other"]
"""The kind of value that an annotation describes."""

ROLES = ("response", "prompt", "reference")
FORM_CURE = (
    "write `def {name}(response: str) -> float` for a row at a time, or "
    "`def {name}(response: list[str]) -> list[float]` for whole columns; docs/own_rewards.md shows all forms"
)
TRAINER_ARGUMENTS = ("trainer_state", "log_extra", "log_metric")
"""Arguments that TRL passes beside columns."""
_TRAINER_ONLY = ("completion_ids", "completions_ids", "environments")
_TRL = {"completions": "response", "prompts": "prompt"}
_VERL = {
    "data_source": "data_source",
    "solution_str": "response",
    "ground_truth": "reference",
    "extra_info": "extra_info",
}
_WHOLE: tuple[Class, ...] = ("arrow", "numpy", "pandas", "polars")
_LIBRARIES: dict[str, Class] = {"pyarrow": "arrow", "numpy": "numpy", "pandas": "pandas", "polars": "polars"}
_VALUES = (str, bytes, Number, Mapping, Decimal, date, time, timedelta)


@dataclass(frozen=True)
class Argument:
    """One positional parameter of a reward function."""

    name: str
    column: str
    """The column it reads."""
    annotation: Any = inspect.Parameter.empty
    default: Any = inspect.Parameter.empty
    by_position: bool = False
    """Whether it cannot be passed by name."""

    @property
    def required(self) -> bool:
        """Whether the column must exist."""
        return self.default is inspect.Parameter.empty

    @property
    def takes_null(self) -> bool:
        """Whether None may be passed for a value that is null."""
        return _allows_none(self.annotation)


@dataclass(frozen=True)
class Form:
    """How a reward function is called."""

    kind: Kind
    arguments: tuple[Argument, ...]
    knobs: tuple[inspect.Parameter, ...] = ()
    """Positional parameters that are knobs: verl passes its ``reward_kwargs`` so."""
    takes_rest: bool = False
    """Whether ``**kwargs`` gets all other columns."""
    keyword_only: frozenset[str] = frozenset()
    """Names of knobs, even where a column has the same name."""
    is_async: bool = False
    is_annotated: bool = True
    """False where nothing is annotated; then the function gets whole Arrow columns."""
    returns_dict: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads."""
        rest = (ALL_COLUMNS,) if self.takes_rest or self.kind == "trl" else ()
        return (*(argument.column for argument in self.arguments), *rest)

    @property
    def optional(self) -> tuple[str, ...]:
        """The columns that may be missing."""
        return tuple(argument.column for argument in self.arguments if not argument.required)


def form_of(
    name: str, call: Callable[..., Any], signature: inspect.Signature, own: Sequence[inspect.Parameter]
) -> Form:
    """The form of the function ``call`` with the parameters ``own``; raises UserError with what to write instead."""
    positional = [p for p in own if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    takes_rest = any(p.kind is p.VAR_KEYWORD for p in own)
    keyword_only = frozenset(p.name for p in own if p.kind is p.KEYWORD_ONLY)
    is_async = any(map(inspect.iscoroutinefunction, (call, getattr(call, "__call__", None))))  # noqa: B004
    returned = class_of(signature.return_annotation)
    if _is_no_number(signature.return_annotation) and not {"solution_str", "ground_truth"} <= {
        p.name for p in positional
    }:
        shown = inspect.formatannotation(signature.return_annotation)
        raise UserError(f"reward {name!r} returns {shown}, which is no number; {FORM_CURE.format(name=name)}")
    names = {p.name for p in positional}
    if {"solution_str", "ground_truth"} <= names:
        return _verl_form(positional, is_async, signature.return_annotation)
    given = {p.name: class_of(p.annotation) for p in positional}
    if "completions" in names and {given["completions"], returned} <= {"any", "list", "other"}:
        _refuse_trainer_arguments(name, positional)
        columns = [p for p in positional if p.name not in TRAINER_ARGUMENTS]
        arguments = tuple(_argument(p, _TRL.get(p.name, p.name)) for p in columns)
        return Form("trl", arguments, takes_rest=takes_rest, keyword_only=keyword_only, is_async=is_async)
    kind, is_annotated = _infer_kind(name, given, returned)
    if takes_rest and kind != "row":
        raise UserError(f"reward {name!r}: *args and **kwargs name neither columns nor knobs; write them out")
    if kind in ("row", "list") and "responses" in given:
        raise UserError(f"reward {name!r}: call the parameter `response`; each response of a row is scored by itself")
    arguments = tuple(_argument(p, p.name) for p in positional)
    return Form(kind, arguments, (), takes_rest, keyword_only, is_async, is_annotated)


def _verl_form(positional: Sequence[inspect.Parameter], is_async: bool, returned: Any) -> Form:
    arguments = [_argument(p, _VERL[p.name]) for p in positional if p.name in _VERL]
    others = [p for p in positional if p.name not in _VERL]
    returns_dict = "dict" in str(returned)
    return Form("verl", tuple(arguments), tuple(others), is_async=is_async, returns_dict=returns_dict)


def _argument(parameter: inspect.Parameter, column: str) -> Argument:
    by_position = parameter.kind is parameter.POSITIONAL_ONLY
    return Argument(parameter.name, column, parameter.annotation, parameter.default, by_position)


def _refuse_trainer_arguments(name: str, positional: Iterable[inspect.Parameter]) -> None:
    for parameter in positional:
        if parameter.name in _TRAINER_ONLY and parameter.default is parameter.empty:
            raise UserError(
                f"reward {name!r} needs {parameter.name!r}, which only a trainer has; "
                f"write `{parameter.name}=None`, or leave it to **kwargs"
            )


def _infer_kind(name: str, given: Mapping[str, Class], returned: Class) -> tuple[Kind, bool]:
    """The kind that the annotations describe, and whether there are any."""
    said = {what for what in given.values() if what != "any"}
    odd = [parameter for parameter, what in given.items() if what in ("other", "scores", "null")]
    cure = FORM_CURE.format(name=name)
    if odd:
        raise UserError(f"reward {name!r}: the annotation of {odd[0]!r} is no column's and no value's; {cure}")
    whole = [what for what in _WHOLE if what in said]
    if whole:
        if len(said) > 1:
            raise UserError(f"reward {name!r} mixes {' and '.join(sorted(said))} among its parameters; {cure}")
        if returned == "value":
            raise UserError(f"reward {name!r} takes whole columns and returns one value; {cure}")
        return whole[0], True  # type: ignore[return-value]
    if returned == "value":
        return "row", True
    if returned in (*_WHOLE, "list", "scores"):
        if "value" in said:
            raise UserError(f"reward {name!r} takes a row at a time and returns a whole column; {cure}")
        return ("list" if "list" in said or returned == "list" else "arrow"), True
    if "value" in said:
        if returned == "other":
            raise UserError(f"reward {name!r}: what it returns is no number; {cure}")
        return "row", True
    if "list" in said:
        raise UserError(f"reward {name!r}: a list may be a column or one row's value; say what it returns: {cure}")
    if returned == "null":
        raise UserError(f"reward {name!r} returns nothing; {cure}")
    return "arrow", False


def class_of(annotation: Any) -> Class:
    """The class of an annotation; ``any`` for none."""
    if annotation in (inspect.Parameter.empty, Any, object):
        return "any"
    if isinstance(annotation, str):
        return _class_of_text(annotation)
    if annotation is None or annotation is type(None):
        return "null"
    if isinstance(annotation, NewType):
        return class_of(annotation.__supertype__)
    origin = get_origin(annotation)
    if origin is Annotated:
        return class_of(get_args(annotation)[0])
    if origin is Literal:
        return "value"
    if origin in (Union, types.UnionType):
        return _class_of_union(map(class_of, get_args(annotation)))
    return _class_of_type(origin or annotation)


def _class_of_type(kind: Any) -> Class:
    if not isinstance(kind, type):
        return "other"
    root = kind.__module__.partition(".")[0]
    if root in _LIBRARIES and kind.__name__ in ("ndarray", "Series", "ChunkedArray"):
        return _LIBRARIES[root]
    if root == "pyarrow":
        return "arrow" if kind.__name__.endswith("Array") else "other"
    if root == "numpy":
        return "value"  # float64, bool_ and the like
    if kind.__name__ == "Scores" and root == "rmbatch":
        return "scores"
    if issubclass(kind, _VALUES):
        return "value"
    return "list" if issubclass(kind, Sequence) or kind in (Iterable, Collection) else "other"


def _class_of_union(classes: Iterable[Class]) -> Class:
    several = set(classes) - {"null"}
    if len(several) == 1:
        return several.pop()
    return "value" if several <= {"value", "list"} else "scores" if "scores" in several else "other"


_TEXTS: dict[str, Class] = {
    **dict.fromkeys(("str", "float", "int", "bool", "dict", "Dict", "Mapping", "Literal", "Decimal"), "value"),
    **dict.fromkeys(("list", "List", "Sequence", "tuple", "Tuple", "Iterable"), "list"),
    **{"ndarray": "numpy", "NDArray": "numpy", "Array": "arrow", "ChunkedArray": "arrow", "Scores": "scores"},
    **{"Any": "any", "object": "any", "None": "null"},
}


def _class_of_text(text: str) -> Class:
    """The class of an annotation that could not be evaluated, because its name is imported for type checkers only."""
    text = text.strip().strip("'\"")
    if inner := re.fullmatch(r"(?:\w+\.)?Optional\[(.*)\]", text, re.DOTALL):
        return _class_of_text(inner[1])
    parts = re.split(r"\|(?![^\[]*\])", text)
    if len(parts) > 1:
        return _class_of_union(map(_class_of_text, parts))
    where, _, name = text.partition("[")[0].strip().rpartition(".")
    if name == "Series":
        return "polars" if where in ("pl", "polars") else "pandas"
    return _TEXTS.get(name, "other")


def _is_no_number(annotation: Any) -> bool:
    several = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    kinds = [get_origin(each) or each for each in several if each is not type(None)]
    return bool(kinds) and all(isinstance(kind, type) and issubclass(kind, (str, bytes, Mapping)) for kind in kinds)


def _allows_none(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return "None" in annotation or "Optional" in annotation
    if annotation is inspect.Parameter.empty:
        return False
    return annotation in (Any, object, None) or any(
        arg is type(None) for arg in get_args(annotation) if get_origin(annotation) in (Union, types.UnionType)
    )
