"""The reward for programs that do the same as other candidates: ``execution_agreement``. No expected values are needed.

``code_execution.py`` finds the program in a response and reads the tests; ``rmbatch/sandbox`` runs it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rmbatch.rewards.contract import Scores, reward
from rmbatch.rewards.rules.code_execution import ProgramRunner
from rmbatch.rewards.rules.texts import RowScore, to_scores
from rmbatch.sandbox.runner import Given, run_inputs


@reward("execution_agreement", kind="listwise")
class ExecutionAgreement(ProgramRunner):
    """Share of the programs for a prompt that give the same as this one in every test, itself among them.

    response[n] text, tests[n] as in ``code_execution``, the candidates of prompt i at offsets[i]:offsets[i + 1] ->
    score[n] float64 in [0, 1]; the reason counts the programs. What the tests expect decides nothing: two programs
    agree where they print the same words, return equal values, or compare equal values in each test; of test functions
    only how many assertions hold is known. A program that fails in every test has no vote and 0.0; one that fails in
    some agrees with those that fail in the same ones. The knobs are those of ``code_execution``.

    Null response or tests: null, and no vote. Null with a code: as in ``code_execution``, and ``not_comparable`` where
    a test gives an object that is no plain data; such a program, and one whose sandbox failed, has no vote.
    Source: Shi et al., "Natural Language to Code Translation with Execution" (MBR-EXEC), arXiv 2204.11454; Li et al.,
    AlphaCode, arXiv 2203.07814, which clusters programs by what they give.
    """

    def __call__(self, response: pa.Array, tests: pa.Array, *, offsets: NDArray[np.int64]) -> Scores:
        """As the class says; equal programs with equal tests are run once."""
        found = self.run_each(response, tests, run_inputs)
        prompts = (found[start:end] for start, end in pairwise(offsets.tolist()))
        return to_scores(score for prompt in prompts for score in _score_prompt(prompt))


def _score_prompt(found: Sequence[Given | RowScore]) -> Iterator[RowScore]:
    """``found``: what the program of each candidate gives, or the row of one that was not run."""
    votes = Counter(each.texts for each in found if isinstance(each, Given) and each.is_plain and each.has_any)
    for each in found:
        if not isinstance(each, Given):
            yield each
        elif not each.is_plain:
            yield (
                None,
                "not_comparable: a test gives an object, and only plain values tell whether programs agree",
                None,
            )
        elif not each.has_any:
            yield 0.0, None, "it fails in every test"
        else:
            yield votes[each.texts] / votes.total(), None, f"{votes[each.texts]} of {votes.total()} programs"
