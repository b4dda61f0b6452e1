"""A judge of the steps of a solution, trained to find the first wrong one.

Source: FAPO, arXiv 2510.22543, whose critic is rewarded by the distance to the first wrong step; ProcessBench,
arXiv 2412.06559, for the task.
"""

from typing import Any

import pyarrow as pa

from connectors.errors import UserError
from rmbatch.judges import form
from rmbatch.judges.kinds.base import JudgeKind
from rmbatch.judges.kinds.stepwise import Stepwise, split_steps
from rmbatch.rows.messages import is_list
from rmbatch.rows.roles import Roles
from rmbatch.training.recipe import find_column
from rmbatch.training.recipes.grpo import Grpo, Judged, responses_of
from rmbatch.training.spec import TrainSpec


class GrpoFirstError(Grpo):
    """Rows with steps, and which of them are wrong."""

    judge_kind = "stepwise"
    truth_kind = "steps"
    columns = ("steps", "error_steps")
    noun = "solutions"

    def __init__(self, name: str, base: str, train: TrainSpec, judge: JudgeKind | None) -> None:
        super().__init__(name, base, train, judge)
        assert isinstance(judge, Stepwise)
        low, high = judge.scale
        self._form: dict[str, Any] = {"low": low, "high": high, "whole": judge.whole, "critique": judge.critique}
        self._joint = "\n\n" if judge.split == "paragraphs" else "\n"
        self._split = judge.split

    def judge_rows(self, table: pa.Table, roles: Roles, prompts: pa.Array) -> list[list[Judged]]:
        steps = _read_lists(table, roles, "steps")
        wrong = _read_lists(table, roles, "error_steps")
        # a judge splits a response again, so each step is made one paragraph or line
        texts = [None if each is None else self._join(each) for each in steps]
        responses = responses_of(prompts, texts)
        return [[self._judge_row(responses, place, wrong[place], steps[place])] for place in range(len(texts))]

    def _join(self, steps: list[str | None]) -> str | None:
        if any(step is None or not step.strip() for step in steps):
            return None
        joint = " " if self._joint == "\n" else "\n"
        return self._joint.join(joint.join(split_steps(str(step), self._split)) for step in steps)

    def _judge_row(self, responses: Any, place: int, wrong: list[int] | None, steps: list[str] | None) -> Judged:
        missing = responses.find_missing(place)
        if missing is not None:
            return Judged(fault=missing.error.partition(":")[0])
        if wrong is None:
            return Judged(fault="error_steps_missing")
        text = str(responses.responses[place])
        found = split_steps(text, self._split)
        assert steps is not None
        if not found or len(found) != len(steps):
            return Judged(fault="no_steps")
        first = min(wrong, default=-1)
        if not -1 <= first < len(found) or (wrong and first < 0):
            return Judged(fault="error_step_out_of_range")
        settings = {"num_steps": len(found), **self._form}
        verdict = form.numbers_of_steps(**settings)
        seen = responses.template_variables(place)
        question = self.writer.write(verdict, seen, 1, [text], response=text, steps=found)
        return Judged(question, first, settings)


def _read_lists(table: pa.Table, roles: Roles, name: str) -> list[list[Any] | None]:
    column = find_column(table, roles, name)
    if not is_list(table.schema.field(column).type):
        kind = table.schema.field(column).type
        raise UserError(f"column {column!r} is {kind}; input.columns.{name} names a column of lists")
    values: list[list[Any] | None] = table[column].to_pylist()
    return values
