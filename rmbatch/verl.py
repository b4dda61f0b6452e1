"""Any reward of rmbatch as verl's ``compute_score``: a row never raises, what has no score is 0 and says so.

    reward.custom_reward_function.path=pkg://rmbatch.verl reward.custom_reward_function.name=compute_score
    +reward.custom_reward_function.reward_kwargs.reward=math_verify             # or job.yaml; or path/to/file.py:func

or, so that a mistake is told when verl loads the file and not at the first response, in a file of your own:

    compute_score = rmbatch.verl.scorer("job.yaml", columns={"tests": "ground_truth"})

verl knows no null. So a response without a score gets ``score`` 0.0 with ``score_ok`` 0.0 and the reason in ``error``;
look at ``score_ok`` in verl's validation metrics. verl itself is not imported here.
"""

import asyncio
import functools
import json
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal

from connectors.errors import UserError
from rmbatch.rewards.evaluation import Result
from rmbatch.rows.roles import ALL_COLUMNS
from rmbatch.trainers import TrainerReward

_OWN = {"response": "solution_str", "reference": "ground_truth", "data_source": "data_source"}
"""Where a reward's columns stand in verl's arguments; all others stand in ``extra_info``."""
MAX_BATCH = 1024
"""Responses that are scored in one go."""


class _Scorer:
    """A reward and a thread that scores with it: whatever has come while a batch is scored is the next batch."""

    def __init__(self, made: TrainerReward) -> None:
        if made.reward.takes_offsets:
            raise UserError(
                f"reward {made.name!r} compares the responses of one prompt, and verl's reward managers hand over one "
                "response at a time; use a pointwise reward"
            )
        made.check()
        self.made = made
        self._waiting: queue.SimpleQueue[tuple[dict[str, Any], Future[dict[str, Any]]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _Scorer, (self.made,)

    def submit(self, data_source: Any, solution_str: Any, ground_truth: Any, extra_info: Any) -> Future[dict[str, Any]]:
        """The score of one response, to come."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():  # also in a forked child
                self._thread = threading.Thread(target=self._work, name="rmbatch-verl", daemon=True)
                self._thread.start()
        future: Future[dict[str, Any]] = Future()
        extra = extra_info if isinstance(extra_info, Mapping) else {}
        own = {"data_source": data_source, "solution_str": solution_str, "ground_truth": ground_truth}
        given = {"extra_info": {**extra}, **extra, **own}
        self._waiting.put((self._sample(given, extra), future))
        return future

    def _sample(self, given: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
        """What the reward reads, by its own names."""
        sample: dict[str, Any] = {}
        for column in self.made.reward.columns:
            if column == ALL_COLUMNS:
                sample |= {key: _plain(value) for key, value in extra.items() if key not in sample}
                continue
            named = self.made.columns.get(column) if column != "response" else None
            # A job file names its own data's columns; what the caller named is meant, also where a row has it not.
            is_meant = isinstance(named, str) and (named in given or column in self.made.said)
            sample[column] = _plain(given.get(str(named) if is_meant else _OWN.get(column, column)))
        return sample

    def _work(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < MAX_BATCH and not self._waiting.empty():
                batch.append(self._waiting.get())
            try:
                results = self.made.results([sample for sample, _ in batch], contain_mistakes=True)
            except Exception as error:  # no server any more, no budget left: every caller hears of it
                for _, future in batch:
                    future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results):
                future.set_result(_verdict(result, self.made.reward.part_names))


def _verdict(result: Result, part_names: Iterable[str]) -> dict[str, Any]:
    """The result as verl takes it, always with the same keys: verl stacks them."""
    score = 0.0 if result.score is None else result.score
    parts = {name: result.parts[name].score if name in result.parts else None for name in part_names if name}
    missing = float("nan")
    return {
        "score": score,
        "acc": score,
        "score_ok": float(result.score is not None),
        "error": result.error or "",
        **{f"part.{name}": missing if part is None else part for name, part in parts.items()},
    }


def _plain(value: Any) -> Any:
    """A value of numpy, in which verl's batches come, as Python's own."""
    return value.tolist() if type(value).__module__ == "numpy" else value


_scorers: dict[Any, _Scorer] = {}
_scorers_lock = threading.RLock()  # a reward file may itself make a scorer


def _scorer_of(reward: Any, columns: Any, knobs: Any, by: str | None) -> _Scorer:
    """The scorer for these settings, made once in a process."""
    if isinstance(reward, _Scorer):
        return reward
    if reward is None:
        raise UserError(
            "rmbatch.verl: say which reward: +reward.custom_reward_function.reward_kwargs.reward=math_verify, or a "
            "job file, or path/to/file.py:function"
        )
    reward, columns, knobs = _settings(reward), _settings(columns), _settings(knobs)
    try:
        key: Any = json.dumps([reward, columns, knobs, by], sort_keys=True)
    except TypeError:  # a Reward, or a function
        key = (id(reward), json.dumps([columns, repr(knobs), by], sort_keys=True))
    with _scorers_lock:
        if key not in _scorers:
            _scorers[key] = _Scorer(TrainerReward.make(reward, columns=columns, knobs=knobs, by=by))
        return _scorers[key]


def _settings(value: Any) -> Any:
    """Settings as hydra gives them, in Python's own dicts and lists."""
    if isinstance(value, Mapping):
        return {str(key): _settings(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_settings(item) for item in value]
    return value


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    reward: Any = None,
    columns: Mapping[str, str] | None = None,
    knobs: Mapping[str, Any] | None = None,
    by: str | None = None,
    reward_router_address: str | None = None,
    reward_model_tokenizer: Any = None,
) -> dict[str, Any]:
    """The score of one response as a dict: score, acc, score_ok (0.0 where there is no score), error, part.<name>.

    ``reward``: a name, ``path/to/file.py:function``, a job file or a dict as its ``rewards:``. ``columns``: what a
    reward reads, by verl's name (``ground_truth``, or a key of extra_info). ``by``: which of a job's scores. Never
    raises for a response; raises UserError for settings that do not fit, and JobError where judges or served models
    cannot be asked any more: to go on would train on zeros.
    """
    scorer = _scorer_of(reward, columns, knobs, by)
    return scorer.submit(data_source, solution_str, ground_truth, extra_info).result()


async def compute_score_async(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    reward: Any = None,
    columns: Mapping[str, str] | None = None,
    knobs: Mapping[str, Any] | None = None,
    by: str | None = None,
    reward_router_address: str | None = None,
    reward_model_tokenizer: Any = None,
) -> dict[str, Any]:
    """``compute_score``, awaited: for judges and served models, whose questions then are in flight together."""
    scorer = _scorer_of(reward, columns, knobs, by)
    return await asyncio.wrap_future(scorer.submit(data_source, solution_str, ground_truth, extra_info))


def compute_scores(
    data_sources: Sequence[str],
    solution_strs: Sequence[str],
    ground_truths: Sequence[Any],
    extra_infos: Sequence[Mapping[str, Any] | None] | None = None,
    *,
    reward: Any = None,
    columns: Mapping[str, str] | None = None,
    knobs: Mapping[str, Any] | None = None,
    by: str | None = None,
    **_: Any,
) -> list[dict[str, Any]]:
    """``compute_score`` of each response, in one go: for managers that hand over a whole batch."""
    scorer = _scorer_of(reward, columns, knobs, by)
    extras = [None] * len(solution_strs) if extra_infos is None else extra_infos
    rows = zip(data_sources, solution_strs, ground_truths, extras)
    return [future.result() for future in [scorer.submit(*row) for row in rows]]


_CALLS: dict[str, Callable[..., Any]] = {
    "sync": compute_score,
    "async": compute_score_async,
    "batch": compute_scores,
}


def scorer(
    reward: Any,
    *,
    columns: Mapping[str, str] | None = None,
    knobs: Mapping[str, Any] | None = None,
    by: str | None = None,
    call: Literal["sync", "async", "batch"] = "sync",
) -> Callable[..., Any]:
    """``compute_score`` (or its async or batch form) with its settings set, which are looked at now.

    Raises UserError for what does not fit, so that verl stops when it loads the file.
    """
    return functools.partial(_CALLS[call], reward=_scorer_of(reward, columns, knobs, by))
