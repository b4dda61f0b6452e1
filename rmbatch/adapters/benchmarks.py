"""Benchmarks of rewards: candidates in the benchmark's order, and which of them are right.

Sources: hf://datasets/allenai/reward-bench and reward-bench-2 (ODC-BY); github.com/THU-KEG/RM-Bench;
github.com/Zhou-Zoey/RMB-Reward-Model-Benchmark; github.com/ScalerLab/JudgeBench; hf://datasets/lmarena-ai/
PPE-*-Best-of-K; github.com/princeton-nlp/LLMBar (MIT); hf://datasets/Qwen/ProcessBench and
github.com/ssmisya/PRMBench (Apache-2.0). Their metrics are in ``rmbatch/evaluation/``.
"""

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rmbatch.adapters.base import reads
from rmbatch.adapters.columns import TEXTS, TRUTHS, number_of, read_conversations, read_plain, read_text, read_values
from rmbatch.adapters.split import prompt_ids
from rmbatch.rows.messages import text_of

PLACES = pa.large_list(pa.int32())
_PPE_RESPONSES = tuple(f"response_{place}" for place in range(1, 33))
_FIRST_FOLDER = re.compile(r"^(Pairwise_set|BoN_set)/")

Candidates = tuple[list[str | None], list[bool | None]] | None
"""The responses of a row, and which are right; None: the row cannot be read."""


@reads("id", "prompt", "chosen", "rejected", "subset")
def rewardbench(table: pa.Table) -> pa.Table:
    """RewardBench: a pair a row, as text."""
    chosen, rejected = (read_text(table, name).to_pylist() for name in ("chosen", "rejected"))
    found: list[Candidates] = [([*both], [True, False]) for both in zip(chosen, rejected)]
    return _build(table, "prompt", found, id="id", subset="subset")


@reads("id", "prompt", "chosen", "rejected", "subset", "num_correct")
def rewardbench2(table: pa.Table) -> pa.Table:
    """RewardBench 2: right responses, then wrong ones. Ties has ids ref:K and, with several right ones, tied:K."""
    return _build(table, "prompt", _join_lists(table), id="id", subset="subset")


@reads("id", "prompt", "chosen", "rejected", "domain")
def rm_bench(table: pa.Table) -> pa.Table:
    """RM-Bench: three right responses (concise, detailed, detailed in Markdown), then three wrong ones, likewise."""
    return _build(table, "prompt", _join_lists(table), id="id", subset="domain")


@reads("pair_uid", "conversation_input", "chosen", "reject", "category_path")
def rmb_pairs(table: pa.Table) -> pa.Table:
    """RMB's pairs: objects with an answer. ``subset`` is the category, as Helpfulness/Chat/Discussion."""
    found = [
        _join([chosen], [reject]) for chosen, reject in zip(read_values(table, "chosen"), read_values(table, "reject"))
    ]
    return _build(table, "conversation_input", found, id="pair_uid", subset="category_path")


@reads("bon_uid", "conversation_input", "bon_best", "loser_list", "category_path")
def rmb_best_of_n(table: pa.Table) -> pa.Table:
    """RMB's best-of-N lists: the best response first. ``subset`` is the category, as Harmlessness/S1."""
    found = [
        None if not isinstance(losers, list) else _join([best], losers)
        for best, losers in zip(read_values(table, "bon_best"), read_values(table, "loser_list"))
    ]
    return _build(table, "conversation_input", found, id="bon_uid", subset="category_path")


@reads("pair_id", "source", "question", "response_A", "response_B", "label")
def judgebench(table: pa.Table) -> pa.Table:
    """JudgeBench: the label A>B says that the first response is right, B>A the second."""
    sides = {"A>B": [True, False], "B>A": [False, True]}
    found: list[Candidates] = [
        ([a, b], list(sides[label])) if isinstance(label, str) and label in sides else None
        for a, b, label in zip(
            read_text(table, "response_A").to_pylist(),
            read_text(table, "response_B").to_pylist(),
            read_values(table, "label"),
        )
    ]
    return _build(table, "question", found, id="pair_id", subset="source")


@reads("input", "output_1", "output_2", "label")
def llmbar(table: pa.Table) -> pa.Table:
    """LLMBar: the label is 1 or 2. The rows have no ids, and the subsets are the files."""
    sides = {1: [True, False], 2: [False, True]}
    found: list[Candidates] = []
    first, second = (read_text(table, name).to_pylist() for name in ("output_1", "output_2"))
    for one, other, label in zip(first, second, read_values(table, "label")):
        number = number_of(label)
        found.append(([one, other], list(sides[int(number)])) if number in sides else None)
    return _build(table, "input", found)


@reads(
    "question_id",
    "prompt",
    "response_1",
    "response_2",
    "scores",
    optional=("sampled_conflict_pairs", *_PPE_RESPONSES[2:]),
)
def ppe_correctness(table: pa.Table) -> pa.Table:
    """PPE's best-of-K sets: up to 32 responses; ``pairs`` are the sampled ones, a right and a wrong response each.

    ``pairs`` holds places: first, second, first, second, …; null where a pair is none. The subsets are the datasets.
    """
    names = [name for name in _PPE_RESPONSES if name in table.column_names]
    texts = [read_text(table, name).to_pylist() for name in names]
    found: list[Candidates] = []
    for row, scores in zip(zip(*texts), read_values(table, "scores")):
        fits = isinstance(scores, list) and len(scores) == len(row)
        found.append(([*row], [_is_right(score) for score in scores]) if fits else None)
    adapted = _build(table, "prompt", found, id="question_id")
    pairs = [_places(value, len(names)) for value in read_values(table, "sampled_conflict_pairs")]
    return adapted.append_column("pairs", pa.array(pairs, PLACES))


@reads("id", "problem", "steps", "label")
def processbench(table: pa.Table) -> pa.Table:
    """ProcessBench: the label is the first wrong step from 0, -1 for none. ``subset`` begins the id: gsm8k-12."""
    steps, errors = [], []
    for row, label in zip(read_values(table, "steps"), read_values(table, "label")):
        texts, place = _texts(row), number_of(label)
        known = texts is not None and place is not None and place.is_integer() and -1 <= place < len(texts)
        steps.append(texts)
        errors.append(None if not known or place is None else [] if place < 0 else [int(place)])
    ids = read_plain(table, "id")
    subset = pc.replace_substring_regex(ids, r"-[^-]*$", "")
    return _build_steps(table, "problem", steps, errors, ids, subset)


@reads("idx", "modified_question", "modified_process", "error_steps", "classification")
def prmbench(table: pa.Table) -> pa.Table:
    """PRMBench: the changed reasoning; the data number its wrong steps from 1. ``subset`` is the class of errors."""
    steps, errors = [], []
    for row, wrong in zip(read_values(table, "modified_process"), read_values(table, "error_steps")):
        texts = _texts(row)
        places = None if not isinstance(wrong, list) else [number_of(each) for each in wrong]
        known = texts is not None and places is not None and all(_is_place(each, len(texts)) for each in places)
        steps.append(texts)
        errors.append([int(each) - 1 for each in places or [] if each is not None] if known else None)
    return _build_steps(
        table, "modified_question", steps, errors, _prmbench_ids(table), read_plain(table, "classification")
    )


@reads("idx", "original_question", "original_process", "classification")
def prmbench_correct(table: pa.Table) -> pa.Table:
    """PRMBench: the reasoning before it was changed, without a wrong step; ``subset`` is ``correct``."""
    steps = [_texts(row) for row in read_values(table, "original_process")]
    errors: list[list[int] | None] = [[] for _ in steps]
    correct = pa.array(["correct"] * table.num_rows, pa.large_string())
    return _build_steps(table, "original_question", steps, errors, _prmbench_ids(table), correct)


def _build(
    table: pa.Table, prompt: str, found: Sequence[Candidates], id: str | None = None, subset: str | None = None
) -> pa.Table:
    """The standard columns of candidates. ``prompt``, ``id`` and ``subset`` name columns."""
    prompts = read_conversations(table, prompt)
    columns = {
        "prompt": prompts,
        "prompt_id": prompt_ids(prompts),
        "responses": pa.array([None if row is None else row[0] for row in found], TEXTS),
        "correct": pa.array([None if row is None else row[1] for row in found], TRUTHS),
    }
    if id is not None:
        columns["id"] = read_plain(table, id)
    if subset is not None:
        columns["subset"] = pc.replace_substring_regex(read_plain(table, subset), _FIRST_FOLDER.pattern, "")
    return pa.table(columns)


def _build_steps(
    table: pa.Table,
    prompt: str,
    steps: Sequence[list[str] | None],
    errors: Sequence[list[int] | None],
    ids: pa.Array,
    subset: pa.Array,
) -> pa.Table:
    prompts = read_conversations(table, prompt)
    return pa.table(
        {
            "id": ids,
            "prompt": prompts,
            "prompt_id": prompt_ids(prompts),
            "steps": pa.array(steps, TEXTS),
            "error_steps": pa.array(errors, PLACES),
            "subset": subset,
        }
    )


def _join_lists(table: pa.Table) -> list[Candidates]:
    """``chosen`` and ``rejected``, each a list of texts."""
    both = zip(read_values(table, "chosen"), read_values(table, "rejected"))
    return [
        _join(chosen, rejected) if isinstance(chosen, list) and isinstance(rejected, list) else None
        for chosen, rejected in both
    ]


def _join(right: Sequence[Any], wrong: Sequence[Any]) -> Candidates:
    """Right candidates, then wrong ones; an object's text is its answer."""
    texts = [text_of(each.get("answer") if isinstance(each, dict) else each) for each in (*right, *wrong)]
    return texts, [*[True] * len(right), *[False] * len(wrong)]


def _texts(value: Any) -> list[str] | None:
    """A list of texts; None where it is none."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        return None
    return value


def _is_place(number: float | None, size: int) -> bool:
    """Whether it numbers one of so many steps, from 1."""
    return number is not None and number.is_integer() and 1 <= number <= size


def _places(pairs: Any, size: int) -> list[int] | None:
    """The places of pairs one after the other, each one of so many responses; None where a pair is none."""
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        return None
    places = [number_of(place) for pair in pairs for place in pair]
    known = [int(each) for each in places if each is not None and each.is_integer() and 0 <= each < size]
    return known if len(known) == len(places) else None


def _is_right(score: Any) -> bool | None:
    number = float(score) if isinstance(score, bool) else number_of(score)
    return None if number is None else number > 0.5


def _prmbench_ids(table: pa.Table) -> pa.Array:
    """An idx is the same in each class of errors, so the class is part of the id."""
    return pc.binary_join_element_wise(
        read_plain(table, "classification"), read_plain(table, "idx"), pa.scalar("_", pa.large_string())
    )
