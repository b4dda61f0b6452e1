"""Rewards that compare the candidates of a prompt with each other: ``majority_vote`` and ``agreement``. No reference.

Two answers are the same as normalised text, or as mathematics by math-verify (``math.py``).
"""

import re
import unicodedata
from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from rmbatch.rewards.contract import Scores, reward
from rmbatch.rewards.rules.format import between
from rmbatch.rewards.rules.texts import Verdict, as_scores

Offsets = np.ndarray[Any, np.dtype[np.int64]]
Answer = Literal["whole", "last_line", "boxed", "answer_tag"]
Equal = Literal["text", "math"]
Timeout = Annotated[int, Field(ge=1)]


@reward("majority_vote", kind="listwise")
def majority_vote(
    response: pa.Array,
    *,
    offsets: Offsets,
    answer: Answer = "whole",
    equal: Equal = "text",
    timeout_s: Timeout = 5,
) -> Scores:
    r"""1.0 where the response gives the answer that most responses to its prompt give, else 0.0.

    response[n] text, the candidates of prompt i at offsets[i]:offsets[i + 1] -> score[n] float64 in {0, 1}; the reason
    counts the votes. Answers that share the most votes are all 1.0. ``answer``: the whole text, its last line that is
    not blank, the last ``\boxed{}``, or the last ``<answer>``; a response without it has no vote and 0.0. ``equal``:
    as text (NFKC, case and white space aside, and a full stop or ``$`` at the ends), or as mathematics, where it is
    text that differs; sameness is closed over chains, so the order of the candidates does not matter.
    Null response: null, and no vote.
    Source: Wang et al., "Self-Consistency", arXiv 2203.11171; as a reward: TTRL, arXiv 2504.16084.
    """

    def verdict(votes: int, most: int, num_voters: int) -> Verdict:
        return float(votes == most), None, f"{votes} of {num_voters} votes"

    return _voted(response, offsets, answer, equal, timeout_s, verdict)


@reward("agreement", kind="listwise")
def agreement(
    response: pa.Array,
    *,
    offsets: Offsets,
    answer: Answer = "whole",
    equal: Equal = "text",
    timeout_s: Timeout = 5,
) -> Scores:
    r"""Share of the responses to a prompt that give the same answer as this one, itself among them.

    response[n] text, the candidates of prompt i at offsets[i]:offsets[i + 1] -> score[n] float64 in [0, 1]; the reason
    counts the votes. Knobs as for ``majority_vote``; a response without an answer has no vote and 0.0.
    Null response: null, and no vote.
    Source: Wang et al., "Self-Consistency", arXiv 2203.11171, whose consistency tells how sure a model is.
    """

    def verdict(votes: int, most: int, num_voters: int) -> Verdict:
        return votes / num_voters, None, f"{votes} of {num_voters} votes"

    return _voted(response, offsets, answer, equal, timeout_s, verdict)


def _voted(response: pa.Array, offsets: Offsets, answer: Answer, equal: Equal, timeout_s: int, verdict: Any) -> Scores:
    said = [None if text is None else _answer(text, answer) for text in response.to_pylist()]
    prompts = [said[start:end] for start, end in pairwise(offsets.tolist())]
    classes = _classes_of_text(prompts) if equal == "text" else _classes_of_mathematics(prompts, timeout_s)

    def verdicts() -> Iterator[Verdict | None]:
        for answers, names in zip(prompts, classes):
            votes: dict[str, int] = {}
            for vote in filter(None, answers):
                votes[names[vote]] = votes.get(names[vote], 0) + 1
            most, num_voters = max(votes.values(), default=0), sum(votes.values())
            for given in answers:
                if given is None:
                    yield None
                elif not given:
                    yield 0.0, None, "no answer"
                else:
                    yield verdict(votes[names[given]], most, num_voters)

    return as_scores(verdicts())


def _answer(text: str, where: Answer) -> str:
    """The answer that a response gives, "" for none."""
    if where == "boxed":
        return _last_boxed(text)
    if where == "answer_tag":
        return next(reversed(between(text, "<answer>", "</answer>")), "").strip()
    text = text.strip()
    return text.rsplit("\n", 1)[-1].strip() if where == "last_line" else text


def _last_boxed(text: str) -> str:
    r"""What stands in the last ``\boxed{}``, whose braces may hold others; "" where there is none that closes."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return ""
    start += len("\\boxed{")
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return text[start : brace.start()].strip()
    return ""


_BRACE = re.compile(r"[{}]")
Classes = list[dict[str, str]]
"""For each prompt, the name of the class of each answer: answers are the same if their classes are."""


def _classes_of_text(prompts: list[list[str | None]]) -> Classes:
    return [{given: _normalised(given) for given in filter(None, answers)} for answers in prompts]


def _normalised(answer: str) -> str:
    folded = " ".join(unicodedata.normalize("NFKC", answer).casefold().split())
    return folded.strip(" .$") or folded


def _classes_of_mathematics(prompts: list[list[str | None]], timeout_s: int) -> Classes:
    """Classes of equal text, joined where math-verify finds one answer in two of them; each pair is checked once."""
    by_text = _classes_of_text(prompts)
    pairs = [list(combinations(_one_of_each(names), 2)) for names in by_text]
    different = list(dict.fromkeys(pair for one_prompt in pairs for pair in one_prompt))
    same = dict(zip(different, _same(different, timeout_s)))
    return [_joined(names, [pair for pair in found if same[pair]]) for names, found in zip(by_text, pairs)]


def _one_of_each(names: dict[str, str]) -> list[str]:
    """One answer of each class, in an order that does not hang on the candidates'."""
    return sorted({name: given for given, name in sorted(names.items())}.values())


def _joined(names: dict[str, str], same: list[tuple[str, str]]) -> dict[str, str]:
    parent = {name: name for name in names.values()}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for one, other in same:
        parent[root(names[one])] = root(names[other])
    return {given: root(name) for given, name in names.items()}


def _same(pairs: list[tuple[str, str]], timeout_s: int) -> list[bool]:
    """Whether each pair of answers is the same mathematics; what cannot be read or compared is not."""
    from rmbatch.rewards.rules.math import verdicts_anywhere

    return [score == 1.0 for score, _, _ in verdicts_anywhere(pairs, timeout_s)]
