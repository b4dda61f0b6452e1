"""Makes the stages of a correction out of its settings and rewards, and corrects a table without a job.

stage = make_correction(spec, {"math": rmbatch.reward("math_verify")}, roles)
stage(stage.scored(table))
correct_table(rows, spec, {"math": ...})                    # the same for tables of any library
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from connectors.errors import UserError
from rmbatch.correction.loop import Corrector
from rmbatch.correction.spec import CorrectSpec, StopSpec
from rmbatch.judges.reward import JudgeReward, judge_rewards
from rmbatch.rewards.composition import leaf_rewards
from rmbatch.rewards.evaluation import Reward
from rmbatch.rewards.totals import CombineRule
from rmbatch.rows.roles import Roles, guess_roles
from rmbatch.rows.tables import as_table, with_columns
from rmbatch.settings.extras import require
from rmbatch.settings.names import nearest
from rmbatch.stages.correct import HELD_OUT, CorrectStage
from rmbatch.stages.score import TOTAL, ScoreStage
from rmbatch.stages.tally import CorrectionCount

MIN_VERDICTS, DEVIATIONS = 30, 2.0
"""Verdicts of a held-out judge before it can stop a job, and by how many standard deviations of chance it must lose."""
MIN_ROWS = 200
"""Rows before a job is stopped for what it gains."""


def make_correction(
    spec: CorrectSpec,
    rewards: Mapping[str, Reward],
    roles: Roles,
    *,
    combine: CombineRule | None = None,
    held_out: Reward | None = None,
    on_error: Literal["stop", "null"] = "stop",
) -> CorrectStage:
    """The stage that corrects; ``scored`` is the one that goes before it.

    Rewards that compare responses have no part in the score: all of them have to prefer an edit to the best text.
    Raises UserError for names that no reward has, and for judges that cannot compare fairly.
    """
    require("judge", "correct", "jinja2")
    comparing = {name: reward for name, reward in rewards.items() if reward.takes_offsets}
    alone = {name: reward for name, reward in rewards.items() if name not in comparing}
    if not alone:
        raise UserError("rewards: all of them compare responses, so none says how good one is; add one that does")
    weighed = [name for name in comparing if combine is not None and name in combine.weights]
    if weighed:
        raise UserError(
            f"combine.{weighed[0]}: it compares responses, so it has no part in a total; leave it out: an edit is "
            "accepted only where it is preferred"
        )
    _check_judges({**comparing, **({} if held_out is None else {HELD_OUT: held_out})})
    scored = ScoreStage(alone, roles, combine, None, on_error)
    names = [name.removeprefix("score.") for name in scored.added() if name.startswith("score.")]
    by = _find_score(spec, alone, combine, names)
    _check_names(spec, list(alone), names)
    if held_out is not None:
        _check_held_out(held_out, rewards)
    judges = {name for name, _ in judge_rewards(alone)}
    corrector = Corrector(spec, spec.names_of_critics(list(alone)), judges)
    return CorrectStage(corrector, scored, by, comparing, held_out)


def why_stop_correcting(stop: StopSpec, rounds: Sequence[CorrectionCount]) -> str:
    """Why a job should stop on its way, by the rounds of its rows so far; empty where it should go on."""
    won, lost = (sum(each.held_out.get(word, 0) for each in rounds) for word in ("better", "worse"))
    gain, tokens = sum(each.gain for each in rounds), sum(each.tokens for each in rounds)
    if stop.held_out and won + lost >= MIN_VERDICTS and lost - won > DEVIATIONS * (won + lost) ** 0.5:
        return (
            f"the scores rise (+{gain:.4g}) and the held-out judge prefers what was replaced: of {won + lost:,} "
            f"accepted edits it finds {lost:,} worse and {won:,} better; mend the rewards that decide, or set "
            "correct.stop.held_out: false to go on"
        )
    floor = stop.gain_per_1k_tokens
    is_judged = bool(rounds) and rounds[0].rows >= MIN_ROWS and tokens > 0
    if floor is not None and is_judged and 1000 * gain / tokens < floor:
        return (
            f"correction gains {1000 * gain / tokens:.3g} for 1,000 tokens, by {rounds[0].rows:,} rows; "
            f"correct.stop.gain_per_1k_tokens allows no less than {floor:g}; lower it to go on"
        )
    return ""


def correct_table(
    given: Any,
    spec: CorrectSpec,
    rewards: Mapping[str, Reward],
    *,
    combine: CombineRule | None = None,
    held_out: Reward | None = None,
    columns: Mapping[str, Any] | None = None,
) -> Any:
    """The same table with the columns of its scores and of its correction added, as a job would add them."""
    if isinstance(given, list | tuple) and not given:
        return given  # without a row there are no columns either
    table = as_table(given)
    stage = make_correction(spec, rewards, guess_roles(table.schema, columns), combine=combine, held_out=held_out)
    stage.scored.check(table.schema)
    stage.check(stage.scored.output_schema(table.schema))
    stage.output_schema(table.schema)
    corrected = stage(stage.scored(table))
    added = [name for name in corrected.column_names if name not in table.column_names]
    return with_columns(given, {name: corrected[name].combine_chunks() for name in added})


def _find_score(spec: CorrectSpec, alone: Mapping[str, Reward], combine: CombineRule | None, names: list[str]) -> str:
    if spec.score is None and combine is None and len(alone) > 1:
        raise UserError(
            f"{len(alone)} rewards and no say in which has to rise: give weights in combine: "
            f"{{{', '.join(f'{name}: 1.0' for name in alone)}}}, or name one in correct.score"
        )
    by = spec.score or (TOTAL if combine is not None else next(iter(alone)))
    if by not in names:
        raise UserError(f"correct.score: no score is called {by!r}; {nearest(by, names)}")
    return by


def _check_names(spec: CorrectSpec, rewards: list[str], scores: list[str]) -> None:
    critics = [each for each in spec.critics or () if isinstance(each, str)]
    for key, given, known in (
        ("critics", critics, rewards),
        ("gate.failing", spec.gate.failing, scores),
        ("accept.never_lower", spec.accept.never_lower, scores),
    ):
        for name in given:
            if name not in known:
                raise UserError(
                    f"correct.{key}: no reward that scores a response alone is called {name!r}; {nearest(name, known)}"
                )


def _check_judges(comparing: Mapping[str, Reward]) -> None:
    """Raises UserError for a judge that compares two texts in one order only."""
    for name, each in leaf_rewards(comparing):
        if isinstance(each, JudgeReward) and each.takes_offsets:
            if each.spec.judge != "pairwise":
                raise UserError(f"{name}: a {each.spec.judge} judge sees an edit in one place; write judge: pairwise")
            if getattr(each.spec, "orders", "both") != "both":
                raise UserError(f"{name}: an edit must be preferred in both orders; write orders: both")


def _check_held_out(held_out: Reward, rewards: Mapping[str, Reward]) -> None:
    """Raises UserError where the held-out judge is one of those that decide."""
    deciding = {judge.counted_as: name for name, judge in judge_rewards(rewards)}
    for _, judge in judge_rewards({HELD_OUT: held_out}):
        if judge.counted_as in deciding:
            raise UserError(
                f"correct.held_out: it is the judge {deciding[judge.counted_as]!r}, which decides; ask another model"
            )
