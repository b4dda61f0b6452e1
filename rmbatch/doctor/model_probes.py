"""Checks whether a model's scores are reliable: loads the model and scores a few conversations in several ways.

It neither reads nor writes kept scores. The model stays loaded until ``connections.close_all()``.

    findings = full_findings(reward, flatten(table, roles))       # minutes for a large model
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from connectors.errors import JobError, UserError
from rmbatch.doctor.findings import Finding
from rmbatch.reward_models.connect import connect
from rmbatch.reward_models.reward import ModelReward
from rmbatch.rewards.contract import Scores
from rmbatch.rows.messages import MESSAGES, TEXT, messages_of
from rmbatch.rows.roles import FlatView
from rmbatch.stores.scores import keys_of

MAX_TRIED = 32
"""Conversations that the model scores: each once alone, and all together twice."""
MAX_SAMPLED = 512
"""Conversations of the rows from which these are chosen."""
WARNING_SHARE, FAILURE_SHARE = 0.01, 0.1
"""Differences of scores that should be equal, as shares of their standard deviation: a warning, a failure."""
EQUAL = 1e-6
"""Scores with at most this relative difference count as equal."""

_OWN_CONVERSATIONS = {
    "What is 2 + 2?": ("4", "It is five.", "Two and two is four, so the answer is 4."),
    "Name a colour.": ("Blue.", "Seven.", "Colours are what light looks like, and blue is one of them."),
}
Numbers = np.ndarray[Any, np.dtype[np.float64]]


def full_findings(reward: ModelReward, view: FlatView | None = None) -> list[Finding]:
    """The findings on conversations of ``view``, or on our own conversations where it has too few."""
    spec = reward.spec.model_copy(update={"store": None})
    unstored = ModelReward(spec)
    unstored.encoder = reward.encoder  # it need not be read again
    began = time.monotonic()
    try:
        connect(spec)
    except UserError as error:
        return [Finding("failure", "engine", str(error))]
    found = [Finding("ok", "engine", f"{spec.engine} loaded it in {time.monotonic() - began:,.0f} s")]
    checks: tuple[Callable[[_Trial], Iterator[Finding]], ...] = (
        _check_scores,
        _check_batching,
        _check_order,
        _check_golden,
    )
    try:
        trial = _choose_trial(unstored, view)
        for check in checks:
            found += list(check(trial))
    except (UserError, JobError) as error:  # the engine is lost, or gives what the settings do not expect
        found.append(Finding("failure", "answers", str(error)))
    return found


@dataclass(frozen=True)
class _Trial:
    """Different conversations to score, all of which fit the model's template."""

    reward: ModelReward
    prompts: pa.Array
    responses: pa.Array
    same_prompt: np.ndarray[Any, np.dtype[np.int64]]
    """[n]: equal for responses to one prompt."""
    whose: str
    """Where the conversations come from, for messages."""

    def ask(self, indices: np.ndarray[Any, Any]) -> Scores:
        """The scores of the conversations at these indices, scored together."""
        index = pa.array(indices)
        columns = {"prompt": self.prompts.take(index), "response": self.responses.take(index)}
        return self.reward.score_columns(columns.__getitem__, len(indices))

    @cached_property
    def together(self) -> Scores:
        """The scores of all, scored together."""
        return self.ask(np.arange(len(self.responses)))

    @cached_property
    def alone(self) -> Numbers:
        """The score of each, scored by itself."""
        return np.concatenate([_numbers(self.ask(np.array([place]))) for place in range(len(self.responses))])

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the scores; 0 where they are equal."""
        scores = _numbers(self.together)
        there = scores[~np.isnan(scores)]
        is_one = not len(there) or np.ptp(there) <= EQUAL * max(1.0, float(np.abs(there).max()))
        return 0.0 if is_one else float(there.std())

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Indices of two responses to one prompt."""
        return [(a, b) for a, b in combinations(range(len(self.responses)), 2) if self._same(a, b)]

    def _same(self, a: int, b: int) -> bool:
        return bool(self.same_prompt[a] == self.same_prompt[b])


def _choose_trial(reward: ModelReward, view: FlatView | None) -> _Trial:
    if view is not None:
        prompts, responses = (view.column(name).slice(0, MAX_SAMPLED) for name in ("prompt", "response"))
        trial = _make_trial(reward, prompts, responses, "of the rows")
        if len(trial.responses) > 1:
            return trial
    own = [
        (messages_of(prompt), response) for prompt, responses in _OWN_CONVERSATIONS.items() for response in responses
    ]
    prompts = pa.array([prompt for prompt, _ in own], MESSAGES)
    return _make_trial(reward, prompts, pa.array([response for _, response in own], TEXT), "of our own")


def _make_trial(reward: ModelReward, prompts: pa.Array, responses: pa.Array, whose: str) -> _Trial:
    """The first conversations that fit the template, each once."""
    encoded = reward.encoder.encode(prompts, responses)
    there = np.flatnonzero(np.asarray(encoded.ids.is_valid()))
    _, first = np.unique(keys_of(encoded.ids.take(pa.array(there))), axis=0, return_index=True)
    indices = there[np.sort(first)[:MAX_TRIED]]
    index = pa.array(indices)
    return _Trial(reward, prompts.take(index), responses.take(index), encoded.prompt[indices], whose)


def _numbers(scores: Scores) -> Numbers:
    return np.asarray(scores.score.to_numpy(zero_copy_only=False), np.float64)


def _check_scores(trial: _Trial) -> Iterator[Finding]:
    """Scores must be finite, and differ between conversations."""
    together = trial.together
    scores, what = _numbers(together), f"{len(trial.responses)} conversations {trial.whose}"
    lost = int(np.isnan(scores).sum())
    if lost:
        assert together.error is not None
        why = together.error.drop_null()[0]
        yield Finding("failure", "scores", f"{lost} of {what} get no score: {why}; look at dtype and engine_args")
        return
    if trial.spread == 0.0:
        cause = "the checkpoint's score head may be empty, or activation: sigmoid be saturated"
        yield Finding("failure", "scores", f"all {what} get {scores[0]:.6g}; {cause}")
        return
    size = EQUAL * max(1.0, float(np.abs(scores).max()))
    if trial.pairs and all(abs(scores[a] - scores[b]) <= size for a, b in trial.pairs):
        cause = "the model does not read the responses; look at chat_template"
        yield Finding("failure", "scores", f"different responses to one prompt get the same score; {cause}")
        return
    message = f"{what}: mean {scores.mean():.4g}, std {trial.spread:.4g}, from {scores.min():.4g} to {scores.max():.4g}"
    yield Finding("ok", "scores", message)


def _check_batching(trial: _Trial) -> Iterator[Finding]:
    """Scores must not depend on the rest of the batch."""
    if trial.spread == 0.0:
        return
    alone, together = trial.alone, _numbers(trial.together)
    flips = sum((alone[a] - alone[b]) * (together[a] - together[b]) < 0 for a, b in trial.pairs)
    order = f"{flips} of {len(trial.pairs)} pairs within prompts change their order"
    cure = "set dtype: float32, or take differences of this size for none"
    yield _compare(trial, "batching", "alone and in a batch", alone, together, order, cure)


def _check_order(trial: _Trial) -> Iterator[Finding]:
    """Each response must get its own score, also where the rows are reversed."""
    if trial.spread == 0.0:
        return
    together = _numbers(trial.together)
    cure = "this engine cannot be used"
    if (
        _largest_difference(np.sort(trial.alone), np.sort(together))
        <= FAILURE_SHARE * trial.spread
        < _largest_difference(trial.alone, together)
    ):
        message = "the scores in a batch are those of the same responses alone, given to the wrong ones"
        yield Finding("failure", "order", f"{message}; {cure}")
        return
    turned = _numbers(trial.ask(np.arange(len(together))[::-1]))[::-1]
    yield _compare(trial, "order", "in order and reversed", turned, together, "", cure)


def _largest_difference(here: Numbers, there: Numbers) -> float:
    """The largest difference; 0 where there is nothing to compare."""
    return float(np.nan_to_num(np.abs(here - there)).max(initial=0.0))


def _compare(trial: _Trial, check: str, how: str, here: Numbers, there: Numbers, besides: str, cure: str) -> Finding:
    vanished = int((np.isnan(here) != np.isnan(there)).sum())
    if vanished:
        return Finding("failure", check, f"{vanished} conversations have a score only once, asked {how}; {cure}")
    largest = _largest_difference(here, there)
    share = largest / trial.spread
    message = f"scores {how} differ by {largest:.3g} at most, {share:.2%} of their standard deviation"
    message += f"; {besides}" if besides else ""
    if share <= WARNING_SHARE:
        return Finding("ok", check, message)
    return Finding("failure" if share > FAILURE_SHARE else "warning", check, f"{message}; {cure}")


def _check_golden(trial: _Trial) -> Iterator[Finding]:
    """Known scores must come out."""
    golden = trial.reward.spec.golden
    if not golden:
        yield Finding("ok", "golden", "no known scores are given; a model card may have some: golden: [{prompt, ...}]")
        return
    prompts = pa.array([messages_of(each.prompt) for each in golden], MESSAGES)
    responses = pa.array([each.response for each in golden], TEXT)
    scores = trial.reward.score_columns({"prompt": prompts, "response": responses}.__getitem__, len(golden))
    assert scores.error is not None
    found = zip(golden, scores.score.to_pylist(), scores.error.to_pylist(), strict=True)
    for number, (each, score, error) in enumerate(found, 1):
        if score is None:
            yield Finding("failure", "golden", f"pair {number} gets no score ({error}), and {each.score:g} is expected")
            continue
        message = (
            f"pair {number} scores {score:.6g}, expected {each.score:g}, a difference of {score - each.score:+.3g}"
        )
        if abs(score - each.score) <= each.tolerance:
            yield Finding("ok", "golden", message)
        else:
            cure = "look at revision, chat_template, dtype and output; or allow for it: tolerance"
            yield Finding("failure", "golden", f"{message}, more than {each.tolerance:g}; {cure}")
