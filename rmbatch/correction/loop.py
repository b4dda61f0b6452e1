"""The loop over the rows of a block: ask for all open rows at once, score what came, decide, close rows, next round.

It knows neither columns nor servers: what it calls, it is given.

    correct_rows(rows, CorrectSpec(...), Corrector(spec, ["math"], judges=()), calls)
    rows[0].best.text, rows[0].outcome, rows[0].rounds

A request depends on nothing but the job's settings, the row's texts and the answers before it, so a job that was killed
asks the same again and finds the answers kept.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from rmbatch.chat.client import ChatRequest
from rmbatch.chat.completion import Completion
from rmbatch.correction.accept import choose, why_not_better, why_within_noise
from rmbatch.correction.control import count_samples
from rmbatch.correction.critique import join_sections, write_findings
from rmbatch.correction.gate import has_reached_target, order_by_gain
from rmbatch.correction.guards import Guards, normalize
from rmbatch.correction.history import ACCEPTED, Assessment, Attempt, Kind, Round, Row
from rmbatch.correction.messages import Instructions, make_seed
from rmbatch.correction.spec import CorrectSpec
from rmbatch.costs.prices import Usage

MOST_SAMPLES = 8
"""Samples of the control in a round, for each edit of another row, at the most."""
_REPEATED = ("duplicate", "copy", "near_copy")

Ask = Callable[[list[ChatRequest]], list[Completion]]
Score = Callable[[Sequence[Row], Sequence[str]], list[Assessment]]
"""Scores a text for each of the rows; a row may be there several times."""
ScoreAgain = Callable[[int, Sequence[Row], Sequence[str]], list[Assessment]]
"""The same by other draws of the judges, whose number is given."""
Prefer = Callable[[Sequence[Row], Sequence[tuple[str, str]]], list["Preference"]]
"""Compares two texts for each of the rows."""


@dataclass(frozen=True)
class Preference:
    """Which of two texts is preferred."""

    is_second: bool | None
    """True: the second, in whatever order they are shown; False: the first; None: neither, or no verdict."""
    said: str = ""
    is_verdict: bool = True
    """Whether there was a verdict at all."""

    @property
    def word(self) -> str:
        """What it says of the second text."""
        if not self.is_verdict:
            return "unclear"
        return "tie" if self.is_second is None else "better" if self.is_second else "worse"


@dataclass(frozen=True)
class Calls:
    """What the loop calls."""

    ask_editor: Ask
    score: Score
    ask_critics: Sequence[Ask] = ()
    """One for each critic that is a model of its own."""
    score_again: ScoreAgain | None = None
    """None: no judge takes part, so that there is no noise."""
    prefer: Prefer | None = None
    """Rewards that compare: all of them have to prefer an edit. None: there are none."""
    prefer_held_out: Prefer | None = None
    """The held-out judge. None: there is none."""


class Corrector:
    """The settings of a job with their templates read. Pickles."""

    def __init__(self, spec: CorrectSpec, critics: Sequence[str], judges: Collection[str]) -> None:
        """``critics``: rewards whose findings are shown; ``judges``: names of those, or of parts, that are judges.

        Raises UserError for a template that cannot be used.
        """
        editor = spec.editor
        self.spec, self.critics, self.judges = spec, tuple(critics), frozenset(judges)
        where = "correct.editor"
        self.edit = Instructions("edit.jinja", editor.template, needs=("response",), where=where)
        self.rewrite = Instructions(
            "rewrite.jinja", editor.rewrite_template, needs=("prompt", "messages"), where=f"{where}.rewrite"
        )
        self.critiques = [
            Instructions("critique.jinja", each.template, needs=("response",), where="correct.critics")
            for each in spec.critic_models
        ]
        self.guards = Guards(spec.guards)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that templates show, by role or name."""
        several = [self.edit, self.rewrite, *self.critiques]
        return tuple(dict.fromkeys(name for each in several for name in each.columns))

    def find_fault(self, row: Row) -> str | None:
        """Why a row cannot be edited at all, as ``stable_code: message``."""
        if not row.messages:
            return "missing_prompt: prompt is null, or has no message"
        if any(message["content"] is None for message in row.messages):
            return "malformed_conversation: a message has no text, but an image or a tool call perhaps"
        if row.best.text is None and self.spec.editor.rewrite == "never":
            return "missing_response: response is null, and editor.rewrite is never"
        return None

    def write_findings(self, row: Row) -> str | None:
        """What the rewards say of the best text of a row."""
        assessment = row.best.assessment
        if assessment is None or row.best.text is None:
            return None
        hidden = None if self.spec.show_reference else row.reference
        return write_findings(assessment, self.critics, judges=self.judges, hidden=hidden)

    def critique_request(self, number: int, row: Row, round_number: int) -> ChatRequest:
        """What a critic is asked about a row."""
        critic = self.spec.critic_models[number]
        messages = self.critiques[number].write(
            row,
            system=critic.system,
            critique=self.write_findings(row),
            show_reference=self.spec.show_reference,
        )
        seed = make_seed(critic.seed, row, f"critic {number}", round_number, 0)
        return ChatRequest(messages, seed=seed, n=1, affinity=row.affinity)

    def edit_request(self, row: Row, kind: Kind, critique: str | None, round_number: int, number: int) -> ChatRequest:
        """What the editor is asked for: an edit, a whole answer anew, or (of the control) a plain answer."""
        editor = self.spec.editor
        seed = make_seed(editor.seed, row, kind, round_number, number)
        if kind == "sample":
            messages = [dict(message) for message in row.messages or ()]
            return ChatRequest(messages, seed=seed, n=1, affinity=row.affinity)
        told = self.rewrite if kind == "rewrite" else self.edit
        show_reference = self.spec.show_reference
        messages = told.write(row, system=editor.system, critique=critique, show_reference=show_reference)
        return ChatRequest(messages, seed=seed, n=1, affinity=row.affinity)

    def kind_of_edit(self, row: Row) -> Kind:
        """What is asked for next: an edit, the whole answer anew, or (of the control) a plain answer."""
        return "sample" if row.is_control else self.kind_for_editor(row)

    def kind_for_editor(self, row: Row) -> Kind:
        """What the editor is asked for next, or of the control would be: an edit, or the whole answer anew."""
        rule = self.spec.editor.rewrite
        has_failed = bool(row.rounds) and row.rounds[-1].accepted is None
        if row.best.text is None or rule == "always" or (rule == "after_failure" and has_failed):
            return "rewrite"
        return "edit"


def correct_rows(rows: Sequence[Row], corrector: Corrector, calls: Calls) -> None:
    """Take these rows through their rounds; all that happens stands in them. Raises JobError where all must stop."""
    spec = corrector.spec
    for row in rows:
        if (fault := corrector.find_fault(row)) is not None:
            row.error, row.stopped = fault, "failed"
    for number in range(1, spec.rounds + 1):
        _close_expensive(rows, spec.stop.tokens_per_row)
        open_rows = order_by_gain(spec.gate, [row for row in rows if row.stopped is None])
        if not open_rows:
            break
        _run_round(open_rows, corrector, calls, number)
    for row in rows:
        row.stopped = row.stopped or "rounds"


def _close_expensive(rows: Sequence[Row], most: int | None) -> None:
    for row in rows:
        if row.stopped is None and most is not None and row.known_tokens >= most:
            row.stopped = "tokens"


@dataclass
class _Draft:
    """An attempt on its way to a decision."""

    row: Row
    attempt: Attempt
    is_cut_off: bool = False
    failure: str | None = None
    usage: Usage | None = None


@dataclass
class _Drafts:
    """The drafts of a round, by row."""

    drafts: list[_Draft]

    @cached_property
    def by_row(self) -> dict[int, list[_Draft]]:
        by_row: dict[int, list[_Draft]] = defaultdict(list)
        for draft in self.drafts:
            by_row[draft.row.place].append(draft)
        return by_row


def _run_round(rows: Sequence[Row], corrector: Corrector, calls: Calls, number: int) -> None:
    rounds = _criticise(rows, corrector, calls, number)
    drafts = _write_drafts(rows, rounds, corrector, calls, number)
    _throw_away(drafts, corrector)
    _score(drafts, calls)
    _decide(rows, drafts, corrector, calls)
    replaced = [(row, row.best) for row in rows]
    for row in rows:
        row.rounds.append(rounds[row.place])
        _close(row, corrector.spec)
    if calls.prefer_held_out is not None:
        _watch(replaced, calls.prefer_held_out)


def _criticise(rows: Sequence[Row], corrector: Corrector, calls: Calls, number: int) -> dict[int, Round]:
    """A round for each row, with what was found about its best text; the control is told nothing."""
    rounds = {row.place: Round() for row in rows}
    edited = [row for row in rows if not row.is_control]
    reviews: dict[int, dict[str, str | None]] = {row.place: {} for row in edited}
    for critic, ask in enumerate(calls.ask_critics):
        shown = [row for row in edited if row.best.text is not None]
        completions = ask([corrector.critique_request(critic, row, number) for row in shown])
        title = f"Review {critic + 1}" if len(calls.ask_critics) > 1 else "Review"
        for row, completion in zip(shown, completions, strict=True):
            reviews[row.place][title] = read_text(completion)
            rounds[row.place].critique_tokens = _add(rounds[row.place].critique_tokens, completion)
    for row in edited:
        said = [corrector.write_findings(row), join_sections(reviews[row.place])]
        rounds[row.place].critique = "\n\n".join(filter(None, said)) or None
    return rounds


def _write_drafts(
    rows: Sequence[Row], rounds: Mapping[int, Round], corrector: Corrector, calls: Calls, number: int
) -> _Drafts:
    """The edits of all rows; and for the control as many more samples as cost what its edits would have cost."""
    edits = corrector.spec.editor.edits
    wanted = [(row, place) for row in rows for place in range(edits)]
    drafts = _ask_for_drafts(wanted, rounds, corrector, calls, number)
    wanted = [
        (row, place)
        for row in rows
        if row.is_control
        for place in range(edits, _count_samples(row, drafts, corrector, number))
    ]
    return _Drafts([*drafts, *_ask_for_drafts(wanted, rounds, corrector, calls, number)])


def _count_samples(row: Row, drafts: Sequence[_Draft], corrector: Corrector, number: int) -> int:
    """How many samples of a row cost as much as its critiques and edits in this round would have cost."""
    critics = range(len(corrector.critiques)) if row.best.text is not None else ()
    edit = corrector.edit_request(row, corrector.kind_for_editor(row), corrector.write_findings(row), number, 0)
    replaced = [corrector.critique_request(critic, row, number) for critic in critics]
    edits = corrector.spec.editor.edits
    usage = [draft.usage for draft in drafts if draft.row is row and draft.usage is not None]
    sample = corrector.edit_request(row, "sample", None, number, 0)
    return count_samples([*replaced, *[edit] * edits], sample, usage, most=MOST_SAMPLES * edits)


def _ask_for_drafts(
    wanted: Sequence[tuple[Row, int]],
    rounds: Mapping[int, Round],
    corrector: Corrector,
    calls: Calls,
    number: int,
) -> list[_Draft]:
    kinds = [corrector.kind_of_edit(row) for row, _ in wanted]
    requests = [
        corrector.edit_request(row, kind, rounds[row.place].critique, number, place)
        for (row, place), kind in zip(wanted, kinds)
    ]
    drafts = []
    for (row, _), kind, completion in zip(wanted, kinds, calls.ask_editor(requests) if requests else (), strict=True):
        attempt = Attempt(kind, read_text(completion), _add(0, completion))
        failure = None if completion.failure is None else str(completion.failure)
        drafts.append(_Draft(row, attempt, any(completion.cut_off), failure, completion.usage))
        rounds[row.place].attempts.append(attempt)
    return drafts


def _throw_away(found: _Drafts, corrector: Corrector) -> None:
    """Decide about drafts that need no score."""
    texts = [text for draft in found.drafts for text in (draft.attempt.text, draft.row.best.text) if text is not None]
    refusals = corrector.guards.find_refusals(texts)
    for drafts in found.by_row.values():
        row = drafts[0].row
        tried = {normalize(each.text) for each in row.attempts if each.text is not None}
        for draft in drafts:
            if draft.failure is not None:
                draft.attempt.decision = draft.failure
                continue
            text = draft.attempt.text
            fault = corrector.guards.find_fault(
                text,
                is_cut_off=draft.is_cut_off,
                best=row.best.text,
                prompt=row.prompt,
                tried=tried,
                refusals=refusals,
            )
            draft.attempt.decision = fault or ""
            if text is not None:
                tried.add(normalize(text))


def _score(found: _Drafts, calls: Calls) -> None:
    kept = [draft for draft in found.drafts if not draft.attempt.decision]
    if not kept:
        return
    texts = [str(draft.attempt.text) for draft in kept]
    assessments = calls.score([draft.row for draft in kept], texts)
    for draft, assessment in zip(kept, assessments, strict=True):
        draft.attempt.assessment = assessment


def _decide(rows: Sequence[Row], found: _Drafts, corrector: Corrector, calls: Calls) -> None:
    """Accept the best draft of each row that is better than its best text."""
    never_lower, margin = corrector.spec.accept.never_lower, corrector.spec.accept.margin
    for draft in found.drafts:
        if (after := draft.attempt.assessment) is not None:
            before = draft.row.best.assessment or Assessment(None)
            draft.attempt.decision = why_not_better(never_lower, margin, before, after) or ""
    if calls.score_again is not None and corrector.spec.accept.noise is not None:
        _look_at_noise([draft for draft in found.drafts if not draft.attempt.decision], corrector, calls)
    if calls.prefer is not None:
        _compare([draft for draft in found.drafts if not draft.attempt.decision], calls.prefer)
    for row in rows:
        possible = [draft.attempt for draft in found.by_row[row.place] if not draft.attempt.decision]
        best = choose(possible)
        for attempt in possible:
            attempt.decision = ACCEPTED if attempt is best else "outranked: another edit of this round is better"


def _look_at_noise(drafts: Sequence[_Draft], corrector: Corrector, calls: Calls) -> None:
    """Refuse drafts that repeated scores do not show to be better than the best text."""
    noise, margin = corrector.spec.accept.noise, corrector.spec.accept.margin
    compared = [draft for draft in drafts if draft.row.best.score is not None]
    if noise is None or calls.score_again is None or not compared:
        return
    bests = {draft.row.place: (draft.row, draft.row.best) for draft in compared if not draft.row.best.more_scores}
    repeated = [*bests.values(), *((draft.row, draft.attempt) for draft in compared)]
    for number in range(1, noise.repeats + 1):
        texts = [str(attempt.text) for _, attempt in repeated]
        for (_, attempt), again in zip(repeated, calls.score_again(number, [row for row, _ in repeated], texts)):
            if again.score is not None:
                attempt.more_scores.append(again.score)
    for draft in compared:
        before, after = ([each.score or 0.0, *each.more_scores] for each in (draft.row.best, draft.attempt))
        draft.attempt.decision = why_within_noise(noise.times, margin, before, after) or ""


def _compare(drafts: Sequence[_Draft], prefer: Prefer) -> None:
    """Refuse drafts that a comparing reward does not prefer to the best text."""
    compared = [draft for draft in drafts if draft.row.best.text is not None]
    if not compared:
        return
    pairs = [(str(draft.row.best.text), str(draft.attempt.text)) for draft in compared]
    for draft, found in zip(compared, prefer([draft.row for draft in compared], pairs), strict=True):
        if found.is_second is not True:
            draft.attempt.decision = f"not_preferred: {found.said or found.word}"


def _close(row: Row, spec: CorrectSpec) -> None:
    """Close a row that is done after this round."""
    last, best = row.rounds[-1], row.best.assessment
    row.error = None
    if last.accepted is not None:
        if best is not None and has_reached_target(spec.gate, best.score, best.scores):
            row.stopped = "target"
        return
    recent = row.rounds[-spec.stop.patience :]
    if all(each.code in _REPEATED for each in last.attempts):
        row.stopped = "duplicate"
    elif len(recent) == spec.stop.patience and all(each.accepted is None for each in recent):
        row.stopped = "patience"
    if all(each.text is None for each in row.attempts if each is not row.first):
        row.error = next(each.decision for each in last.attempts)


def _watch(replaced: Sequence[tuple[Row, Attempt]], prefer: Prefer) -> None:
    """Note what the held-out judge says of each accepted edit against what it replaced. It decides nothing."""
    pairs = [(row, before, row.best) for row, before in replaced if row.best is not before]
    pairs = [each for each in pairs if each[1].text is not None]
    if not pairs:
        return
    texts = [(str(before.text), str(after.text)) for _, before, after in pairs]
    for (row, _, _), found in zip(pairs, prefer([row for row, _, _ in pairs], texts), strict=True):
        row.rounds[-1].held_out = found.word


def read_text(completion: Completion) -> str | None:
    """The text of a completion without white space around it; None where there is none."""
    text = next(iter(completion.texts), None)
    return (text or "").strip() or None


def _add(tokens: int | None, completion: Completion) -> int | None:
    """The tokens with those of a completion. None where its server did not say."""
    if completion.failure is not None and completion.usage is None:
        return tokens  # what a failed request has used, nobody knows or charges
    if tokens is None or completion.usage is None:
        return None
    return tokens + completion.usage.prompt + completion.usage.completion
