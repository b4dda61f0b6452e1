"""Clearing up after programs where no namespace does it."""

import os
import resource
import signal
import time
from contextlib import suppress

import pytest

from rmbatch.sandbox import walls
from rmbatch.sandbox.processes import descendants, kill_descendants

USER = 2_000_000_000


@pytest.mark.skipif(os.getuid() != 0, reason="only root can turn into a user with a limit of its own")
def test_a_fork_bomb_is_killed_to_the_last_process() -> None:
    zygote = os.fork()
    if zygote == 0:
        signal.alarm(60)
        walls.adopt_orphans()
        os.setresuid(USER, USER, USER)
        resource.setrlimit(resource.RLIMIT_NPROC, (20, 20))
        if os.fork() == 0:
            walls.end_with_parent()
            ends = time.monotonic() + 20
            while time.monotonic() < ends:
                with suppress(OSError):
                    os.fork()
            os._exit(0)
        grown_by = time.monotonic() + 10  # on a busy machine it takes its time
        while (many := len(descendants())) <= 10 and time.monotonic() < grown_by:
            time.sleep(0.1)
        for _ in range(3):
            kill_descendants()
            with suppress(ChildProcessError):
                while True:
                    os.waitpid(-1, 0)
        os._exit(0 if many > 10 and not descendants() else 1)
    assert os.waitpid(zygote, 0)[1] == 0
