"""Rewards for what a program can check: ``ifeval`` by what each row asks for, ``text_constraints`` by knobs."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any, Literal

import orjson
import pyarrow as pa
from pydantic import Field

from connectors.errors import UserError
from rmbatch.rewards.contract import Scores, reward
from rmbatch.rewards.rules import instructions as checks
from rmbatch.rewards.rules.texts import RowScore, map_texts, to_scores

Count = Annotated[int, Field(ge=0)] | None
Constraint = tuple[str, Callable[[str], bool]]
"""Its name, and whether a text keeps it."""


@reward("ifeval")
def ifeval(
    response: pa.Array, instruction_id_list: pa.Array, kwargs: pa.Array, *, score: Literal["share", "all"] = "share"
) -> Scores:
    """Share of the row's instructions that the response follows, as IFEval checks them; or 1.0 only for all of them.

    response[n] text; instruction_id_list[n] list of IFEval's names ("length_constraints:number_words"), kwargs[n] list
    of their arguments, as in its data -> score[n] float64 in [0, 1]; the reason names those not followed. An empty
    response follows none. Keywords are taken literally; sentences are counted by their marks (nltk there), languages
    told by py3langid (langdetect there).
    Null response, instruction_id_list or kwargs: null. Null with a code: ``bad_instruction``, an instruction that is
    not known, lacks its arguments, or none at all. UserError where py3langid is not installed and a language is asked
    for.
    Source: Zhou et al., "Instruction-Following Evaluation for Large Language Models", arXiv 2311.07911.
    """
    rows = zip(
        response.to_pylist(), map(_parse_json, instruction_id_list.to_pylist()), map(_parse_json, kwargs.to_pylist())
    )
    return to_scores([_score_ifeval(*row, only_all=score == "all") for row in rows])


@reward("text_constraints")
class TextConstraints:
    """Share of the constraints set here that the response keeps; or 1.0 only where it keeps all.

    response[n] text -> score[n] float64 in [0, 1]; the reason names those not kept. Each knob that is set is one
    constraint, each of ``keywords`` and ``forbidden_words`` too. Words are runs of letters and digits, paragraphs are
    separated by blank lines, bullets are lines that begin with ``-`` or ``*``. Keywords may stand within words,
    forbidden words are whole ones, both in any case; a text in capitals has no small letter, and some letter.
    Null response: null. UserError where no constraint is set, or a minimum is above its maximum.
    Source: the constraints of IFEval, arXiv 2311.07911; by row it is ``ifeval``.
    """

    def __init__(
        self,
        *,
        min_words: Count = None,
        max_words: Count = None,
        min_sentences: Count = None,
        max_sentences: Count = None,
        min_paragraphs: Count = None,
        max_paragraphs: Count = None,
        min_bullets: Count = None,
        max_bullets: Count = None,
        keywords: tuple[str, ...] = (),
        forbidden_words: tuple[str, ...] = (),
        starts_with: str | None = None,
        ends_with: str | None = None,
        casing: Literal["upper", "lower"] | None = None,
        valid_json: bool = False,
        no_comma: bool = False,
        score: Literal["share", "all"] = "share",
    ) -> None:
        self._only_all = score == "all"
        self._constraints: list[Constraint] = [
            *_count_limits("words", checks.count_words, min_words, max_words),
            *_count_limits("sentences", checks.count_sentences, min_sentences, max_sentences),
            *_count_limits("paragraphs", checks.count_paragraphs, min_paragraphs, max_paragraphs),
            *_count_limits("bullets", checks.count_bullets, min_bullets, max_bullets),
            *((f"keyword {word!r}", partial(checks.contains, keyword=word)) for word in keywords),
            *((f"forbidden {word!r}", partial(_lacks, word=word)) for word in forbidden_words),
        ]
        if starts_with is not None:
            self._add(f"starts with {starts_with!r}", lambda text: text.strip().startswith(starts_with))
        if ends_with is not None:
            self._add(f"ends with {ends_with!r}", lambda text: text.strip().endswith(ends_with))
        if casing is not None:
            self._add(f"{casing} case", str.isupper if casing == "upper" else str.islower)
        if valid_json:
            self._add("json", checks.is_json)
        if no_comma:
            self._add("no comma", lambda text: "," not in text)
        if not self._constraints:
            raise UserError("text_constraints: no constraint is set; give e.g. max_words=200 or keywords=[…]")

    def __call__(self, response: pa.Array) -> Scores:
        return to_scores(map_texts(response, self._score))

    def _add(self, name: str, kept: Callable[[str], bool]) -> None:
        self._constraints.append((name, kept))

    def _score(self, text: str) -> RowScore:
        broken = [name for name, kept in self._constraints if not kept(text)]
        return _score_kept(len(self._constraints), broken, self._only_all)


def _count_limits(what: str, count: Callable[[str], int], least: int | None, most: int | None) -> Iterator[Constraint]:
    if least is not None and most is not None and least > most:
        raise UserError(f"text_constraints: min_{what}={least} is above max_{what}={most}")
    if least is not None:
        yield f"at least {least} {what}", lambda text: count(text) >= least
    if most is not None:
        yield f"at most {most} {what}", lambda text: count(text) <= most


def _lacks(text: str, *, word: str) -> bool:
    return not checks.has_word(text, word)


def _score_kept(number: int, broken: list[str], only_all: bool) -> RowScore:
    score = float(not broken) if only_all else (number - len(broken)) / number
    return score, None, f"not followed: {', '.join(broken)}" if broken else None


def _score_ifeval(text: str | None, names: Any, arguments: Any, *, only_all: bool) -> RowScore | None:
    if text is None or names is None or arguments is None:
        return None
    if not isinstance(names, list) or not isinstance(arguments, list) or len(names) != len(arguments) or not names:
        return None, "bad_instruction: a list of instructions and as long a list of arguments are needed", None
    try:
        broken = [
            name
            for name, given in zip(names, arguments)
            if not checks.is_followed(text, name, _parse_json(given) or {})
        ]
    except (LookupError, TypeError, ValueError, AttributeError) as fault:
        return None, f"bad_instruction: {' '.join(map(str, fault.args))}", None
    return _score_kept(len(names), broken, only_all)


def _parse_json(value: Any) -> Any:
    """The value; lists and arguments may be JSON text, e.g. from a CSV."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
