"""A Hugging Face hub of one's own on the loopback interface: it answers what the hub's client asks of models.

A file of weights lies on another host, as large files of the hub do: what is asked for at its name is redirected there.
"""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

_API = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)/(?:revision|tree)/[^/?]+")
_FILE = re.compile(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>[^?]+)")
_LARGE = re.compile(r"/large/(?P<sha256>[0-9a-f]{64})")


class Asked(NamedTuple):
    """A request: its method, path, and the bytes that it wants, empty for all."""

    method: str
    path: str
    range: str


class Hub:
    """Models by name, each with its files; may be changed while it serves.

    renamed  from a model's old name to its present one
    gated    models that are for those alone who send the token
    cut      files that break off behind so many bytes, each as often as it says: (bytes, times)
    asked    all requests so far
    url      of the hub, and `storage` of the other host that large files lie on
    """

    token = "hf_accepted"

    def __init__(self, models: Mapping[str, Path]):
        self.models = {
            name: {file.name: file.read_bytes() for file in directory.iterdir()} for name, directory in models.items()
        }
        self.renamed: dict[str, str] = {}
        self.gated: set[str] = set()
        self.cut: dict[str, tuple[int, int]] = {}
        self.asked: list[Asked] = []
        self.url = self.storage = ""

    def fetched(self, file: str) -> list[str]:
        """The parts of a file, or of all that is large, that were sent, by what was asked for of each."""
        return [each.range for each in self.asked if each.method == "GET" and f"/{file}" in each.path]

    def commit(self, name: str) -> str:
        content = {file: hashlib.sha1(content).hexdigest() for file, content in self.models[name].items()}
        return hashlib.sha1(json.dumps([name, content], sort_keys=True).encode()).hexdigest()

    def tree(self, name: str) -> list[dict[str, Any]]:
        rows = []
        for file, content in self.models[name].items():
            row = {"type": "file", "path": file, "size": len(content), "oid": _blob_id(content)}
            if _is_large(file):
                row["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 134}
            rows.append(row)
        return rows


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        self.hub.asked.append(Asked(self.command, self.path, self.headers.get("Range", "")))
        if large := _LARGE.fullmatch(self.path):
            return self._send_large(large["sha256"])
        asked = _API.match(self.path) or _FILE.fullmatch(self.path)
        name = asked["name"] if asked else ""
        if name in self.hub.renamed:
            return self._send(307, {"Location": self.path.replace(name, self.hub.renamed[name], 1)})
        if asked is None or name not in self.hub.models:
            return self._refuse(401, "RepoNotFound")
        if asked.re is _FILE:
            return self._answer_file(name, asked["file"])
        if "/tree/" in self.path:
            return self._send_json(self.hub.tree(name))
        siblings = [{"rfilename": file} for file in self.hub.models[name]]
        self._send_json({"id": name, "sha": self.hub.commit(name), "siblings": siblings, "tags": []})

    def _answer_file(self, name: str, file: str) -> None:
        if name in self.hub.gated and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._refuse(403 if "Authorization" in self.headers else 401, "GatedRepo")
        content = self.hub.models[name].get(file)
        commit = {"X-Repo-Commit": self.hub.commit(name)}
        if content is None:
            return self._refuse(404, "EntryNotFound", **commit)
        if not _is_large(file):
            return self._send_part(file, content, commit | {"ETag": f'"{_blob_id(content)}"'})
        linked = {"X-Linked-Etag": f'"{_sha256(content)}"', "X-Linked-Size": str(len(content))}
        self._send(302, commit | linked | {"Location": f"{self.hub.storage}/large/{_sha256(content)}"})

    def _send_large(self, sha256: str) -> None:
        files = (item for model in self.hub.models.values() for item in model.items())
        file, content = next((file, content) for file, content in files if _sha256(content) == sha256)
        self._send_part(file, content, {"ETag": f'"{sha256}"'})

    def _send_part(self, file: str, content: bytes, headers: dict[str, str]) -> None:
        first = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if "Range" in self.headers else 0
        part = content[first:]
        if first:
            headers |= {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
        behind, times = self.hub.cut.get(file, (0, 0))
        if self.command == "GET" and times:
            self.hub.cut[file] = (behind, times - 1)
            self._send(206 if first else 200, headers, part[: max(behind - first, 0)], length=len(part))
            self.close_connection = True
        else:
            self._send(206 if first else 200, headers, part)

    def _send_json(self, content: Any) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def _refuse(self, status: int, code: str, **headers: str) -> None:
        self._send(status, {"X-Error-Code": code, "X-Error-Message": code, **headers})

    def _send(self, status: int, headers: Mapping[str, str], body: bytes = b"", length: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[None]:
    """A context in which the hub answers."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url, hub.storage = (f"http://{host}:{server.server_port}" for host in ("127.0.0.1", "localhost"))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def _is_large(file: str) -> bool:
    return file.endswith((".safetensors", ".bin"))


def _blob_id(content: bytes) -> str:
    """As git names a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
