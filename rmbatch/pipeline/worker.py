"""A worker process of ``here.py``: it processes one list of ranges after the other, as the driver sends them.

    python -m rmbatch.pipeline.worker FD PID       # its end of a pipe to the driver, and the driver

It dies with its driver. The driver chooses where its output goes.
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
"""The messages of a worker, each with a value: None, counts (the driver answers), rows, the error."""


@dataclass(frozen=True)
class Orders:
    """What a worker does with its ranges."""

    task: "RowTask"
    chats: Mapping[str, "ChatSpec"]
    """The chat models that the stages ask, by their names for people."""
    folder: "Folder"
    """The folder for answers and usage."""


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
    """Process what the driver sends, until it sends None."""
    importlib.import_module("rmbatch.pipeline.task")  # while the driver plans the job
    importlib.import_module("rmbatch.rewards.function")
    pipe.send((READY, None))
    orders = pipe.recv()
    if orders is None:
        return
    board = PipeBoard(pipe)
    with ExitStack() as stack:
        if orders.chats:
            from rmbatch.chat.local import open_clients

            stack.enter_context(open_clients(orders.chats, orders.folder))
        while (pieces := pipe.recv()) is not None:
            pipe.send((DONE, orders.task(pieces, board)))


def main() -> None:
    """Work for the driver at the other end of the pipe. Arguments: the pipe's number and the driver's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the driver, which ends its workers
    threading.Thread(target=_exit_with_driver, args=(int(sys.argv[2]),), daemon=True).start()
    pipe = Connection(int(sys.argv[1]))
    try:
        work(pipe)
    except EOFError:
        return  # the driver is gone
    except Exception as error:
        pipe.send((FAILED, _make_portable(error)))


def _make_portable(error: Exception) -> Exception:
    """Turn an error into one that pickles, for the driver."""
    from rmbatch.pipeline.errors import list_causes, to_job_error

    return to_job_error(list_causes(error), lambda cause: False)


def _exit_with_driver(driver: int) -> None:
    while os.getppid() == driver:
        time.sleep(POLL_S)
    os._exit(1)


if __name__ == "__main__":
    main()
