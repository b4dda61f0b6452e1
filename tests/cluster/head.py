"""A Ray cluster of its own for a test: a head node with a dashboard, in its own process group and folder.

with RayHead(num_cpus=2) as head:
    subprocess.run(["ray", "job", "submit", "--address", head.dashboard, ...], env=head.environment())
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from tests.servers.s3 import free_port

RAY = str(Path(sys.executable).with_name("ray"))


class RayHead:
    """``ray start --head`` between ``with`` and the end of its block, with everything it started."""

    def __init__(self, num_cpus: int, start_timeout_s: float = 90.0, num_gpus: int = 0) -> None:
        """``num_gpus``: that Ray is told of, whether or not they are there."""
        self.num_cpus, self.num_gpus, self.start_timeout_s = num_cpus, num_gpus, start_timeout_s
        self.address = f"127.0.0.1:{free_port()}"
        """For ``RAY_ADDRESS``."""
        self.dashboard = f"http://127.0.0.1:{free_port()}"
        """For ``ray job submit --address``."""
        self.folder = ""
        self.popen: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RayHead:
        self.folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # the paths of Unix sockets must be short
        ports = {
            "port": self.address.rsplit(":", 1)[1],
            "dashboard-port": self.dashboard.rsplit(":", 1)[1],
            "dashboard-agent-listen-port": free_port(),
            "ray-client-server-port": free_port(),
            "min-worker-port": 0,
            "max-worker-port": 0,
        }
        options = [f"--{name}={value}" for name, value in ports.items()]
        options += [f"--num-gpus={self.num_gpus}"] if self.num_gpus else []
        options += [f"--num-cpus={self.num_cpus}", f"--temp-dir={self.folder}/t", "--disable-usage-stats", "--block"]
        with open(f"{self.folder}/log", "wb") as log:
            self.popen = subprocess.Popen(
                [RAY, "start", "--head", "--include-dashboard=true", *options],
                env=self.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + self.start_timeout_s
        while time.monotonic() < deadline and self.popen.poll() is None:
            request = urllib.request.Request(f"{self.dashboard}/api/version", headers=self.headers())
            with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5):
                return self
            time.sleep(0.2)
        said = Path(f"{self.folder}/log").read_text(errors="replace")
        self.stop()
        raise RuntimeError(f"no Ray head came up; it said: {said[-2000:]}")

    def __exit__(self, *_: object) -> None:
        self.stop()

    def environment(self) -> dict[str, str]:
        """For all that talks to this cluster; without the token that Ray would keep in the home folder."""
        return {**os.environ, "RAY_AUTH_MODE": "disabled", "PATH": f"{Path(RAY).parent}:{os.environ['PATH']}"}

    def headers(self) -> dict[str, str]:
        """For requests to the dashboard."""
        token = self.environment().get("RAY_AUTH_TOKEN")
        return {"Authorization": f"Bearer {token}"} if token else {}

    def stop(self) -> None:
        """Kill the head and whatever it started, and remove its folder."""
        if self.popen is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                family = psutil.Process(self.popen.pid).children(recursive=True)
                self.popen.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.popen.wait(10)
                for process in [*family, psutil.Process(self.popen.pid)] if self.popen.poll() is None else family:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
            self.popen.wait()
        self.popen = None
        shutil.rmtree(self.folder, ignore_errors=True)
