"""Works parts of a block off side by side: while one part waits for a server, another one is scored.

    run_in_lanes([some, others], lambda rows, in_turn: correct_rows(rows, corrector, calls(in_turn)))

What is handed to ``in_turn`` is called on the thread that has called ``run_in_lanes``, one after the other: rewards are
no code for several threads, and some need the signals of the main thread. The rest of each part runs in a thread of
its own, so it must do little but wait.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from connectors.errors import JobError

P = TypeVar("P")
InTurn = Callable[[Callable[[], Any]], Any]
"""Calls a function in turn, and returns or raises what it does."""


@dataclass(frozen=True)
class _Turn:
    function: Callable[[], Any]
    result: "Future[Any]"


@dataclass(frozen=True)
class _End:
    error: BaseException | None = None


def run_in_lanes(parts: Sequence[P], work: Callable[[P, InTurn], None]) -> None:
    """Call ``work`` with each part, side by side. Raises what the first of them raises, when all have ended."""
    if len(parts) < 2:
        for part in parts:
            work(part, lambda function: function())
        return
    queue: SimpleQueue[_Turn | _End] = SimpleQueue()

    def in_turn(function: Callable[[], Any]) -> Any:
        turn = _Turn(function, Future())
        queue.put(turn)
        return turn.result.result()

    def run(part: P) -> None:
        try:
            work(part, in_turn)
        except BaseException as error:  # whatever it is, it is raised where it belongs
            queue.put(_End(error))
        else:
            queue.put(_End())

    for part in parts:
        threading.Thread(target=run, args=(part,), name="lane", daemon=True).start()
    _serve(queue, len(parts))


def _serve(queue: "SimpleQueue[_Turn | _End]", num_running: int) -> None:
    """Take turns until all lanes have ended. After an error no turn is taken any more."""
    error: BaseException | None = None
    while num_running:
        item = queue.get()
        if isinstance(item, _End):
            num_running -= 1
            error = error or item.error
        elif error is not None:
            item.result.set_exception(JobError("stopped because another part has failed"))
        else:
            try:
                item.result.set_result(item.function())
            except Exception as failure:
                error = failure
                item.result.set_exception(failure)
    if error is not None:
        raise error
