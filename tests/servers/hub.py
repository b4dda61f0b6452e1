"""A Hugging Face hub on loopback with one dataset: what the library asks to list, read and write it.

    with HubServer(folder, token="hf_x") as hub:         # the files of hf://datasets/org/set; writing needs the token
        subprocess.run([...], env={**os.environ, "HF_ENDPOINT": hub.endpoint})

The library reads HF_ENDPOINT when it is imported, so the address is for another process.
"""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any
from urllib.parse import unquote

COMMIT = "a" * 40


class HubServer:
    """Serves the files of a folder as the dataset ``org/set``."""

    def __init__(self, folder: Path, token: str = "") -> None:
        self.created: list[dict[str, Any]] = []
        """What was asked for when datasets were created."""
        self.commits: list[list[dict[str, Any]]] = []
        """The lines of each commit."""
        known = {"folder": folder, "token": token, "created": self.created, "commits": self.commits, "blobs": {}}
        handler = type("Handler", (_Handler,), known)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "HubServer":
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    token: str
    created: list[dict[str, Any]]
    commits: list[list[dict[str, Any]]]
    blobs: dict[str, bytes]

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if "/resolve/" in path:
            self._send_file(self._find(path, "/resolve/"))
        elif "/tree/" in path:
            folder = self._find(path, "/tree/")
            found = sorted(folder.rglob("*") if "recursive=true" in self.path.lower() else folder.glob("*"))
            self._send_json([self._entry(each) for each in found] if folder.is_dir() else None)
        elif path == "/api/datasets/org/set":
            self._send_json({"id": "org/set", "sha": COMMIT, "siblings": []})
        else:
            self._send_json(None)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        writes = self.path.startswith("/api/repos/create") or any(
            each in self.path for each in ("/commit/", "/preupload/")
        )
        if writes and self.headers.get("Authorization") != f"Bearer {self.token}":
            self._send(401, b'{"error": "Invalid credentials"}', {})
            return
        if "/commit/" in self.path:
            self._commit([json.loads(line) for line in body.splitlines()])
            return
        asked = json.loads(body)
        if self.path.startswith("/api/repos/create"):
            self.created.append(asked)
            self._send_json({"url": f"http://{self.headers['Host']}/datasets/org/set", "id": "org/set"})
            return
        if self.path.startswith("/api/validate-yaml"):
            self._send_json({"errors": [], "warnings": []})
            return
        if "/preupload/" in self.path:
            modes = [
                (file["path"], "lfs" if file["path"].endswith("parquet") else "regular") for file in asked["files"]
            ]
            files = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes]
            self._send_json({"files": files})
            return
        if self.path.endswith("/info/lfs/objects/batch"):
            self._send_json({"transfer": "basic", "objects": [self._offer(each) for each in asked["objects"]]})
            return
        found = [self.folder / path for path in asked.get("paths", [])]
        self._send_json([self._entry(each) for each in found if each.exists()])

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.blobs[hashlib.sha256(data).hexdigest()] = data
        self._send(200, b"", {})

    def _offer(self, asked: dict[str, Any]) -> dict[str, Any]:
        href = f"http://{self.headers['Host']}/blob/{asked['oid']}"
        return {**asked, "actions": {"upload": {"href": href, "header": {}}}}

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        self.commits.append(lines)
        for line in lines:
            value = line["value"]
            path = self.folder / value.get("path", "")
            path.parent.mkdir(parents=True, exist_ok=True)
            if line["key"] == "file":
                path.write_bytes(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                path.write_bytes(self.blobs[value["oid"]])
            elif line["key"] == "deletedFile":
                path.unlink()
        url = f"http://{self.headers['Host']}/datasets/org/set/commit/{COMMIT}"
        self._send_json({"commitUrl": url, "commitOid": COMMIT, "success": True})

    def _find(self, path: str, mark: str) -> Path:
        """The file after the revision."""
        return self.folder / path.partition(mark)[2].partition("/")[2]

    def _entry(self, path: Path) -> dict[str, Any]:
        name = str(path.relative_to(self.folder))
        if path.is_dir():
            return {"type": "directory", "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0, "path": name}
        data = path.read_bytes()
        return {"type": "file", "oid": hashlib.sha1(data).hexdigest(), "size": len(data), "path": name}

    def _send_json(self, value: Any) -> None:
        if value is None:
            self._send(404, b'{"error": "Entry not found"}', {"X-Error-Code": "EntryNotFound"})
        else:
            self._send(200, json.dumps(value).encode(), {})

    def _send_file(self, path: Path) -> None:
        if not path.is_file():
            self._send_json(None)
            return
        data = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        asked = self.headers.get("Range")
        if asked is None:
            self._send(200, data, headers)
            return
        start, _, last = asked.removeprefix("bytes=").partition("-")
        part = data[int(start) : int(last) + 1 if last else None]
        headers["Content-Range"] = f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}"
        self._send(206, part, headers)

    def _send(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass
