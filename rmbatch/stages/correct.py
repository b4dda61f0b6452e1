"""Corrects the responses of rows that are not good enough, in rounds; the output is the best of all that was tried.

It goes behind the ``ScoreStage`` that scores the responses as they came in. Of nested rows the best candidate is
corrected. Edits are scored by the same rewards (``other_texts.py``); the rounds are ``rmbatch/correction/loop.py``.

    stage = CorrectStage(corrector, scored=score_stage, by="total", ...)
    corrected = stage(score_stage(table))     # correct.response, correct.score, correct.outcome, ...
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.errors import UserError
from rmbatch.correction.asking import Writer, ask_writer
from rmbatch.correction.columns import (
    BY_ROUND,
    CONTROL,
    ERROR,
    HISTORY,
    OUTCOME,
    RESPONSE,
    ROUNDS,
    SCORE,
    SCORE_BEFORE,
    STOPPED,
    TOKENS,
)
from rmbatch.correction.control import is_control
from rmbatch.correction.gate import decide_entry
from rmbatch.correction.history import Assessment, Attempt, Round, Row
from rmbatch.correction.loop import Calls, Corrector, correct_rows
from rmbatch.generation.candidates import GENERATION
from rmbatch.judges.reward import draw_judges_again, judge_rewards
from rmbatch.rewards.evaluation import Reward
from rmbatch.rows.roles import FlatView, Roles, flatten
from rmbatch.selection.rank import SelectionRule, select
from rmbatch.stages.base import Asker, Needs, add_fields
from rmbatch.stages.edit_judges import Work, judges_of_edits
from rmbatch.stages.lanes import InTurn, run_in_lanes
from rmbatch.stages.other_texts import TextScorer, assessments_of
from rmbatch.stages.score import ScoreStage, needs_of
from rmbatch.stages.select import find_cut_off, sees_generation
from rmbatch.stages.tally import RoundCount, count_correction

HELD_OUT = "held_out"
LANES, MIN_LANE_ROWS = 4, 16
"""Parts of a block that go through their rounds side by side, and the fewest rows of one."""
_OF_A_RESPONSE = ("response_", "score.", "error.", "reason.", "steps.")
"""Beginnings of the names of columns that belong to a response, so that nobody knows them of an edit."""

BY_ROUND_TYPE = pa.list_(
    pa.struct(
        [
            ("score", pa.float64()),
            ("tokens", pa.int64()),
            ("decisions", pa.list_(pa.string())),
            ("held_out", pa.string()),
        ]
    )
)


@dataclass(frozen=True)
class CorrectStage:
    """How rows are corrected, and by what."""

    corrector: Corrector
    scored: ScoreStage
    """What has scored the responses, and scores the edits."""
    by: str
    """Name of the score that has to rise, as in ``score.<by>``."""
    comparing: Mapping[str, Reward] = field(default_factory=dict)
    """Rewards that compare: all of them have to prefer an edit to the best text."""
    held_out: Reward | None = None
    """A judge that takes no part in decisions and only watches."""

    def reads(self) -> dict[str, tuple[str, ...]]:
        """What the comparing rewards, the held-out judge and the templates read."""
        watching = {} if self.held_out is None else {HELD_OUT: self.held_out}
        found = {f"correct.{name}": reward.columns for name, reward in {**self.comparing, **watching}.items()}
        return {**found, "correct.editor": ("prompt", "response", *self.corrector.columns)}

    def columns(self, schema: pa.Schema) -> set[str]:
        """The columns behind all that it shows and scores, and the scores themselves."""
        others = {**self.comparing, **({} if self.held_out is None else {HELD_OUT: self.held_out})}
        found = self.scored.columns(schema) | replace(self.scored, rewards=others).columns(schema)
        found |= {self._roles.column_of(name) for name in ("prompt", "reference", *self.corrector.columns)}
        found |= {GENERATION} if sees_generation(self._roles, schema) else set()
        return {name for name in found | {*self.scored.added()} if name in schema.names}

    def check(self, schema: pa.Schema) -> None:
        """Raises UserError where a row holds nothing to correct, or names nothing that is there."""
        view = flatten(schema.empty_table(), self._rows_alone)
        has_response = self._roles.response is not None or self._roles.responses is not None
        for name, there in (("prompt", self._roles.prompt is not None), ("response", has_response)):
            if not there:
                raise UserError(f"correct needs a {name}, and no column plays that role; set input.columns.{name}")
        for name in self.corrector.columns:
            if not view.has(name):
                raise UserError(f"correct.editor.template: {{{{ {name} }}}} is neither ours nor a column of the input")
        for name, reward in {**self.scored.rewards, **self.comparing}.items():
            for column in reward.columns:
                if column.startswith(_OF_A_RESPONSE):
                    raise UserError(
                        f"reward {name!r} reads {column!r}, which nobody knows of an edit; leave that reward out"
                    )

    def output_schema(self, schema: pa.Schema) -> pa.Schema:
        """The columns after this stage; raises UserError where one of them is there already."""
        return add_fields(schema, self._added())

    def needs(self) -> Needs:
        """The models and judges of all rewards, and who edits, criticises and watches."""
        spec = self.corrector.spec
        watching = {} if self.held_out is None else {f"correct.{HELD_OUT}": self.held_out}
        works: dict[Work, Mapping[str, Reward]] = {
            "scores": self.scored.rewards,
            "prefers": self.comparing,
            "watches": watching,
        }
        judges: dict[str, Asker] = {}
        for work, rewards in works.items():
            judges |= judges_of_edits(needs_of(rewards), work, spec)
        models = needs_of({**self.scored.rewards, **self.comparing, **watching}).models
        writers: dict[str, Asker] = {"correct.editor": Writer(spec.editor, self.corrector, columns=self._added())}
        for number, critic in enumerate(spec.critic_models):
            name = f"correct.critic{number + 1 if len(spec.critic_models) > 1 else ''}"
            writers[name] = Writer(critic, self.corrector, number)
        return Needs(models, {**judges, **writers})

    def flush(self) -> None:
        """Write new scores of reward models to their stores."""
        for reward in self.needs().models.values():
            reward.keep()

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with its columns added. Raises JobError where all must stop."""
        block = _Block.read(table, self._roles, self.scored, self.by)
        entries = [decide_entry(self.corrector.spec.gate, each) for each in block.assessments]
        rows = self._read_rows(table, block, [place for place, entry in enumerate(entries) if entry == "enters"])
        num_lanes = max(min(LANES, len(rows) // MIN_LANE_ROWS), 1)
        run_in_lanes(
            [rows[number::num_lanes] for number in range(num_lanes)],
            lambda some, in_turn: correct_rows(some, self.corrector, self._calls(table, in_turn)),
        )
        by_place = {row.place: row for row in rows}
        made = [
            self._untouched(block, place, entry) if entry != "enters" else self._corrected(by_place[place])
            for place, entry in enumerate(entries)
        ]
        for name, kind in self._added().items():
            table = table.append_column(name, pa.array([each[name] for each in made], kind))
        return table

    def tally(self, table: pa.Table) -> Counter[str]:
        """Outcomes, and of each round: rows, decisions, gain, tokens and what the held-out judge says."""
        columns = (OUTCOME, SCORE_BEFORE, BY_ROUND, CONTROL)
        there = {name: table[name].to_pylist() for name in columns if name in table.column_names}
        counts: Counter[str] = Counter()
        for place, outcome in enumerate(there[OUTCOME]):
            is_control = bool(there[CONTROL][place]) if CONTROL in there else False
            rounds = _count_rounds(there[SCORE_BEFORE][place], there[BY_ROUND][place] or ())
            counts.update(count_correction(outcome, list(rounds), is_control=is_control))
        return counts

    @property
    def _roles(self) -> Roles:
        return self.scored.roles

    @property
    def _rows_alone(self) -> Roles:
        """The roles of the rows without their responses: a value for each row."""
        return replace(self._roles, response=None, responses=None)

    def _added(self) -> dict[str, pa.DataType]:
        spec = self.corrector.spec
        added = {
            RESPONSE: pa.string(),
            SCORE_BEFORE: pa.float64(),
            SCORE: pa.float64(),
            OUTCOME: pa.string(),
            STOPPED: pa.string(),
            ERROR: pa.string(),
            ROUNDS: pa.int32(),
            TOKENS: pa.int64(),
            BY_ROUND: BY_ROUND_TYPE,
        }
        added |= {CONTROL: pa.bool_()} if spec.control is not None else {}
        return added | ({HISTORY: self._history_type()} if spec.history else {})

    def _score_names(self) -> list[str]:
        return [name.removeprefix("score.") for name in self.scored.added() if name.startswith("score.")]

    def _history_type(self) -> pa.DataType:
        edit = pa.struct(
            [
                ("kind", pa.string()),
                ("text", pa.string()),
                ("score", pa.float64()),
                ("scores", pa.struct([(name, pa.float64()) for name in self._score_names()])),
                ("decision", pa.string()),
                ("tokens", pa.int64()),
            ]
        )
        return pa.list_(
            pa.struct(
                [
                    ("round", pa.int32()),
                    ("critique", pa.string()),
                    ("critique_tokens", pa.int64()),
                    ("edits", pa.list_(edit)),
                    ("held_out", pa.string()),
                ]
            )
        )

    def _read_rows(self, table: pa.Table, block: "_Block", places: Sequence[int]) -> list[Row]:
        """The rows that enter."""
        view = flatten(table.take(pa.array(places, pa.int64())), self._rows_alone)
        prompts = view.column("prompt").to_pylist()
        references = view.column("reference").to_pylist() if view.has("reference") else [None] * len(places)
        columns = {name: view.column(name).to_pylist() for name in self.corrector.columns}
        control, seed = self.corrector.spec.control, self.corrector.spec.editor.seed
        rows = []
        for number, place in enumerate(places):
            first = Attempt("first", block.texts[place], 0, block.assessments[place], "first")
            beside = {name: values[number] for name, values in columns.items()}
            row = Row(place, prompts[number], first, references[number], beside)
            row.is_control = control is not None and is_control(control.share, seed, row)
            rows.append(row)
        return rows

    def _calls(self, table: pa.Table, in_turn: InTurn) -> Calls:
        spec, scored = self.corrector.spec, self.scored
        scorer = TextScorer(scored.rewards, self._roles, scored.combine, self.by, scored.on_error)
        has_judges = any(True for _ in judge_rewards(scored.rewards))

        def score_by(scorer: TextScorer, rows: Sequence[Row], texts: Sequence[str]) -> list[Assessment]:
            found: list[Assessment] = in_turn(lambda: scorer.score(table, [row.place for row in rows], texts))
            return found

        def score_again(number: int, rows: Sequence[Row], texts: Sequence[str]) -> list[Assessment]:
            return score_by(replace(scorer, rewards=draw_judges_again(scored.rewards, number)), rows, texts)

        def prefer_by(rewards: Mapping[str, Reward]) -> Any:
            comparer = TextScorer(rewards, self._roles, on_error=scored.on_error)
            return lambda rows, pairs: in_turn(lambda: comparer.compare(table, [row.place for row in rows], pairs))

        return Calls(
            partial(ask_writer, spec.editor),
            partial(score_by, scorer),
            [partial(ask_writer, critic) for critic in spec.critic_models],
            score_again if has_judges else None,
            prefer_by(self.comparing) if self.comparing else None,
            None if self.held_out is None else prefer_by({HELD_OUT: self.held_out}),
        )

    def _untouched(self, block: "_Block", place: int, outcome: str) -> dict[str, Any]:
        score = block.assessments[place].score
        return {
            RESPONSE: block.texts[place],
            SCORE_BEFORE: score,
            SCORE: score,
            OUTCOME: outcome,
            STOPPED: None,
            ERROR: None,
            ROUNDS: 0,
            TOKENS: 0,
            BY_ROUND: [],
            CONTROL: False,
            HISTORY: [],
        }

    def _corrected(self, row: Row) -> dict[str, Any]:
        return {
            RESPONSE: row.best.text,
            SCORE_BEFORE: row.first.score,
            SCORE: row.best.score,
            OUTCOME: row.outcome,
            STOPPED: row.stopped,
            ERROR: row.error if row.best is row.first else None,
            ROUNDS: len(row.rounds),
            TOKENS: row.tokens,
            BY_ROUND: list(_numbers_of(row)),
            CONTROL: row.is_control,
            HISTORY: [_told(0, Round(attempts=[row.first])), *(_told(n, each) for n, each in enumerate(row.rounds, 1))],
        }


@dataclass(frozen=True)
class _Block:
    """The response of each row that is to be corrected, of nested rows the best, and what rewards say of it."""

    texts: list[str | None]
    assessments: list[Assessment]

    @classmethod
    def read(cls, table: pa.Table, roles: Roles, scored: ScoreStage, by: str) -> "_Block":
        view = flatten(table, roles)
        columns = {name: table[name] for name in scored.added() if not name.startswith("steps.")}
        texts = view.column("response")
        flat = {name: _flat(column) for name, column in columns.items()}
        if view.offsets is not None:
            cut_off = find_cut_off(table, roles, view.offsets, "rename the column")
            best = _best_places(view, flat[f"score.{by}"], texts, cut_off)
            texts, flat = texts.take(best), {name: column.take(best) for name, column in flat.items()}
        values = {name: column.to_pylist() for name, column in flat.items()}
        return cls(texts.to_pylist(), assessments_of(values, table.num_rows, by))


def _best_places(view: FlatView, score: pa.Array, texts: pa.Array, cut_off: pa.Array | None) -> pa.Array:
    """The place of the best candidate of each row; of rows without a score the first; null where there is none.

    A candidate that was cut off is taken only where no other has a score.
    """
    offsets = view.offsets
    assert offsets is not None
    allowed = None
    if cut_off is not None:
        owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        is_whole = ~np.asarray(cut_off)
        has_whole = np.bincount(owner[is_whole & np.asarray(score.is_valid())], minlength=len(offsets) - 1) > 0
        allowed = is_whole | ~has_whole[owner]
    rank = select(score, offsets, SelectionRule(keep=1), texts, allowed).rank
    found = np.flatnonzero(np.asarray(pc.fill_null(pc.equal(rank, 1), False)))
    places = offsets[:-1].copy()
    places[np.searchsorted(offsets, found, side="right") - 1] = found
    return pa.array(places, mask=np.diff(offsets) == 0)


def _flat(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return pc.list_flatten(array) if pa.types.is_list(array.type) else array


def _numbers_of(row: Row) -> Iterator[dict[str, Any]]:
    """Of each round what is counted."""
    score = row.first.score
    for each in row.rounds:
        score = score if each.accepted is None else each.accepted.score
        yield {
            "score": score,
            "tokens": each.tokens,
            "decisions": [attempt.code for attempt in each.attempts],
            "held_out": each.held_out,
        }


def _told(number: int, each: Round) -> dict[str, Any]:
    """A round as it stands in the history; round 0 is the answer that came in."""
    edits = [
        {
            "kind": attempt.kind,
            "text": attempt.text,
            "score": attempt.score,
            "scores": None if attempt.assessment is None else attempt.assessment.scores,
            "decision": attempt.decision,
            "tokens": attempt.tokens,
        }
        for attempt in each.attempts
    ]
    return {
        "round": number,
        "critique": each.critique,
        "critique_tokens": each.critique_tokens,
        "edits": edits,
        "held_out": each.held_out,
    }


def _count_rounds(before: float | None, rounds: Sequence[Mapping[str, Any]]) -> Iterator[RoundCount]:
    for each in rounds:
        after = each["score"]
        gain = 0.0 if before is None or after is None else after - before
        yield RoundCount(gain, each["tokens"], Counter(each["decisions"]), each["held_out"])
        before = after
