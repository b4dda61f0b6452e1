"""Runs a command of verl's interpreter, which ends with this process, whatever ends it.

ask(compose_command(recipe, python), "[]")                         # what it prints, as JSON
with Running(command, environment, "/out/log") as running:
    while running.status() is None: ...
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from connectors.errors import JobError
from rmbatch.pipeline import guard
from rmbatch.pipeline.model_server import find_cause, read_end

ASK_S = 300.0


def ask(command: Sequence[str], said: str) -> Any:
    """Run a short command, give it a text, and read the JSON in the last line that it prints. Raises JobError."""
    try:
        ended = subprocess.run(command, input=said, capture_output=True, text=True, timeout=ASK_S)
        if ended.returncode == 0:
            return json.loads(ended.stdout.splitlines()[-1])
        why = find_cause(ended.stderr) or ended.stderr.strip()[-300:]
    except subprocess.TimeoutExpired:
        why = f"it took more than {ASK_S:.0f} s"
    except (OSError, ValueError, IndexError) as error:
        why = str(error)
    raise JobError(f"{command[0]} could not tell its configuration: {why}")


class Running:
    """A command and all that it starts. Its output goes to a file."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: str) -> None:
        self._command, self._environment, self.log = command, environment, log
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch = ""

    def __enter__(self) -> "Running":
        self._scratch = tempfile.mkdtemp(prefix="rmbatch-verl-")
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", guard.__file__, self._scratch, *self._command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self._environment),
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        """End it at once, with all that it has started."""
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.stdin.close()
            self._process.wait(guard.KILL_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # where the guard itself was killed
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def status(self) -> int | None:
        """Its status; None: it runs."""
        assert self._process is not None
        return self._process.poll()

    def explain_failure(self) -> str:
        """Why it ended, as far as its log tells."""
        from pathlib import Path

        status = self.status() or 0
        ended = guard.describe_status(128 - status if 128 < status < 192 else status)
        cause = find_cause(read_end(Path(self.log)))
        return f"it {ended}{'; ' if cause else ''}{cause}; all that it said is in {self.log}"
