"""A chat server in a process of its own, with a child that stands for an engine: what tests have a job serve.

    serve: {model: FOLDER, command: [python, tests/servers/chat_process.py, "{model}", "{name}", "{host}", "{port}"]}

Its folder says how it behaves, and learns what happens: ``pids`` has a line for each process that it has started,
``asked`` one for each question. With a file ``broken`` it ends with these words, with ``slow`` it answers after so many
seconds, and what stands in ``deadly`` kills it when it is asked (once, with ``once`` beside it). With ``metrics`` it
counts the tokens of ``/v1/completions``, which hangs with ``stuck`` and is refused with ``no nudges``.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.judging import answering, honest

ENGINE = "import time; time.sleep(3600)"


def serve(folder: Path, name: str, host: str, port: int) -> None:
    if (broken := folder / "broken").exists():
        print(f"Traceback ...\nRuntimeError: {broken.read_text()}", file=sys.stderr)
        sys.exit(1)
    engine = subprocess.Popen([sys.executable, "-c", ENGINE])
    note(folder / "pids", f"{os.getpid()} {engine.pid}")
    answer = answering(lambda seen: honest(seen) if "<response" in seen.text else f"said {seen.body.get('seed')}")

    def metrics() -> bytes:
        nudges = folder / "nudges"
        num = 0 if (folder / "no nudges").exists() or not nudges.exists() else len(nudges.read_text())
        names = ("num_requests_running", "prompt_tokens_total", "generation_tokens_total")
        return "".join(f"vllm:{name}{{}} {value}\n" for name, value in zip(names, (0, num, num))).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/health":
                self.reply({})
            elif self.path == "/metrics":
                self.reply(metrics() if (folder / "metrics").exists() else b"", 200)
            else:
                self.reply({"data": [{"id": name}]})

        def do_POST(self) -> None:
            if self.path == "/v1/completions":
                if (folder / "stuck").exists():
                    time.sleep(3600)
                note(folder / "nudges", "")
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if "prompt" in body:
                return self.reply({"choices": [{"text": "b"}]}, 400 if (folder / "no nudges").exists() else 200)
            text = body["messages"][-1]["content"]
            note(folder / "asked", json.dumps({"text": text, "key": self.headers["Authorization"], "pid": os.getpid()}))
            if (deadly := folder / "deadly").exists() and deadly.read_text() in text:
                if (folder / "once").exists():
                    deadly.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            if (slow := folder / "slow").exists():
                time.sleep(float(slow.read_text()))
            self.reply(answer(self.path, body))

        def reply(self, what: Any, status: int = 200) -> None:
            data = what if isinstance(what, bytes) else json.dumps(what).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    ThreadingHTTPServer.request_queue_size = 256
    ThreadingHTTPServer((host, port), Handler).serve_forever()


_noting = threading.Lock()


def note(path: Path, line: str) -> None:
    with _noting, path.open("a") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
