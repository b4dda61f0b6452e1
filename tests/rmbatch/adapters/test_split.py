"""Splits by prompts: no prompt in both parts, whatever the order, the cut and the shape of the rows."""

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.errors import UserError
from rmbatch.adapters.split import prompt_ids, validation_mask
from rmbatch.rows.messages import MESSAGES
from tests.rmbatch.adapters.published import SYSTEM, said

TEXTS = st.text("aB \n", max_size=4)


def mask(prompts: list[object], **settings: object) -> list[bool]:
    return validation_mask(pa.table({"prompt": pa.array(prompts)}), **{"share": 0.5, **settings}).to_pylist()  # type: ignore[arg-type]


@given(prompts=st.lists(TEXTS | st.none(), min_size=1), seed=st.integers(0, 5), data=st.data())
def test_part_depends_on_the_prompt_alone(prompts: list[str | None], seed: int, data: st.DataObject) -> None:
    found = mask([*prompts, "last"], seed=seed)
    order = data.draw(st.permutations(range(len(prompts))))
    assert mask([*(prompts[place] for place in order), "last"], seed=seed)[:-1] == [found[place] for place in order]
    by_prompt: dict[str, set[bool]] = {}
    for prompt, part in zip(prompts, found):
        by_prompt.setdefault(" ".join((prompt or "").casefold().split()), set()).add(part)
    assert all(len(parts) == 1 for parts in by_prompt.values())
    assert not any(part for prompt, part in zip(prompts, found) if prompt is None or not prompt.strip())


def test_share_is_met_on_average() -> None:
    prompts: list[object] = [f"prompt {place}" for place in range(20_000)]
    for share in (0.1, 0.5):
        found = np.mean(mask(prompts, share=share, seed=3))
        assert abs(found - share) < 4 * (share * (1 - share) / len(prompts)) ** 0.5


def test_share_grows_without_moving_prompts() -> None:
    prompts: list[object] = [f"prompt {place}" for place in range(500)]
    small, large = np.array(mask(prompts, share=0.1)), np.array(mask(prompts, share=0.3))
    assert (large >= small).all()
    assert large.sum() > small.sum()


def test_another_seed_draws_other_prompts() -> None:
    prompts: list[object] = [f"prompt {place}" for place in range(100)]
    assert mask(prompts, seed=1) != mask(prompts, seed=2)


def test_turns_of_one_conversation_stay_together() -> None:
    """Datasets such as HH hold a dialogue once for each of its turns."""
    for place in range(50):
        rows = [
            said(f"question {place}"),
            said(f"question {place}", "answer", "more"),
            [SYSTEM, *said(f" QUESTION  {place}")],
        ]
        assert len(set(mask([*rows]))) == 1


def test_text_and_messages_are_split_alike() -> None:
    texts: list[object] = [f"prompt {place}" for place in range(50)]
    assert mask(texts) == mask([said(str(text)) for text in texts])


@pytest.mark.parametrize("values", [[1, 2, 3], [True, False, None], [1.5, None, 2.5]])
def test_any_column_may_be_the_key(values: list[object]) -> None:
    assert len(mask(values)) == 3


def test_missing_column_names_the_nearest() -> None:
    with pytest.raises(UserError, match="split: no column 'promt'; did you mean 'prompt'"):
        validation_mask(pa.table({"prompt": ["a"]}), by="promt")


def test_prompt_ids_are_equal_for_equal_conversations() -> None:
    prompts = pa.array([said("a"), said("a"), [SYSTEM, *said("a")], said("A"), None, []], MESSAGES)
    found = prompt_ids(prompts).to_pylist()
    assert found[0] == found[1]
    assert len(set(found)) == 5
    assert found[4] is None


def test_no_prompt_of_shuffled_rows_is_in_both_parts() -> None:
    draw = random.Random(0)
    prompts: list[object] = [f"prompt {draw.randrange(60)}" for _ in range(1000)]
    found = mask(prompts, share=0.2)
    parts = [{prompt for prompt, each in zip(prompts, found) if each == part} for part in (True, False)]
    assert not parts[0] & parts[1]
    assert parts[0]
