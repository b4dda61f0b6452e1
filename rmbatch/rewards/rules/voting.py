"""Rewards that compare the candidates of a prompt with each other: ``majority_vote`` and ``agreement``. No reference.

``answers.py`` tells which answers are the same.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Annotated

import pyarrow as pa
from pydantic import Field

from rmbatch.rewards.contract import Scores, reward
from rmbatch.rewards.rules.answers import Answer, Equal, Offsets, answer_classes, find_answers
from rmbatch.rewards.rules.texts import RowScore, to_scores

Timeout = Annotated[int, Field(ge=1)]


@reward("majority_vote", kind="listwise")
def majority_vote(
    response: pa.Array,
    *,
    offsets: Offsets,
    answer: Answer = "whole",
    equal: Equal = "text",
    timeout_s: Timeout = 5,
) -> Scores:
    r"""1.0 where the response gives the answer that most responses to its prompt give, else 0.0.

    response[n] text, the candidates of prompt i at offsets[i]:offsets[i + 1] -> score[n] float64 in {0, 1}; the reason
    counts the votes. Answers that share the most votes are all 1.0. ``answer``: the whole text, its last line that is
    not blank, the last ``\boxed{}``, or the last ``<answer>``; a response without it has no vote and 0.0. ``equal``:
    as text (NFKC but for raised digits and fractions, case and white space aside, and ``$`` at the ends or a full stop
    at the end), or as mathematics, where it is text that differs; sameness is closed over chains, so the order of the
    candidates does not matter.
    Null response: null, and no vote.
    Source: Wang et al., "Self-Consistency", arXiv 2203.11171; as a reward: TTRL, arXiv 2504.16084.
    """
    answers = find_answers(response, answer)
    return _score_votes(answers, offsets, equal, timeout_s, lambda votes, most, num_voters: float(votes == most))


@reward("agreement", kind="listwise")
def agreement(
    response: pa.Array,
    *,
    offsets: Offsets,
    answer: Answer = "whole",
    equal: Equal = "text",
    timeout_s: Timeout = 5,
) -> Scores:
    r"""Share of the responses to a prompt that give the same answer as this one, itself among them.

    response[n] text, the candidates of prompt i at offsets[i]:offsets[i + 1] -> score[n] float64 in [0, 1]; the reason
    counts the votes. The knobs are those of ``majority_vote``; a response without an answer has no vote and 0.0.
    Null response: null, and no vote.
    Source: Wang et al., "Self-Consistency", arXiv 2203.11171, whose consistency tells how sure a model is.
    """
    answers = find_answers(response, answer)
    return _score_votes(answers, offsets, equal, timeout_s, lambda votes, most, num_voters: votes / num_voters)


def _score_votes(
    answers: list[str | None], offsets: Offsets, equal: Equal, timeout_s: int, score: Callable[[int, int, int], float]
) -> Scores:
    """``score`` of an answer's votes, the most votes that an answer has, and the number of voters."""
    classes = answer_classes(answers, offsets, equal, timeout_s)

    def score_answers() -> Iterator[RowScore | None]:
        for names, (start, end) in zip(classes, pairwise(offsets.tolist())):
            votes = Counter(names[vote] for vote in answers[start:end] if vote)
            most, num_voters = max(votes.values(), default=0), votes.total()
            for given in answers[start:end]:
                if given is None:
                    yield None
                elif not given:
                    yield 0.0, None, "no answer"
                else:
                    number = votes[names[given]]
                    yield score(number, most, num_voters), None, f"{number} of {num_voters} votes"

    return to_scores(score_answers())
