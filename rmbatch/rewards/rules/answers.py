"""Which responses to a prompt give the same answer: as normalised text, or as mathematics by math-verify (``math.py``).

answers = find_answers(response, "boxed")                  # "" where there is none, None for a null
answer_classes(answers, offsets, "math", timeout_s=5)      # for each prompt, the name of the class of each answer
"""

import re
import unicodedata
from itertools import combinations, pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from rmbatch.rewards.rules.format import find_between
from rmbatch.rewards.rules.texts import map_texts

Offsets = np.ndarray[Any, np.dtype[np.int64]]
Answer = Literal["whole", "last_line", "boxed", "answer_tag"]
Equal = Literal["text", "math"]
Classes = list[dict[str, str]]
"""For each prompt, the name of the class of each answer: answers are the same if their classes are."""


def number_answers(response: pa.Array, offsets: Offsets, answer: Answer, equal: Equal, timeout_s: int) -> pa.Array:
    """A number for each candidate's answer, int64[n]; equal within a prompt just where the answers are. Null: none.

    response[n] text, the candidates of prompt i at offsets[i]:offsets[i + 1]. ``answer``, ``equal``, ``timeout_s`` as
    in ``majority_vote``.
    """
    answers = find_answers(response, answer)
    numbers: dict[tuple[int, str], int] = {}
    found: list[int | None] = []
    for prompt, (names, given) in enumerate(
        zip(answer_classes(answers, offsets, equal, timeout_s), _of_prompts(answers, offsets))
    ):
        found += [numbers.setdefault((prompt, names[each]), len(numbers)) if each else None for each in given]
    return pa.array(found, pa.int64())


def answer_classes(answers: list[str | None], offsets: Offsets, equal: Equal, timeout_s: int) -> Classes:
    """The classes of the answers of each prompt; sameness is closed over chains, so the order does not matter."""
    prompts = _of_prompts(answers, offsets)
    return _text_classes(prompts) if equal == "text" else _math_classes(prompts, timeout_s)


def _of_prompts(answers: list[str | None], offsets: Offsets) -> list[list[str | None]]:
    return [answers[start:end] for start, end in pairwise(offsets.tolist())]


def find_answers(response: pa.Array, where: Answer) -> list[str | None]:
    """The answer that each response gives: "" where it gives none, None for a null."""
    return map_texts(response, lambda text: _find_answer(text, where))


def _find_answer(text: str, where: Answer) -> str:
    """The answer that a response gives, "" for none."""
    if where == "boxed":
        return _find_last_boxed(text)
    if where == "answer_tag":
        return next(reversed(find_between(text, "<answer>", "</answer>")), "").strip()
    text = text.strip()
    return text.rsplit("\n", 1)[-1].strip() if where == "last_line" else text


def _find_last_boxed(text: str) -> str:
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


def _text_classes(prompts: list[list[str | None]]) -> Classes:
    return [{given: _normalise(given) for given in filter(None, answers)} for answers in prompts]


def _normalise(answer: str) -> str:
    folded = " ".join(unicodedata.normalize("NFC", "".join(map(_fold, answer))).casefold().split())
    return folded.lstrip(" $").rstrip(" .$") or folded  # a point at the beginning is that of .5


def _fold(letter: str) -> str:
    """The letter in NFKC, where that says the same: 10² would be 102, and 1½ would be 11/2."""
    small = unicodedata.decomposition(letter).startswith(("<super>", "<sub>", "<fraction>"))
    return letter if small else unicodedata.normalize("NFKC", letter)


def _math_classes(prompts: list[list[str | None]], timeout_s: int) -> Classes:
    """Classes of equal text, joined where math-verify finds one answer in two of them; each pair is checked once."""
    by_text = _text_classes(prompts)
    pairs = [list(combinations(_representatives(names), 2)) for names in by_text]
    different = list(dict.fromkeys(pair for one_prompt in pairs for pair in one_prompt))
    same = dict(zip(different, _compare_as_math(different, timeout_s)))
    return [_join_classes(names, [pair for pair in found if same[pair]]) for names, found in zip(by_text, pairs)]


def _representatives(names: dict[str, str]) -> list[str]:
    """One answer of each class, in an order that does not depend on the order of the candidates."""
    return sorted({name: given for given, name in sorted(names.items())}.values())


def _join_classes(names: dict[str, str], same: list[tuple[str, str]]) -> dict[str, str]:
    parent = {name: name for name in names.values()}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for one, other in same:
        parent[root(names[one])] = root(names[other])
    return {given: root(name) for given, name in names.items()}


def _compare_as_math(pairs: list[tuple[str, str]], timeout_s: int) -> list[bool]:
    """Whether math-verify finds each pair of answers equal; a pair that it cannot read or compare is not."""
    from rmbatch.rewards.rules.math import compare_on_any_thread

    return [score == 1.0 for score, _, _ in compare_on_any_thread(pairs, timeout_s)]
