"""A worker process of ``here.py``: it works off one list of ranges after the other, as the driver sends them.

    python -m rmbatch.pipeline.worker FD PID       # its end of a pipe to the driver, and the driver

It dies with its driver. What it prints goes where the driver has put its output.
"""

import importlib
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connectors.storage import Folder
    from rmbatch.chat.spec import ChatSpec
    from rmbatch.pipeline.task import RowTask

POLL_S = 0.5
READY, COUNTS, DONE, FAILED = "ready", "counts", "done", "failed"
"""What a worker sends, each with a value: nothing, counts (which want an answer), rows, the error."""


@dataclass(frozen=True)
class Orders:
    """What a worker does with the ranges that it will be sent."""

    task: "RowTask"
    asked: Mapping[str, "ChatSpec"]
    """Whom the stages ask, by the names that people call them."""
    folder: "Folder"
    """Where answers and usage are kept."""


@dataclass(frozen=True)
class PipeBoard:
    """A ``Board`` at the other end of the pipe."""

    pipe: Any

    def add(self, counts: Mapping[str, int]) -> str:
        self.pipe.send((COUNTS, Counter(counts)))
        return str(self.pipe.recv())

    def counts(self) -> dict[str, int]:
        raise NotImplementedError("only the driver reads the counts")

    def stop(self, why: str) -> None:
        raise NotImplementedError("only the driver stops tasks")


def work(pipe: Any) -> None:
    """Do what the driver sends, until it sends None."""
    importlib.import_module("rmbatch.pipeline.task")  # the driver plans the job meanwhile
    importlib.import_module("rmbatch.rewards.function")
    pipe.send((READY, None))
    orders = pipe.recv()
    if orders is None:
        return
    board = PipeBoard(pipe)
    with ExitStack() as stack:
        if orders.asked:
            from rmbatch.chat.local import open_clients

            stack.enter_context(open_clients(orders.asked, orders.folder))
        while (pieces := pipe.recv()) is not None:
            pipe.send((DONE, orders.task(pieces, board)))


def main() -> None:
    """Work for the driver at the other end of the pipe whose number is the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which ends its workers
    threading.Thread(target=_die_with, args=(int(sys.argv[2]),), daemon=True).start()
    pipe = Connection(int(sys.argv[1]))
    try:
        work(pipe)
    except EOFError:
        return  # the driver is gone
    except Exception as error:
        pipe.send((FAILED, _portable(error)))


def _portable(error: Exception) -> Exception:
    """The error with its causes as far as they pickle, for the driver to tell."""
    from rmbatch.pipeline.errors import as_job_error, causes_of

    return as_job_error(causes_of(error), lambda cause: False)


def _die_with(driver: int) -> None:
    while os.getppid() == driver:
        time.sleep(POLL_S)
    os._exit(1)


if __name__ == "__main__":
    main()
