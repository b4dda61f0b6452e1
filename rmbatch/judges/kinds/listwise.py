"""Judges all responses of a prompt at once: which is best, or in which order they are.

The order in which they are shown follows from ``shuffle_seed`` and the texts, and turns with each vote: a judge that
likes a place likes no response, and the same responses are shown alike wherever they stand in their row.
"""

from typing import Any, Literal

from rmbatch.judges import form
from rmbatch.judges.asking import Question, Vote
from rmbatch.judges.kinds.base import JudgeKind, Parts, Plan, QuestionWriter
from rmbatch.judges.kinds.order import order_for_vote
from rmbatch.judges.kinds.outcomes import Outcome, check_quorum, without_comparison
from rmbatch.judges.kinds.responses import Responses
from rmbatch.settings.base import Finite


class Listwise(JudgeKind):
    """All responses of a prompt at once, in an order by ``shuffle_seed``, another one for each vote."""

    shows = (("responses",),)
    compares = True
    asks_differently = True

    judge: Literal["listwise"] = "listwise"
    alone: Finite | None = None
    """The score of a response that has no other one to be compared with. None: no score."""
    score: Literal["best", "ranking"] = "best"
    """best: 1 for the chosen response, 0 for the others. ranking: 1 for the first, 0 for the last, evenly between. With
    several votes (``n``) their mean."""

    def plan(self, writer: QuestionWriter, responses: Responses) -> Plan:
        """A question for each prompt and vote; equal responses of a prompt are shown once and share their score."""
        known = [responses.find_missing(place) for place in range(len(responses))]
        lists: list[tuple[range, list[list[str]]]] = []
        questions: list[Question] = []
        for group in responses.places_by_prompt():
            texts = {str(responses.responses[place]): place for place in group if known[place] is None}
            if len(texts) < 2:
                for place in group:
                    known[place] = known[place] or without_comparison(self.alone)
                continue
            seen = responses.template_variables(next(iter(texts.values())))
            orders = [order_for_vote(list(texts), seen["prompt"], self.shuffle_seed, vote) for vote in range(self.n)]
            lists.append((group, orders))
            make = form.best_of_list if self.score == "best" else form.order_of_list
            asked = make(len(texts), critique=self.critique)
            questions += [
                writer.write(asked, seen, 1, list(texts), number=vote, responses=shown)
                for vote, shown in enumerate(orders)
            ]

        def outcomes(votes: list[list[Vote]]) -> Parts:
            flat = iter(vote for (vote,) in votes)
            for group, orders in lists:
                found = _score_texts(self, orders, [next(flat) for _ in orders])
                for place in group:
                    known[place] = known[place] or found[str(responses.responses[place])]
            return {"": [outcome or without_comparison(self.alone) for outcome in known]}

        return Plan(questions, outcomes)


def _score_texts(spec: Listwise, orders: list[list[str]], votes: list[Vote]) -> dict[str, Outcome]:
    """The outcome of each text."""
    good, too_few = check_quorum(votes, spec.quorum)
    if too_few is not None:
        return dict.fromkeys(orders[0], too_few)
    counted = [(order, vote) for order, vote in zip(orders, votes) if vote.error is None]
    return {
        text: Outcome(
            sum(_score_place(vote.value, order.index(text) + 1) for order, vote in counted) / len(good),
            reason="\n\n".join(
                f"[seen as {order.index(text) + 1}; {_describe_verdict(vote.value)}] {vote.said}".strip()
                for order, vote in counted
            ),
        )
        for text in orders[0]
    }


def _score_place(verdict: Any, number: int) -> float:
    if isinstance(verdict, tuple):
        return 1 - verdict.index(number) / (len(verdict) - 1)
    return float(verdict == number)


def _describe_verdict(verdict: Any) -> str:
    return "ranked " + ", ".join(map(str, verdict)) if isinstance(verdict, tuple) else f"best {verdict}"
