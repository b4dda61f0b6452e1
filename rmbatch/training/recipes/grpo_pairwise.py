"""A judge of two responses, trained on preferences. Each pair is a row in both orders, so that no place pays.

Pairs stand in ``chosen`` and ``rejected``, or in ``responses`` (two of them) and ``preference`` (negative: the first is
better, 0: a tie).
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from connectors.errors import UserError
from rmbatch.judges import form
from rmbatch.judges.kinds.base import JudgeKind
from rmbatch.judges.kinds.pairwise import Pairwise
from rmbatch.rows.roles import Roles, flatten
from rmbatch.training.recipe import read_numbers, read_texts
from rmbatch.training.recipes.grpo import Grpo, Judged, responses_of
from rmbatch.training.spec import TrainSpec

_OTHER = {"A": "B", "B": "A", "tie": "tie"}


class GrpoPairwise(Grpo):
    """Rows with two responses, and which is better."""

    judge_kind = "pairwise"
    truth_kind = "better"
    columns = ("chosen", "rejected", "responses", "preference")
    noun = "comparisons"

    def __init__(self, name: str, base: str, train: TrainSpec, judge: JudgeKind | None) -> None:
        super().__init__(name, base, train, judge)
        assert isinstance(judge, Pairwise)
        self._form: dict[str, Any] = {"ties": judge.ties, "critique": judge.critique}

    def judge_rows(self, table: pa.Table, roles: Roles, prompts: pa.Array) -> list[list[Judged]]:
        pairs = _read_pairs(table, roles)
        responses = responses_of(prompts, ["" for _ in pairs])
        return [self._judge_pair(responses, place, *pair) for place, pair in enumerate(pairs)]

    def _judge_pair(
        self, responses: Any, place: int, first: str | None, second: str | None, better: str | None
    ) -> list[Judged]:
        missing = responses.find_missing(place)
        if missing is not None:
            return [Judged(fault=missing.error.partition(":")[0])]
        if first is None or second is None:
            return [Judged(fault="response_missing")]
        if first == second:
            return [Judged(fault="equal_answers")]
        if better is None:
            return [Judged(fault="preference_missing")]
        if better == "tie" and not self._form["ties"]:
            return [Judged(fault="tie_without_judge_ties")]
        seen, verdict = responses.template_variables(place), form.better_of_two(**self._form)
        both = [first, second]
        return [
            Judged(self.writer.write(verdict, seen, 1, both, response_a=a, response_b=b), label, self._form)
            for a, b, label in ((first, second, better), (second, first, _OTHER[better]))
        ]


def _read_pairs(table: pa.Table, roles: Roles) -> Sequence[tuple[str | None, str | None, str | None]]:
    """Of each row the two responses, and which is better: A, B or tie; None: unknown."""
    if "preference" in table.column_names or "preference" in roles.extra:
        if roles.responses is None:
            raise UserError("no column plays the role 'responses'; input.columns.responses names the two responses")
        view = flatten(table, Roles(responses=roles.responses))
        texts, offsets = view.column("response").to_pylist(), view.offsets
        assert offsets is not None
        found: list[tuple[str | None, str | None, str | None]] = []
        for row, preference in enumerate(read_numbers(table, roles, "preference").to_pylist()):
            two = texts[offsets[row] : offsets[row + 1]]
            first, second = two if len(two) == 2 else (None, None)
            better = None if preference is None else "tie" if preference == 0 else "A" if preference < 0 else "B"
            found.append((first, second, better))
        return found
    chosen, rejected = (read_texts(table, roles, name).to_pylist() for name in ("chosen", "rejected"))
    return [(good, bad, "A") for good, bad in zip(chosen, rejected, strict=True)]
