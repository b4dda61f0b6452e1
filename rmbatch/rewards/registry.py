"""Finds a reward by its reference: a built-in or installed name, ``file.py:func`` or ``pkg.module:func``.

The table holds ``"module:object"`` strings, so that listing rewards imports none of them. To add a built-in reward,
write it and add its line here. ``contract.py`` says what a reward is.

    resolve("f1_score")
    resolve("my_rewards.py:polite")
    print(describe("f1_score"))
"""

import hashlib
import importlib
import inspect
import linecache
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_args, get_origin

from connectors.errors import UserError
from rmbatch.rewards.contract import Knob, RewardSpec, spec_of
from rmbatch.settings.names import nearest

BUILTIN: dict[str, str] = {
    "accuracy": "rmbatch.rewards.rules.general:accuracy",
    "action_loop": "rmbatch.rewards.rules.tool_steps:action_loop",
    "agreement": "rmbatch.rewards.rules.voting:agreement",
    "bleu": "rmbatch.rewards.rules.similarity:Bleu",
    "char_overlap": "rmbatch.rewards.rules.similarity:char_overlap",
    "chrf": "rmbatch.rewards.rules.similarity:ChrF",
    "code_execution": "rmbatch.rewards.rules.code_execution:CodeExecution",
    "code_patch_similarity": "rmbatch.rewards.rules.code:code_patch_similarity",
    "code_style": "rmbatch.rewards.rules.code:code_style",
    "code_syntax_check": "rmbatch.rewards.rules.code:code_syntax_check",
    "contains": "rmbatch.rewards.rules.match:contains",
    "contains_all": "rmbatch.rewards.rules.match:contains_all",
    "contains_any": "rmbatch.rewards.rules.match:contains_any",
    "cosine_length": "rmbatch.rewards.rules.length:cosine_length",
    "critic_first_error_match": "rmbatch.rewards.rules.process:critic_first_error_match",
    "detoxify_reward": "rmbatch.rewards.rules.toxicity:DetoxifyReward",
    "edit_similarity": "rmbatch.rewards.rules.similarity:edit_similarity",
    "emoji_density": "rmbatch.rewards.rules.style:emoji_density",
    "ends_with": "rmbatch.rewards.rules.match:ends_with",
    "execution_agreement": "rmbatch.rewards.rules.code_agreement:ExecutionAgreement",
    "exact_match": "rmbatch.rewards.rules.match:exact_match",
    "f1_score": "rmbatch.rewards.rules.general:F1Score",
    "first_error_match": "rmbatch.rewards.rules.process:first_error_match",
    "fuzzy_ratio": "rmbatch.rewards.rules.similarity:fuzzy_ratio",
    "ifeval": "rmbatch.rewards.rules.constraints:ifeval",
    "json_match": "rmbatch.rewards.rules.json_match:json_match",
    "json_schema_match": "rmbatch.rewards.rules.json_match:JsonSchemaMatch",
    "json_valid": "rmbatch.rewards.rules.json_match:json_valid",
    "language_consistency": "rmbatch.rewards.rules.language:LanguageConsistency",
    "language_match": "rmbatch.rewards.rules.language:LanguageMatch",
    "length_penalty": "rmbatch.rewards.rules.format:length_penalty",
    "list_density": "rmbatch.rewards.rules.style:list_density",
    "majority_vote": "rmbatch.rewards.rules.voting:majority_vote",
    "markdown_density": "rmbatch.rewards.rules.style:markdown_density",
    "math_verify_reward": "rmbatch.rewards.rules.math:math_verify_reward",
    "multiple_choice": "rmbatch.rewards.rules.match:MultipleChoice",
    "ngram_repetition_penalty": "rmbatch.rewards.rules.format:NgramRepetitionPenalty",
    "no_refusal": "rmbatch.rewards.rules.refusal:no_refusal",
    "not_truncated": "rmbatch.rewards.rules.truncation:not_truncated",
    "number_accuracy": "rmbatch.rewards.rules.general:number_accuracy",
    "pattern_match": "rmbatch.rewards.rules.match:PatternMatch",
    "privacy_leakage": "rmbatch.rewards.rules.privacy:privacy_leakage",
    "reasoning_format": "rmbatch.rewards.rules.format:reasoning_format",
    "reasoning_tool_call_format": "rmbatch.rewards.rules.tool_calls:reasoning_tool_call_format",
    "regex_match": "rmbatch.rewards.rules.match:regex_match",
    "rouge": "rmbatch.rewards.rules.similarity:rouge",
    "rouge1": "rmbatch.rewards.rules.similarity:rouge1",
    "rouge2": "rmbatch.rewards.rules.similarity:rouge2",
    "rouge3": "rmbatch.rewards.rules.similarity:rouge3",
    "rouge4": "rmbatch.rewards.rules.similarity:rouge4",
    "rouge5": "rmbatch.rewards.rules.similarity:rouge5",
    "rougeL": "rmbatch.rewards.rules.similarity:rouge_l",
    "soft_overlong": "rmbatch.rewards.rules.length:soft_overlong",
    "starts_with": "rmbatch.rewards.rules.match:starts_with",
    "step_count": "rmbatch.rewards.rules.process:step_count",
    "text_constraints": "rmbatch.rewards.rules.constraints:TextConstraints",
    "token_set_ratio": "rmbatch.rewards.rules.similarity:token_set_ratio",
    "tool_call_match": "rmbatch.rewards.rules.tool_calls:tool_call_match",
    "tool_call_sequence": "rmbatch.rewards.rules.tool_steps:tool_call_sequence",
    "word_overlap": "rmbatch.rewards.rules.similarity:word_overlap",
}
ALIASES: dict[str, str] = {"math_verify": "math_verify_reward", "toxicity": "detoxify_reward"}
ENTRY_POINT_GROUP = "rmbatch.rewards"

_SIGNS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"), ("min_length", "of at least"))


def list_rewards() -> list[str]:
    """The names that need no path: built-in rewards and those that installed packages offer, sorted."""
    return sorted({*BUILTIN, *(point.name for point in _entry_points())})


def resolve(ref: str, source: str | None = None) -> RewardSpec:
    """The reward that ``ref`` names; ``source`` is the text of the file where ``ref`` is ``file.py:func``.

    With ``source`` the path is a label only: the driver sends the text, and the worker needs no file.
    Raises UserError naming the nearest reward, file, module or function.
    """
    where, _, attribute = ref.rpartition(":")
    if where.endswith(".py"):
        text = read_source(where) if source is None else source
        spec = _find_in_module(load_source(text, where), attribute, ref)
        return replace(spec, ref=ref, source=text)
    name = ALIASES.get(ref, ref)
    if name in BUILTIN:
        return replace(_load_from_module(BUILTIN[name]), ref=name)
    if where:
        return replace(_load_from_module(ref), ref=ref)
    for point in _entry_points():
        if point.name == ref:
            return replace(spec_of(point.load()), ref=ref)
    hint = nearest(ref, [*list_rewards(), *ALIASES])
    raise UserError(f"no reward {ref!r}: {hint} Your own is written path/to/file.py:func or pkg.module:func.")


def load_source(text: str, path: str, noun: str = "reward") -> ModuleType:
    """A file's text as a module under a private name; the same text at the same path is loaded only once.

    ``noun``: what the file holds for the user.
    """
    digest = hashlib.sha256(f"{path}\0{text}".encode()).hexdigest()[:16]
    name = f"_rmbatch_reward_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = path
    shown = f"<{path} {digest}>" if not Path(path).is_file() else path
    linecache.cache[shown] = (len(text), None, text.splitlines(keepends=True), shown)  # so that tracebacks show lines
    sys.modules[name] = module  # dataclasses and pickle look their module up while it runs
    try:
        exec(compile(text, shown, "exec"), module.__dict__)
    except (Exception, SystemExit) as fault:  # the user mends the file, so the message is one line
        del sys.modules[name]
        raise UserError(f"the {noun} file {path} cannot be loaded: {type(fault).__name__}: {fault}") from fault
    return module


def describe(name: str) -> str:
    """The text of ``rmbatch rewards NAME``: signature, kind, columns, knobs with types and defaults, docstring."""
    spec = resolve(name)
    knobs = "".join(f", {knob.name}" + ("" if knob.required else f"={knob.default!r}") for knob in spec.knobs)
    lines = [
        f"{spec.name}({', '.join(spec.columns)}{', *' if knobs else ''}{knobs})",
        f"  kind     {spec.kind}",
        f"  columns  {', '.join(spec.columns)}",
        f"  writes   {', '.join(f'{part}.{spec.name}' for part in _column_kinds(spec))}",
    ]
    lines += [f"  knob     {_format_knob(knob)}" for knob in spec.knobs]
    return "\n".join([*lines, "", spec.doc]).rstrip()


def _column_kinds(spec: RewardSpec) -> tuple[str, ...]:
    return ("score", "error", "reason") if spec.writes_reason else ("score", "error")


def _format_knob(knob: Knob) -> str:
    default = "" if knob.required else f" = {knob.default!r}"
    return f"{knob.name}: {format_type(knob.annotation)}{default}"


def format_type(annotation: Any) -> str:
    """A knob's type as text: ``int >= 1``, ``'words' | 'jieba'``."""
    if get_origin(annotation) is Annotated:
        base, *notes = get_args(annotation)
        return " ".join([format_type(base), *filter(None, map(_format_bounds, notes))])
    if get_origin(annotation) is Literal:
        return " | ".join(map(repr, get_args(annotation)))
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "")


def _format_bounds(note: Any) -> str:
    """``>= 1`` for pydantic's ``Field(ge=1)``."""
    limits = [(sign, getattr(limit, key, None)) for limit in getattr(note, "metadata", []) for key, sign in _SIGNS]
    return " and ".join(f"{sign} {value}" for sign, value in limits if value is not None)


def _load_from_module(ref: str) -> RewardSpec:
    where, _, attribute = ref.rpartition(":")
    if where.partition(".")[0] in sys.stdlib_module_names:
        raise UserError(f"reward {ref!r}: {where} is a part of Python and has no reward; {_OWN}")
    try:
        module = importlib.import_module(where)
    except ModuleNotFoundError as missing:
        if missing.name is not None and (where == missing.name or where.startswith(f"{missing.name}.")):
            raise UserError(f"reward {ref!r}: no module {where!r}; is it on PYTHONPATH?") from None
        raise UserError(f"reward {ref!r}: {where} needs the package {missing.name!r}, not installed here") from missing
    except (Exception, SystemExit) as fault:  # the author mends the module, so the message is one line
        raise UserError(f"reward {ref!r}: {where} cannot be loaded: {type(fault).__name__}: {fault}") from fault
    return _find_in_module(module, attribute, ref)


def _find_in_module(module: ModuleType, attribute: str, ref: str) -> RewardSpec:
    target = getattr(module, attribute, None)
    if target is None or not callable(target):
        own = [
            key
            for key, value in vars(module).items()
            if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module.__name__
        ]
        raise UserError(f"reward {ref!r}: no function {attribute!r} there; {nearest(attribute, own)}")
    return spec_of(target)


_OWN = (
    "write a function whose parameter is `response` and name it path/to/file.py:func, or declare it with "
    "@rmbatch.rewards.reward(...)"
)


def read_source(path: str, noun: str = "reward") -> str:
    """The text of a user's file. Raises UserError where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        folder = Path(path).parent
        known = [str(file) for file in folder.glob("*.py")] if folder.is_dir() else []
        raise UserError(f"no {noun} file {path}; {nearest(path, known)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the {noun} file {path} cannot be read: {error}") from None


def _entry_points() -> list[EntryPoint]:
    return list(entry_points(group=ENTRY_POINT_GROUP))
