"""What a reward is: a function from columns to scores, declared by its signature; each call's result is checked.

A reward is a function, or a class where there is state (a model, a tokenizer, a client). Its positional parameters name
the columns it reads; its keyword-only parameters are its knobs. ``RewardSpec`` holds that declaration; ``reward``
attaches it and returns the function unchanged. ``function.py`` binds knobs and calls; ``registry.py`` knows the names.

    @reward("shout")
    def shout(response: pa.Array, *, mark: str = "!") -> pa.Array:
        return pc.cast(pc.count_substring(response, mark), pa.float64())

Every kind gives one score per response.
``pointwise``: the score depends on the response's own columns alone. ``stepwise``: the same, from the response's steps.
``listwise`` and ``pairwise``: the score compares the response with the others of its prompt (as a list; two at a time).
They take one more keyword-only parameter, ``offsets: np.ndarray`` (int64, prompts + 1): the responses of prompt i are
``offsets[i]:offsets[i + 1]``. The caller passes it; it is no knob.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar, get_args

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, create_model

from connectors.errors import UserError
from rmbatch.rewards.calling import to_array
from rmbatch.rewards.forms import FORM_CURE, ROLES, Form, form_of
from rmbatch.rewards.scores import RewardError as RewardError
from rmbatch.rewards.scores import Scores as Scores
from rmbatch.rows.messages import TEXT
from rmbatch.settings.mistakes import validate

STEPS = pa.large_list(pa.float64())
Kind = Literal["pointwise", "pairwise", "listwise", "stepwise"]
GROUP_KINDS: tuple[Kind, ...] = ("pairwise", "listwise")

_SPEC = "__rmbatch_reward__"
_T = TypeVar("_T", bound=Callable[..., Any])


@dataclass(frozen=True)
class Knob:
    """One keyword-only parameter of a reward; ``default`` is ``inspect.Parameter.empty`` where a value is required."""

    name: str
    annotation: Any
    default: Any

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


@dataclass(frozen=True)
class RewardSpec:
    """The declaration of a reward, read off its signature."""

    name: str
    kind: Kind
    columns: tuple[str, ...]
    """Columns it reads, in the order of its parameters."""
    form: Form
    """How its function is called."""
    knobs: tuple[Knob, ...]
    doc: str
    writes_reason: bool
    """Whether a ``reason.<name>`` column is written; known before the first row, so that all files have one schema."""
    takes_offsets: bool
    target: Callable[..., Any]
    """The function or class itself."""
    ref: str | None = None
    """The reference that led to it (a name, ``file.py:func``, ``pkg.module:func``); None for a function itself."""
    source: str | None = None
    """The text of the user's file, where ``ref`` names one: workers build the reward from the text, not the path."""

    @cached_property
    def knob_model(self) -> type[BaseModel]:
        """The pydantic model of the knobs; unknown names are refused."""
        fields = {knob.name: (knob.annotation, ... if knob.required else knob.default) for knob in self.knobs}
        config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
        make: Any = create_model  # its overloads cannot express fields that are known only at run time
        model: type[BaseModel] = make(f"{self.name}_knobs", __config__=config, **fields)
        return model

    def check_knobs(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All knobs with their validated values. Raises UserError naming the reward, the knob, the value, the cure."""
        for key in given:
            if key in self.columns and key not in self.knob_model.model_fields:
                raise UserError(
                    f"reward {self.name!r} reads {key!r} as a column; to make it a knob, write it after a `*`"
                )
        checked = validate(self.knob_model, {**given}, where=f"reward {self.name!r}", noun="knob")
        return {knob.name: getattr(checked, knob.name) for knob in self.knobs}


def reward(name: str, *, kind: Kind = "pointwise", writes_reason: bool | None = None) -> Callable[[_T], _T]:
    """Declare a function or class as the reward ``name``; it stays callable as before.

    ``writes_reason`` None: it does if its return annotation mentions ``Scores``.
    """

    def declare(target: _T) -> _T:
        setattr(target, _SPEC, _read_spec(target, name, kind, writes_reason, is_declared=True))
        return target

    return declare


def spec_of(target: Callable[..., Any]) -> RewardSpec:
    """The spec attached by ``@reward``; for a plain function or class, a pointwise reward under its own name.

    Raises UserError where the signature does not say that the parameters are columns.
    """
    declared = vars(target).get(_SPEC) if hasattr(target, "__dict__") else None
    if isinstance(declared, RewardSpec):
        return declared
    if not callable(target):
        raise UserError(f"{target!r} is not a reward: a function or a class is needed")
    name = getattr(target, "__name__", type(target).__name__)
    return _read_spec(target, name, "pointwise", None, is_declared=False)


def _read_spec(
    target: Callable[..., Any], name: str, kind: Kind, writes_reason: bool | None, *, is_declared: bool
) -> RewardSpec:
    if kind not in get_args(Kind):
        raise UserError(f"reward {name!r}: kind={kind!r} is none of {', '.join(get_args(Kind))}")
    cls: Any = target if isinstance(target, type) else None
    if cls and "__call__" not in dir(cls):
        raise UserError(f"reward {name!r}: the class has no __call__, whose parameters would name the columns it reads")
    function = cls.__call__ if cls else target
    call = _signature(name, function)
    own = list(call.parameters.values())[1 if cls else 0 :]
    given = _knobs_of_class(name, cls) if cls else own

    takes_offsets = any(p.kind is p.KEYWORD_ONLY and p.name == "offsets" for p in own)
    if any(p.kind is p.VAR_POSITIONAL for p in own) or (
        cls and any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in given)
    ):
        raise UserError(f"reward {name!r}: *args and **kwargs name neither columns nor knobs; write them out")
    if cls and any(p.kind is not p.KEYWORD_ONLY for p in given):
        raise UserError(f"reward {name!r}: the parameters of __init__ are its knobs; write them after a `*`")
    if not any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in own):
        raise UserError(f"reward {name!r} reads no column: its positional parameters name them, e.g. `response`")
    form = form_of(name, function, call, own)
    if not (is_declared or form.is_annotated or any(column.startswith(ROLES) for column in form.columns)):
        raise UserError(
            f"{name!r} declares no reward: nothing says that {', '.join(form.columns)} are columns; if it is one, "
            f"{FORM_CURE.format(name=name)}"
        )
    if kind in GROUP_KINDS and form.kind not in ("arrow", "numpy", "pandas", "polars", "list"):
        raise UserError(f"reward {name!r} is {kind}: it compares responses, so it takes whole columns and `offsets`")
    if takes_offsets != (kind in GROUP_KINDS):
        cure = "needs a keyword-only parameter `offsets`" if not takes_offsets else "cannot take `offsets`"
        raise UserError(f"reward {name!r}: a {kind} reward {cure}")

    knobs = tuple(
        Knob(p.name, Any if p.annotation is p.empty else p.annotation, p.default)
        for p in given
        if p.kind is p.KEYWORD_ONLY and p.name != "offsets"
    )
    if not cls:
        knobs += tuple(Knob(p.name, Any if p.annotation is p.empty else p.annotation, p.default) for p in form.knobs)
    if writes_reason is None:
        returned = call.return_annotation
        writes_reason = (
            returned is Scores or Scores in get_args(returned) or (isinstance(returned, str) and "Scores" in returned)
        ) or form.returns_dict
    doc = inspect.getdoc(target) or ""
    return RewardSpec(name, kind, form.columns, form, knobs, doc, writes_reason, takes_offsets, target)


def _knobs_of_class(name: str, target: type) -> list[inspect.Parameter]:
    if target.__init__ is object.__init__:  # type: ignore[misc]
        return []
    return list(_signature(name, target.__init__).parameters.values())[1:]  # type: ignore[misc]


def _signature(name: str, target: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(target, eval_str=True)
    except (NameError, AttributeError):  # a name that is imported only under TYPE_CHECKING
        return inspect.signature(target)
    except (ValueError, TypeError):  # written in C, or no callable at all
        raise UserError(f"{name!r} declares no reward: {FORM_CURE.format(name=name)}") from None


def normalise_scores(spec: RewardSpec, given: Any, columns: Mapping[str, pa.Array], num_rows: int) -> Scores:
    """A reward's result in the one form that everything downstream relies on.

    score float64 of length num_rows, finite or null; error text exactly where the score is null; reason text or null.
    A null score that came without an error gets one: ``not_finite`` for NaN and infinity, ``missing_<column>`` where an
    input column is null, else ``no_score``. Raises RewardError for another length or type.
    """
    scores = given if isinstance(given, Scores) else Scores(given)
    raw = _check_array(spec, "score", to_array(spec.name, scores.score, num_rows), num_rows)
    if not _is_number(raw.type):
        raise RewardError(f"reward {spec.name!r} gave scores of type {raw.type}; numbers are needed")
    raw = pc.cast(raw, pa.float64(), safe=False)
    finite = pc.is_finite(raw)  # null for null
    score = pc.if_else(finite, raw, pa.scalar(None, pa.float64()))

    error = _text_array(spec, "error", scores.error, num_rows)
    if not pc.all(finite, min_count=0).as_py():
        prefix, glue = pa.scalar("not_finite: the reward gave", TEXT), pa.scalar(" ", TEXT)
        shown = pc.binary_join_element_wise(prefix, pc.cast(raw, TEXT), glue)
        error = pc.if_else(pc.fill_null(finite, True), error, pc.coalesce(error, shown))
    if score.null_count:
        for name, column in columns.items():
            missing = pa.scalar(f"missing_{name}: {name} is null", TEXT)
            error = pc.if_else(pc.and_(pc.is_null(error), pc.is_null(column)), missing, error)
        error = pc.fill_null(error, pa.scalar("no_score: the reward gave no score", TEXT))
    error = pc.if_else(pc.is_null(score), error, pa.scalar(None, TEXT))

    reason = _text_array(spec, "reason", scores.reason, num_rows)
    if not spec.writes_reason and reason.null_count < num_rows:
        raise RewardError(f"reward {spec.name!r} gives reasons but does not declare them: annotate it `-> Scores`")
    return Scores(score, error, reason)


def null_scores(num_rows: int) -> Scores:
    """Scores, errors and reasons that are all null."""
    return Scores(*(pa.nulls(num_rows, kind) for kind in (pa.float64(), TEXT, TEXT)))


def _check_array(spec: RewardSpec, part: str, array: Any, num_rows: int) -> pa.Array:
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if not isinstance(array, pa.Array):
        raise RewardError(f"reward {spec.name!r} gave a {type(array).__name__} as {part}; a pyarrow Array is needed")
    if len(array) != num_rows:
        raise RewardError(f"reward {spec.name!r} gave {len(array)} {part}s for {num_rows} responses")
    return array


def _text_array(spec: RewardSpec, part: str, array: Any, num_rows: int) -> pa.Array:
    if array is None:
        return pa.nulls(num_rows, TEXT)
    return pc.cast(_check_array(spec, part, array, num_rows), TEXT)


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_floating(kind)
        or types.is_integer(kind)
        or types.is_boolean(kind)
        or types.is_decimal(kind)
        or types.is_null(kind)
    )
