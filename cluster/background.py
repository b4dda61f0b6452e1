"""The target ``local``: a job in the background of this machine, which goes on when this process ends.

Each job has a folder with its process number, its log and, at its end, its exit status:
``~/.cache/rmbatch/jobs/20261128-231502-4f1c/{pid,log,status}``.
"""

import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from cluster.target import State, Submission
from connectors.errors import UserError

CANCEL_S = 30.0
"""What a job may take to stop, before it is killed."""
CANCELLED = "cancelled"


class Background:
    """A ``Target``; its address is the folder of the jobs."""

    def __init__(self, address: str | None = None) -> None:
        self._jobs = Path(address or Path.home() / ".cache/rmbatch/jobs")

    def render(self, submission: Submission) -> str:
        lines = [f"cd {shlex.quote(submission.folder)}"]
        lines += [f"export {name}={shlex.quote(value)}" for name, value in submission.environment.items()]
        return "\n".join([*lines, submission.command_line()])

    def submit(self, submission: Submission) -> str:
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        folder = self._jobs / name
        folder.mkdir(parents=True)
        command = [sys.executable, *submission.command[1:]]
        with (folder / "log").open("wb") as log:
            started = subprocess.Popen(
                ["sh", "-c", f'{shlex.join(command)}; echo $? > "$0"', str(folder.resolve() / "status")],
                cwd=submission.folder,
                env={**os.environ, **submission.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        (folder / "pid").write_text(f"{started.pid} {psutil.Process(started.pid).create_time()}")
        return name

    def status(self, name: str) -> State:
        ended = self._folder(name) / "status"
        if ended.exists() and (said := ended.read_text().strip()):
            return "cancelled" if said == CANCELLED else "finished" if said == "0" else "failed"
        return "running" if self._process(name) else "failed"  # killed, with its shell

    def logs(self, name: str) -> str:
        return (self._folder(name) / "log").read_text(errors="replace")

    def cancel(self, name: str) -> None:
        shell = self._process(name)
        if shell is None:
            return
        processes = [shell, *shell.children(recursive=True)]
        (self._folder(name) / "status").write_text(CANCELLED)
        shell.kill()  # it would write what the job ended with
        for process in processes[1:]:
            if process.is_running():
                process.send_signal(signal.SIGINT)
        _, alive = psutil.wait_procs(processes, CANCEL_S)
        for process in alive:
            process.kill()

    def _folder(self, name: str) -> Path:
        folder = self._jobs / name
        if not (folder / "pid").is_file():
            raise UserError(f"no job {name!r} was submitted here; see {self._jobs}")
        return folder

    def _process(self, name: str) -> psutil.Process | None:
        """The job's shell while it runs; another process may have got its number since."""
        pid, began = (self._folder(name) / "pid").read_text().split()
        try:
            process = psutil.Process(int(pid))
            is_it = process.create_time() == float(began) and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if is_it else None
