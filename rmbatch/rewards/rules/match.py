"""Rewards that look for a string: the reference in the response, a pattern, the letter of a choice.

``accuracy`` in ``general.py`` is the plain comparison; likeness by degrees is ``similarity.py``. Regular expressions
are Rust's: linear time on any text, no look-around and no back-references.
"""

from typing import Annotated

import polars as pl
import pyarrow as pa
from pydantic import Field

from rmbatch.rewards.contract import Scores, reward
from rmbatch.rewards.rules.texts import RowScore, check_pattern, map_texts, series, to_floats, to_scores

MAX_PATTERN = 4_096
"""Characters that a row's pattern may have."""

Substrings = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
_PUNCTUATION = r"[\p{P}\p{S}]"


@reward("exact_match")
def exact_match(
    response: pa.Array, reference: pa.Array, *, ignore_case: bool = False, ignore_punctuation: bool = False
) -> pa.Array:
    """1.0 where the response is the reference once both are brought to one form, else 0.0.

    response[n] text, reference[n] text -> score[n] float64 in {0, 1}. White space at both ends does not count and a run
    of it is one space; ``ignore_case`` lower-cases, ``ignore_punctuation`` drops punctuation and symbols (Unicode P
    and S).
    Null response or reference: null.
    Source: the usual exact match of question answering, e.g. SQuAD, arXiv 1606.05250 (which also drops articles).
    """
    text, gold = (_normalise(series(column), ignore_case, ignore_punctuation) for column in (response, reference))
    return (text == gold).cast(pl.Float64).to_arrow()


@reward("contains", writes_reason=False)
def contains(response: pa.Array, reference: pa.Array, *, ignore_case: bool = False, either_way: bool = False) -> Scores:
    """1.0 where the reference stands somewhere in the response, else 0.0.

    response[n] text, reference[n] text -> score[n] float64 in {0, 1}; white space at both ends of the reference aside.
    ``either_way``: 1.0 also where the response, if not empty, stands in the reference.
    Null response or reference: null. Null with a code: ``empty_reference``, which every text would contain.
    Source: substring match, as ``includes`` in OpenAI's evals, https://github.com/openai/evals.
    """

    # Measured: polars' search for a pattern of its own in each row is not linear in the pattern; Python's is.
    def found(pair: dict[str, str | None]) -> bool | None:
        text, gold = pair["response"], pair["reference"]
        if text is None or gold is None:
            return None
        return gold in text or (either_way and text != "" and text in gold)

    searched = pl.struct("response", "reference").map_elements(found, pl.Boolean)
    return _score_search(response, reference, ignore_case, searched)


@reward("contains_all")
def contains_all(response: pa.Array, *, substrings: Substrings, ignore_case: bool = False) -> Scores:
    """Share of ``substrings`` that stand somewhere in the response.

    response[n] text -> score[n] float64 in [0, 1]; the reason names those that are missing.
    Null response: null.
    Source: OpenJudge, ``contains_all``, https://github.com/agentscope-ai/OpenJudge.
    """

    def score_row(text: str) -> RowScore:
        missing = _find_missing(text, substrings, ignore_case)
        said = f"missing: {', '.join(missing)}" if missing else None
        return 1 - len(missing) / len(substrings), None, said

    return to_scores(map_texts(response, score_row))


@reward("contains_any")
def contains_any(response: pa.Array, *, substrings: Substrings, ignore_case: bool = False) -> pa.Array:
    """1.0 where at least one of ``substrings`` stands somewhere in the response, else 0.0.

    response[n] text -> score[n] float64 in {0, 1}.
    Null response: null.
    Source: OpenJudge, ``contains_any``, https://github.com/agentscope-ai/OpenJudge.
    """
    return to_floats(
        map_texts(response, lambda text: float(len(_find_missing(text, substrings, ignore_case)) < len(substrings)))
    )


@reward("starts_with", writes_reason=False)
def starts_with(response: pa.Array, reference: pa.Array, *, ignore_case: bool = False) -> Scores:
    """1.0 where the response begins with the reference, else 0.0.

    response[n] text, reference[n] text -> score[n] float64 in {0, 1}; white space at both ends of either aside.
    Null response or reference: null. Null with a code: ``empty_reference``, with which every text would begin.
    Source: prefix match, as ``match`` in OpenAI's evals, https://github.com/openai/evals.
    """
    return _score_search(response, reference, ignore_case, pl.col("response").str.starts_with(pl.col("reference")))


@reward("ends_with", writes_reason=False)
def ends_with(response: pa.Array, reference: pa.Array, *, ignore_case: bool = False) -> Scores:
    """1.0 where the response ends with the reference, else 0.0.

    response[n] text, reference[n] text -> score[n] float64 in {0, 1}; white space at both ends of either aside.
    Null response or reference: null. Null with a code: ``empty_reference``, with which every text would end.
    Source: suffix match, the mirror of ``starts_with``.
    """
    return _score_search(response, reference, ignore_case, pl.col("response").str.ends_with(pl.col("reference")))


@reward("regex_match", writes_reason=False)
def regex_match(response: pa.Array, reference: pa.Array) -> Scores:
    """1.0 where the regular expression that the reference holds is found in the response, else 0.0.

    response[n] text, reference[n] text (a pattern each) -> score[n] float64 in {0, 1}. One pattern for all responses is
    ``pattern_match``. Write ``(?i)`` for any case, ``^…$`` for the whole text, ``(?s)`` for a dot that takes newlines.
    Null response or reference: null. Null with a code: ``bad_pattern``, which Rust's regex does not take, or over 4,096
    characters.
    Source: regular expressions of Rust, https://docs.rs/regex/latest/regex/#syntax.
    """
    frame = pl.DataFrame({"response": series(response), "reference": series(reference)})
    both = pl.all_horizontal(pl.col("response", "reference").is_not_null())
    pattern = pl.when(pl.col("reference").str.len_chars() <= MAX_PATTERN).then("reference")
    found = frame.select(
        score=pl.col("response").str.contains(pattern, strict=False).cast(pl.Float64), both=both
    ).with_columns(
        error=pl.when(pl.col("both") & pl.col("score").is_null()).then(
            pl.lit("bad_pattern: the reference is no regular expression that takes linear time, or too large a one")
        )
    )
    return Scores(found["score"].to_arrow(), found["error"].to_arrow())


@reward("pattern_match")
class PatternMatch:
    """1.0 where a regular expression is found in the response, else 0.0; with ``forbid``, the other way round.

    response[n] text -> score[n] float64 in {0, 1}. A pattern per row is ``regex_match``. Write ``(?i)`` for any case,
    ``^…$`` for the whole text, ``(?s)`` for a dot that takes newlines.
    Null response: null. UserError where Rust's regex does not take the pattern.
    Source: regular expressions of Rust, https://docs.rs/regex/latest/regex/#syntax.
    """

    def __init__(self, *, pattern: Annotated[str, Field(min_length=1)], forbid: bool = False) -> None:
        self._pattern, self._forbid = check_pattern("pattern_match: pattern", pattern), forbid

    def __call__(self, response: pa.Array) -> pa.Array:
        found = series(response).str.contains(self._pattern)
        return (~found if self._forbid else found).cast(pl.Float64).to_arrow()


@reward("multiple_choice")
class MultipleChoice:
    r"""1.0 where the letter that the response chooses is the reference's, else 0.0.

    response[n] text, reference[n] text (``B``, ``(B)``, ``B. Paris``) -> score[n] float64 in {0, 1}; the reason names
    the letter. The choice is, in this order: the letter in the last ``\boxed{}``; after the last "answer is", "answer:"
    or "option"; the letter that the whole text is, or that it begins with, as in "B." or "(B)"; the last letter in
    brackets; a letter that is all of the last line. No choice: 0.0.
    Null response or reference: null. Null with a code: ``unparsable_reference``, it begins with no letter of
    ``letters``.
    Source: the usual extraction for MMLU-like benchmarks, as in OpenAI's simple-evals,
    https://github.com/openai/simple-evals.
    """

    def __init__(self, *, letters: Annotated[str, Field(pattern="^[A-Z]{2,26}$")] = "ABCDEFGHIJ") -> None:
        one = f"([{letters}])"
        self._last = [
            rf"\\boxed\s*\{{\s*(?:\\(?:text|mathrm|textbf)\s*\{{\s*)?\(?{one}(?:[).:,\s}}]|$)",
            rf"(?i:\banswer|\boption|\bchoice|答案)(?i:\s+is|是)?[\s:：*_`\"'$(（]*{one}(?:[^A-Za-z0-9_'’]|$)",
        ]
        self._first = rf"^\s*[*_`\"'$(]*{one}(?:\s*$|[*_`\"'$]*[).:])"
        self._last += [rf"\({one}\)", rf"(?m)^[\s*_`]*{one}[\s*_`.]*\z"]
        self._gold = rf"^\W*{one}(?:\W|$)"

    def __call__(self, response: pa.Array, reference: pa.Array) -> Scores:
        text = pl.col("response").str
        boxed, said, bracketed, line = (text.extract_all(p).list.last().str.extract(p) for p in self._last)
        frame = pl.DataFrame({"response": series(response), "reference": series(reference)})
        found = frame.select(
            choice=pl.coalesce(boxed, said, text.extract(self._first), bracketed, line),
            gold=pl.col("reference").str.extract(self._gold),
            is_null=pl.any_horizontal(pl.all().is_null()),
            unread=pl.col("reference").is_not_null() & pl.col("reference").str.extract(self._gold).is_null(),
        )
        scored = ~pl.col("is_null") & ~pl.col("unread")
        chosen = pl.coalesce(pl.lit("chose ") + pl.col("choice"), pl.lit("no choice found"))
        result = found.select(
            score=pl.when(scored).then(pl.col("choice").eq_missing(pl.col("gold")).cast(pl.Float64)),
            error=pl.when(~pl.col("is_null") & pl.col("unread")).then(
                pl.lit("unparsable_reference: it begins with no letter of a choice")
            ),
            reason=pl.when(scored).then(chosen),
        )
        return Scores(*(result[name].to_arrow() for name in ("score", "error", "reason")))


def _find_missing(text: str, substrings: tuple[str, ...], ignore_case: bool) -> list[str]:
    text = text.lower() if ignore_case else text
    return [wanted for wanted in substrings if (wanted.lower() if ignore_case else wanted) not in text]


def _normalise(text: pl.Series, ignore_case: bool, ignore_punctuation: bool) -> pl.Series:
    if ignore_case:
        text = text.str.to_lowercase()
    if ignore_punctuation:
        text = text.str.replace_all(_PUNCTUATION, "")
    return text.str.replace_all(r"\s+", " ").str.strip_chars(" ")


def _score_search(response: pa.Array, reference: pa.Array, ignore_case: bool, found: pl.Expr) -> Scores:
    frame = pl.DataFrame({"response": series(response), "reference": series(reference)})
    frame = frame.select(pl.all().str.strip_chars())
    if ignore_case:
        frame = frame.select(pl.all().str.to_lowercase())
    empty = pl.col("reference") == ""
    result = frame.select(
        score=pl.when(~empty).then(found.cast(pl.Float64)),
        error=pl.when(empty & pl.col("response").is_not_null()).then(pl.lit("empty_reference: nothing to look for")),
    )
    return Scores(result["score"].to_arrow(), result["error"].to_arrow())
