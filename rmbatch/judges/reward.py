"""An LLM judge as a reward: it turns columns into questions, and the votes on them into scores.

    rm = rmbatch.judge("pairwise", principles="helpfulness", endpoint="http://host:8000", model="qwen3-32b")
    rm.evaluate({"prompt": "What is 2 + 2?", "responses": ["4", "5"]})     # two Results, 1.0 and 0.0

A verdict that is not clear gives null, with the error ``verdict_…`` and all that the judge said as the reason.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from connectors.errors import UserError
from rmbatch.chat.spec import ChatSpec
from rmbatch.judges.asking import Question, ask, counted_as
from rmbatch.judges.kinds.base import JudgeKind, Plan, QuestionWriter, parse_judge
from rmbatch.judges.kinds.outcomes import as_scores
from rmbatch.judges.kinds.responses import Responses
from rmbatch.judges.principles import load_principles
from rmbatch.rewards.composition import Composition, leaf_rewards
from rmbatch.rewards.contract import Scores, null_scores
from rmbatch.rewards.evaluation import Columns, Offsets, Reward
from rmbatch.settings.extras import require


class JudgeReward(Reward):
    """Scores of an LLM judge. Pickles with the texts of its template and principles; its client is elsewhere."""

    asks_all = True

    def __init__(self, spec: JudgeKind) -> None:
        """Raises UserError for a template or principles that cannot be used, and where a package is missing."""
        require("judge", f"the judge {spec.judge!r}")
        self.spec, self.name = spec, spec.judge
        self._prompt = spec.make_prompt(spec.template)
        self.principles = None if spec.principles is None else load_principles(spec.principles)
        self.sees_reference = spec.reference or (spec.template is not None and self._prompt.shows_reference)
        reference = ("reference",) if self.sees_reference else ()
        self.columns = ("prompt", "response", *reference, *self._prompt.columns)
        self.takes_offsets = spec.compares
        self._first_vote = 0

    @property
    def chat(self) -> ChatSpec:
        """Who is asked."""
        return self.spec.chat()

    @property
    def counted_as(self) -> str:
        """The name that what it uses is counted under."""
        return counted_as(self.spec)

    @property
    def template(self) -> str:
        """The template's text."""
        return self._prompt.text

    def __repr__(self) -> str:
        return f"judge({self.spec.judge!r}, model={self.spec.model!r})"

    @property
    def part_names(self) -> Mapping[str, Sequence[str]]:
        return self.spec.part_names

    def score_parts(self, column: Columns, num_rows: int, offsets: Offsets | None = None) -> dict[str, Scores]:
        """As in ``Reward``. Raises JobError where no server can be asked any more, or the budget is used up."""
        if num_rows == 0:
            return dict.fromkeys(self.part_names, null_scores(0))
        plan = self._plan(column, offsets)
        questions = [replace(each, number=each.number + self._first_vote) for each in plan.questions]
        parts = plan.outcomes(ask(self.spec, questions))
        return {name: as_scores(parts[name], "steps" in more) for name, more in self.part_names.items()}

    def draw_again(self, number: int) -> "JudgeReward":
        """The same judge whose votes are other ones of the same distribution: their requests have other seeds.

        ``number`` counts the draws from 1.
        """
        other = copy(self)
        other._first_vote = number * self.spec.n
        return other

    def questions(self, column: Columns, offsets: Offsets | None = None) -> list[Question]:
        """The questions that it would ask; asks none."""
        return self._plan(column, offsets).questions

    def _plan(self, column: Columns, offsets: Offsets | None) -> Plan:
        if self.takes_offsets and offsets is None:
            raise UserError(
                f"a {self.spec.judge} judge compares the responses of one prompt, so it needs rows with a list of "
                "`responses` (in a job also rows brought together by input.group)"
            )
        responses = Responses(
            column("prompt").to_pylist(),
            column("response").to_pylist(),
            column("reference").to_pylist() if self.sees_reference else None,
            {name: column(name).to_pylist() for name in self._prompt.columns},
            offsets,
            needs_reference=self.spec.reference,
        )
        return self.spec.plan(QuestionWriter(self.spec, self._prompt, self.principles), responses)


def judge(name: str, **settings: Any) -> JudgeReward:
    """The reward of a judge: a kind (pointwise, pairwise, listwise, stepwise) or a name of the alignment library.

    ``settings``: those of the kind, in ``rmbatch/judges/kinds/``. Raises UserError for what does not fit.
    """
    return JudgeReward(parse_judge({**settings, "judge": name}))


def draw_judges_again(rewards: Mapping[str, Reward], number: int) -> dict[str, Reward]:
    """The same rewards, each judge with other votes, those inside compositions too."""
    return {name: _draw_again(each, number) for name, each in rewards.items()}


def _draw_again(reward: Reward, number: int) -> Reward:
    if isinstance(reward, JudgeReward):
        return reward.draw_again(number)
    if not isinstance(reward, Composition):
        return reward
    other = copy(reward)
    other.parts = draw_judges_again(reward.parts, number)
    return other


def judge_rewards(rewards: Mapping[str, Reward]) -> Iterator[tuple[str, JudgeReward]]:
    """The judges among rewards, those inside compositions too, by the names that their columns end in."""
    return ((name, each) for name, each in leaf_rewards(rewards) if isinstance(each, JudgeReward))
