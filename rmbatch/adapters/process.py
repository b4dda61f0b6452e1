"""Reasoning in steps, and which of them are wrong: for process reward models and for finding the first error.

Sources: hf://datasets/peiyi9979/Math-Shepherd (arXiv 2312.08935), github.com/openai/prm800k (MIT, 2305.20050),
github.com/WHGTyen/BIG-Bench-Mistake (Apache-2.0, 2311.08516); TRL's stepwise form (trl-lib/prm800k).
"""

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from rmbatch.adapters.base import reads
from rmbatch.adapters.columns import TEXTS, number_of, read_plain, read_text, read_values
from rmbatch.adapters.split import prompt_ids
from rmbatch.rows.messages import TEXT, prompt_messages, text_of

PLACES = pa.large_list(pa.int32())
_STEP_TAG = "ки"
_FIRST_STEP = re.compile(r"[Ss]tep 1:")


@reads("input", "steps", "mistake_index", optional=("answer", "target"))
def bigbench_mistake(table: pa.Table) -> pa.Table:
    """BIG-Bench-Mistake: ``error_steps`` is the first wrong step alone; none where mistake_index is null.

    ``reference`` is the true answer, ``answer`` what the steps come to.
    """
    steps = [_texts_of(value) for value in read_values(table, "steps")]
    errors: list[list[int] | None] = []
    for row, index in zip(steps, read_values(table, "mistake_index")):
        place = number_of(index)
        if row is None or (index is not None and not _is_place(place, row)):
            errors.append(None)
        else:
            errors.append([] if place is None else [int(place)])
    adapted = _step_table(read_text(table, "input"), steps, errors)
    adapted = adapted.append_column("reference", read_plain(table, "target"))
    return adapted.append_column("answer", read_plain(table, "answer"))


@reads("prompt", "completions", "labels")
def stepwise(table: pa.Table) -> pa.Table:
    """TRL's stepwise form: ``completions`` are the steps, ``labels`` whether each is right."""
    steps = [_texts_of(value) for value in read_values(table, "completions")]
    errors = [_find_wrong(row, labels) for row, labels in zip(steps, read_values(table, "labels"))]
    return _step_table(read_text(table, "prompt"), steps, errors)


@reads("input", "label", optional=("task",))
def math_shepherd(table: pa.Table) -> pa.Table:
    """Math-Shepherd: the text of ``input`` up to "Step 1:", else up to its last "?", is the prompt.

    Each step ends with the tag. ``label`` is the same text with + or - in place of each tag; a row whose two texts
    differ otherwise has no labels. ``subset`` is the task.
    """
    found = [
        _read_shepherd(*both) for both in zip(*(read_text(table, name).to_pylist() for name in ("input", "label")))
    ]
    prompts = pa.array([prompt for prompt, _, _ in found], TEXT)
    adapted = _step_table(prompts, [steps for _, steps, _ in found], [errors for _, _, errors in found])
    return adapted.append_column("subset", read_plain(table, "task"))


@reads("question", "label")
def prm800k(table: pa.Table) -> pa.Table:
    """PRM800K as OpenAI published it: of each step the completion that was chosen, else the first one.

    Ratings are -1 (wrong), 0 (no progress, and not wrong; TRL's copy counts it as wrong) and 1; what a person wrote is
    right. A step without a rating leaves ``error_steps`` unknown. ``reference`` is the true answer.
    """
    questions = [value if isinstance(value, dict) else {} for value in read_values(table, "question")]
    found = [_read_prm800k(value) for value in read_values(table, "label")]
    prompts = pa.array([_text_or_none(each.get("problem")) for each in questions], TEXT)
    adapted = _step_table(prompts, [steps for steps, _ in found], [errors for _, errors in found])
    answers = [text_of(each.get("ground_truth_answer")) for each in questions]
    return adapted.append_column("reference", pa.array(answers, TEXT))


def _step_table(prompts: pa.Array, steps: Sequence[list[str] | None], errors: Sequence[list[int] | None]) -> pa.Table:
    messages = prompt_messages(prompts)
    return pa.table(
        {
            "prompt": messages,
            "prompt_id": prompt_ids(messages),
            "steps": pa.array(steps, TEXTS),
            "error_steps": pa.array(errors, PLACES),
        }
    )


def _texts_of(value: Any) -> list[str] | None:
    """Steps; None where there are none, or one of them is no text."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        return None
    return value


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _is_place(place: float | None, steps: Sequence[str]) -> bool:
    return place is not None and place == int(place) and 0 <= place < len(steps)


def _find_wrong(steps: Sequence[str] | None, labels: Any) -> list[int] | None:
    """The places of wrong steps; None where not every step has a label."""
    if steps is None or not isinstance(labels, list) or len(labels) != len(steps):
        return None
    truths = [bool(each) if isinstance(each, bool | int) and each in (0, 1) else None for each in labels]
    return None if None in truths else [place for place, truth in enumerate(truths) if not truth]


def _read_shepherd(text: str | None, label: str | None) -> tuple[str | None, list[str] | None, list[int] | None]:
    """The prompt, the steps and the wrong ones. A tag inside the prompt, as some rows have, marks no step."""
    if text is None:
        return None, None, None
    parts = text.split(_STEP_TAG)
    first = _FIRST_STEP.search(parts[0])
    is_in_prompt = first is None and len(parts) > 1 and _FIRST_STEP.search(parts[1]) is not None
    if first is not None:
        cut = first.start()
    else:
        cut = len(parts[0]) if is_in_prompt else parts[0].rfind("?") + 1
    if not cut:
        return None, None, None
    if len(parts) == 1:
        return text[:cut].strip() or None, None, None
    steps = [parts[0][cut:], *parts[1:-1]][1 if is_in_prompt else 0 :]
    signs = _read_signs(parts, label)
    marks = None if signs is None else signs[1 if is_in_prompt else 0 :]
    errors = None if marks is None else [place for place, sign in enumerate(marks) if sign == "-"]
    return parts[0][:cut].strip() or None, [step.strip() for step in steps], errors


def _read_signs(parts: Sequence[str], label: str | None) -> list[str] | None:
    """The sign that stands in ``label`` in place of each tag between the parts; None where it is another text."""
    if label is None:
        return None
    place, signs = 0, []
    *ended, rest = parts
    for part in ended:
        if not label.startswith(part, place):
            return None
        place += len(part)
        signs.append(label[place : place + 1])
        place += 1
    return signs if label[place:].strip() == rest.strip() and set(signs) <= {"+", "-"} else None


def _read_prm800k(label: Any) -> tuple[list[str] | None, list[int] | None]:
    given = label.get("steps") if isinstance(label, dict) else None
    if not isinstance(given, list):
        return None, None
    found = [_choose_completion(each) for each in given]
    while found and found[-1] == (None, None):  # some examples end with a step that has nothing
        found.pop()
    steps, ratings = [text for text, _ in found], [rating for _, rating in found]
    known = [text for text in steps if text is not None]
    if len(known) < len(steps):
        return None, None
    return known, None if None in ratings else [place for place, rating in enumerate(ratings) if rating == -1]


def _choose_completion(step: Any) -> tuple[str | None, float | None]:
    """The text and rating of a step: a person's own, which has no rating and is right, else one of the model's."""
    if not isinstance(step, dict):
        return None, None
    own = step.get("human_completion")
    chosen = number_of(step.get("chosen_completion"))
    completions = step.get("completions")
    if chosen is None and own is not None:
        return _text_or_none(own.get("text") if isinstance(own, dict) else own), 1.0
    if not isinstance(completions, list) or not completions:
        return None, None
    place = int(chosen) if chosen is not None and 0 <= chosen < len(completions) else 0
    found = completions[place] if isinstance(completions[place], dict) else {}
    return _text_or_none(found.get("text")), number_of(found.get("rating"))
