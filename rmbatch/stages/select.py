"""Chooses the best candidates of each prompt and says of every other why it was not chosen.

Nested rows (a list of candidates) stay whole: a row is kept if at least one of its candidates is, with
``select.rank`` and ``select.reason`` as lists aligned with the candidates, and the winner as ``select.response`` and
``select.score``. Of flat rows each is a candidate: it is kept with its rank, or rejected with its reason.
The choice itself is ``rmbatch/selection/``.

    stage = SelectStage(ChoiceRule(keep=1), by="total", roles=roles)
    chosen = stage(scored)          # with the hidden column OUTCOME, by which the writer routes the rows
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.errors import UserError
from connectors.groups import group_offsets
from connectors.schema import KEPT, ORIGIN_ROW, OUTCOME, REJECTED
from rmbatch.generation.candidates import GENERATION
from rmbatch.rewards.totals import CombineRule, weighted_sum
from rmbatch.rows.messages import MisfitError, combine_chunks, fit_lists, is_list
from rmbatch.rows.roles import FlatView, Roles, flatten
from rmbatch.selection.choose import CUT_OFF, ChoiceRule, choose
from rmbatch.settings.names import nearest
from rmbatch.stages.base import Needs, add_fields
from rmbatch.stages.select_control import CONTROL_TYPE, compare, count_control, sum_by_row
from rmbatch.stages.tally import count_choices

RANK, REASON = "select.rank", "select.reason"
RESPONSE, SCORE = "select.response", "select.score"
VALUE, RANDOM, CONTROL = "select.value", "select.random", "select.control"


@dataclass(frozen=True)
class ControlRule:
    """What a selection is compared with."""

    measure: str | None = None
    """The score by which all are compared. None: the one that the selection goes by."""
    seed: int = 0
    """Of the random pick."""


@dataclass(frozen=True)
class SelectStage:
    """A rule, and the scores that it reads."""

    rule: ChoiceRule
    by: str | CombineRule
    """Name of the score, as in ``score.<by>``, or weights of several."""
    roles: Roles
    group: str | None = None
    """Key column of flat rows, whose groups are whole in every table."""
    keep_cut_off: bool = False
    """Whether a generated candidate that was cut off may be kept."""
    control: ControlRule | None = None
    """None: nothing is compared."""
    replaces: bool = False
    """Whether columns of an earlier selection are written anew. False: they are refused."""

    @property
    def scores(self) -> list[str]:
        """The names of the scores that it reads."""
        by = [self.by] if isinstance(self.by, str) else list(self.by.weights)
        measure = self.control.measure if self.control else None
        return list(dict.fromkeys([*by, *self.rule.other_scores, *([measure] if measure else [])]))

    def reads(self) -> dict[str, tuple[str, ...]]:
        """Nothing that people have to be told: the score is named in the job."""
        return {}

    def columns(self, schema: pa.Schema) -> set[str]:
        """The columns of the candidates, which its choice is written for, and what the choice reads."""
        several = self.roles.responses if isinstance(self.roles.responses, tuple) else (self.roles.responses,)
        details = [GENERATION] if self._sees_generation(schema) else []
        source = [self.rule.cap.by.partition(".")[0], self.rule.cap.by] if self.rule.cap else []
        scores = [f"score.{name}" for name in self.scores]
        return {name for name in (self.roles.response, *several, *details, *source, *scores) if name in schema.names}

    def check(self, schema: pa.Schema) -> None:
        """Raises UserError for a score or a source that is not there or of another shape than the candidates."""
        known = [name.removeprefix("score.") for name in schema.names if name.startswith("score.")]
        for name in self.scores:
            if name not in known:
                raise UserError(f"select: no score is called {name!r}; {nearest(name, known)}")
            kind = schema.field(f"score.{name}").type
            nested = is_list(kind)
            if nested != (self.roles.responses is not None):
                shape = "lists, and the rows hold one response each" if nested else "no lists, and the responses are"
                raise UserError(f"select: the values of 'score.{name}' are {shape}; set input.columns.responses")
            value = kind.value_type if nested else kind
            if not (pa.types.is_floating(value) or pa.types.is_integer(value) or pa.types.is_null(value)):
                raise UserError(f"select: 'score.{name}' holds {value}, and a score is a number")
        if self.roles.response is None and self.roles.responses is None and (read_by := self.rule.reads_texts()):
            raise UserError(f"select.{read_by} reads the responses, and no column holds them: input.columns.response")
        if self.rule.cap is not None:
            source = self._source(schema.empty_table(), *_candidates(schema.empty_table(), self.roles, self.group))
            if pa.types.is_nested(source.type):
                raise UserError(
                    f"select.cap.by: {self.rule.cap.by!r} holds {source.type}, and a source is a plain value"
                )

    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def flush(self) -> None:
        """Nothing is kept back."""

    def output_schema(self, schema: pa.Schema) -> pa.Schema:
        """The columns after this stage; raises UserError where one of them is there already."""
        added = self._added()
        if self.replaces:
            played = next((name for name in self.roles.columns() if name in added), None)
            if played is not None:
                raise UserError(f"the input's column {played!r} plays a role and is written anew; rename it")
            fields = [pa.field(each.name, added.get(each.name, each.type), metadata=each.metadata) for each in schema]
            schema, added = pa.schema(fields), {name: kind for name, kind in added.items() if name not in schema.names}
        return add_fields(schema, added)

    def _added(self) -> dict[str, pa.DataType]:
        per_candidate: dict[str, pa.DataType] = {RANK: pa.int32(), REASON: pa.string()}
        if self._has_value:
            per_candidate[VALUE] = pa.float64()
        if self.control is not None:
            per_candidate[RANDOM] = pa.bool_()
        control = {} if self.control is None else {CONTROL: CONTROL_TYPE}
        if self.roles.responses is None:
            return per_candidate | control
        lists = {name: pa.list_(kind) for name, kind in per_candidate.items()}
        return {**lists, RESPONSE: pa.string(), SCORE: pa.float64(), **control}

    @property
    def _has_value(self) -> bool:
        """Whether candidates are ranked by something that no column holds."""
        return not isinstance(self.by, str) or self.rule.length_control != "none"

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with the choice and its reasons added, and OUTCOME set."""
        view, offsets = _candidates(table, self.roles, self.group)
        stored = {name: view.column(f"score.{name}").cast(pa.float64()) for name in self.scores}
        score = stored[self.by] if isinstance(self.by, str) else weighted_sum(stored, self.by)[0]
        response = view.column("response") if view.has("response") else None
        cut_off = self._find_cut_off(table, offsets)
        source = None if self.rule.cap is None else self._source(table, view, offsets)
        answer = None
        if self.rule.vote is not None and response is not None:
            from rmbatch.rewards.rules.answers import number_answers  # which imports what only rules need

            vote = self.rule.vote
            answer = number_answers(response, offsets, vote.answer, vote.equal, vote.timeout_s)
        chosen = choose(
            score, offsets, self.rule, response, others=stored, source=source, cut_off=cut_off, answer=answer
        )
        added = {RANK: view.nest(chosen.rank), REASON: view.nest(chosen.reason)}
        value = pa.array(chosen.value, mask=np.isnan(chosen.value))
        if self._has_value:
            added[VALUE] = view.nest(value)
        if view.offsets is None:
            kept = np.asarray(chosen.rank.is_valid())
        else:
            winner, kept = _winners(chosen.rank, offsets)
            texts = pa.nulls(len(score), pa.string()) if response is None else response
            added[RESPONSE] = pc.cast(texts.take(winner), pa.string())
            added[SCORE] = value.take(winner)
        if self.control is not None:
            measure = stored[self.control.measure] if self.control.measure else score
            address = _addresses(table, None if view.offsets is not None else offsets)
            picked, sums = compare(chosen, measure, cut_off, offsets, address, self.control.seed)
            added |= {RANDOM: view.nest(picked), CONTROL: sums if view.offsets is None else sum_by_row(sums, offsets)}
        if self.replaces:
            table = table.drop_columns([name for name in added if name in table.column_names])
        for name, column in added.items():
            table = table.append_column(name, column)
        outcome = np.where(kept, KEPT, REJECTED).astype(np.int8)
        return table.append_column(OUTCOME, pa.array(outcome))

    def _source(self, table: pa.Table, view: FlatView, offsets: np.ndarray) -> pa.Array:
        """The source of each candidate, for the cap. Raises UserError where there is no such column."""
        assert self.rule.cap is not None
        by = self.rule.cap.by
        name, _, part = (by, "", "") if by in table.column_names else by.partition(".")
        if name not in table.column_names:
            raise UserError(f"select.cap.by: no column {name!r}; {nearest(name, table.column_names)}")
        column = combine_chunks(table[name])
        if view.offsets is not None and is_list(column.type):
            try:
                column = fit_lists(column, offsets)
            except MisfitError:
                message = f"select.cap.by: the lists in {name!r} are not as long as those of the candidates"
                raise UserError(message) from None
        elif view.offsets is not None:
            column = column.take(pa.array(np.repeat(np.arange(len(column)), np.diff(offsets))))
        if not part:
            return column
        if not pa.types.is_struct(column.type) or column.type.get_field_index(part) < 0:
            raise UserError(f"select.cap.by: {name!r} has no field {part!r}; name another column")
        return pc.struct_field(column, part)

    def _sees_generation(self, schema: pa.Schema) -> bool:
        """Whether it looks at how each candidate was generated."""
        return not self.keep_cut_off and sees_generation(self.roles, schema)

    def _find_cut_off(self, table: pa.Table, offsets: np.ndarray) -> pa.Array | None:
        """Which candidates were cut off. None: the rows do not say. Raises UserError for lists of other lengths."""
        if self.keep_cut_off:
            return None
        return find_cut_off(table, self.roles, offsets, "rename the column, or set select.cut_off: keep")

    def tally(self, table: pa.Table) -> Counter[str]:
        """Candidates that were kept, and the others by the reason."""
        reasons, ranks = table[REASON], table[RANK]
        if pa.types.is_list(reasons.type):
            reasons, ranks = pc.list_flatten(reasons), pc.list_flatten(ranks)
        counted = {item["values"]: item["counts"] for item in pc.value_counts(reasons.drop_null()).to_pylist()}
        counts = count_choices(len(ranks.drop_null()), counted)
        if self.control is not None:
            counts.update(count_control(combine_chunks(table[CONTROL])))
        return counts


def sees_generation(roles: Roles, schema: pa.Schema) -> bool:
    """Whether the rows say of their candidates how each was generated."""
    if not isinstance(roles.responses, str) or GENERATION not in schema.names:
        return False
    kind = schema.field(GENERATION).type
    return is_list(kind) and pa.types.is_struct(kind.value_type) and kind.value_type.get_field_index("error") >= 0


def find_cut_off(table: pa.Table, roles: Roles, offsets: np.ndarray, cure: str) -> pa.Array | None:
    """Which candidates were cut off. None: the rows do not say. Raises UserError for lists of other lengths."""
    if not sees_generation(roles, table.schema):
        return None
    try:
        details = fit_lists(combine_chunks(table[GENERATION]), offsets)
    except MisfitError:
        raise UserError(
            f"the lists in {GENERATION!r} are not as long as those in {roles.responses!r}, so they do not say "
            f"which candidates were cut off; {cure}"
        ) from None
    errors = pc.cast(pc.struct_field(details, "error"), pa.string())  # all null, JSONL gives them no type
    return pc.fill_null(pc.starts_with(errors, f"{CUT_OFF}:"), False)


def _candidates(table: pa.Table, roles: Roles, group: str | None) -> tuple[FlatView, np.ndarray]:
    """The candidates of a table, and where each prompt's begin: from its lists, or from its runs of equal keys."""
    view = flatten(table, roles)
    if view.offsets is not None:
        return view, view.offsets
    if group is None:
        raise UserError("flat rows have no prompts to choose within; name a group column in input.group.by")
    return view, group_offsets(table, group)


def _addresses(table: pa.Table, groups: np.ndarray | None) -> np.ndarray | None:
    """What stands for each prompt in a random draw: the place in its file, of its first row. None: unknown."""
    if ORIGIN_ROW not in table.column_names:
        return None
    rows: np.ndarray = table[ORIGIN_ROW].to_numpy()
    return rows if groups is None else rows[np.minimum(groups[:-1], len(rows) - 1)]


def _winners(rank: pa.Array, offsets: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """For each prompt the index of its best candidate (null if none is kept), and whether there is one."""
    num_prompts = len(offsets) - 1
    best = np.flatnonzero(np.asarray(pc.fill_null(pc.equal(rank, 1), False)))
    prompt_of = np.repeat(np.arange(num_prompts), np.diff(offsets))[best]
    winner = np.zeros(num_prompts, np.int64)
    kept = np.zeros(num_prompts, bool)
    winner[prompt_of[::-1]] = best[::-1]  # should two ever share the first rank, the first stands
    kept[prompt_of] = True
    return pa.array(winner, mask=~kept), kept
