"""A kind of judge that is not ours, in one file: whether each response is acceptable, yes or no."""

from typing import Literal

from rmbatch.judges.asking import Vote
from rmbatch.judges.form import Form
from rmbatch.judges.kinds.base import JudgeKind, Parts, Plan, QuestionWriter
from rmbatch.judges.kinds.outcomes import Outcome, check_quorum
from rmbatch.judges.kinds.responses import Responses
from rmbatch.judges.verdict import read_choice


class Acceptable(JudgeKind):
    """Each response by itself, yes or no."""

    shows = (("response",),)

    judge: Literal["acceptable"] = "acceptable"
    rejected: float = 0.0
    """The score of a response that is not acceptable."""

    @classmethod
    def own_template(cls) -> str:
        return "<response-{{ mark }}>\n{{ response }}\n</response-{{ mark }}>\n{{ answer_format }}"

    def plan(self, writer: QuestionWriter, responses: Responses) -> Plan:
        labels = {"yes": 1.0, "no": self.rejected}
        form = Form(
            "acceptable", '"yes" or "no"', {"type": "string"}, lambda said: read_choice(said, labels), self.critique
        )
        missing = [responses.find_missing(place) for place in range(len(responses))]
        texts = {place: str(responses.responses[place]) for place, why in enumerate(missing) if why is None}
        questions = [
            writer.write(form, responses.template_variables(place), self.n, [text], response=text)
            for place, text in texts.items()
        ]

        def outcomes(votes: list[list[Vote]]) -> Parts:
            found = dict(zip(texts, map(self._outcome, votes), strict=True))
            return {"": [why or found[place] for place, why in enumerate(missing)]}

        return Plan(questions, outcomes)

    def _outcome(self, votes: list[Vote]) -> Outcome:
        good, too_few = check_quorum(votes, self.quorum)
        return too_few or Outcome(sum(vote.value for vote in good) / len(good), reason=good[0].said)
