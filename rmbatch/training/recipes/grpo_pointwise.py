"""A judge of single responses, trained on ratings: the nearer its score to the rating, the higher its reward."""

from typing import Any

import pyarrow as pa

from connectors.errors import UserError
from rmbatch.judges import form
from rmbatch.judges.kinds.base import JudgeKind
from rmbatch.judges.kinds.pointwise import Pointwise
from rmbatch.rows.roles import Roles
from rmbatch.training.recipe import read_numbers, read_texts
from rmbatch.training.recipes.grpo import Grpo, Judged, responses_of
from rmbatch.training.spec import TrainSpec


class GrpoPointwise(Grpo):
    """Rows with a response and its label."""

    judge_kind = "pointwise"
    truth_kind = "scale"
    columns = ("response", "label")
    noun = "ratings"

    def __init__(self, name: str, base: str, train: TrainSpec, judge: JudgeKind | None) -> None:
        super().__init__(name, base, train, judge)
        assert isinstance(judge, Pointwise)
        if judge.score != "scale":
            raise UserError("judge.score: ratings train a judge that gives a number; write scale")
        low, high = judge.scale
        self._form: dict[str, Any] = {"low": low, "high": high, "whole": judge.whole, "critique": judge.critique}

    def judge_rows(self, table: pa.Table, roles: Roles, prompts: pa.Array) -> list[list[Judged]]:
        texts = read_texts(table, roles, "response").to_pylist()
        labels = read_numbers(table, roles, "label").to_pylist()
        responses = responses_of(prompts, texts)
        return [[self._judge_row(responses, place, label)] for place, label in enumerate(labels)]

    def _judge_row(self, responses: Any, place: int, label: float | None) -> Judged:
        missing = responses.find_missing(place)
        if missing is not None:
            return Judged(fault=missing.error.partition(":")[0])
        if label is None:
            return Judged(fault="label_missing")
        if not self._form["low"] <= label <= self._form["high"]:
            return Judged(fault="label_off_the_scale")
        text = str(responses.responses[place])
        verdict = form.scale(**self._form)
        question = self.writer.write(verdict, responses.template_variables(place), 1, [text], response=text)
        return Judged(question, label, self._form)
