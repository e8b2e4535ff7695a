"""A stand-in for a hub of data sets: one repository, a folder, with the answers that huggingface_hub's file system needs."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "owner/texts"
TOKEN = "hf_53cret"


class DatasetHub:
    """url: for HF_ENDPOINT. refused: requests without the token."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refused = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.answer(self)

            def do_HEAD(self) -> None:
                outer.answer(self)

            def do_POST(self) -> None:
                outer.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(request.path).path)
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refused += 1
            _send(request, 401, b"{}")
            return
        if found := re.fullmatch(rf"/api/datasets/{REPOSITORY}/paths-info/[^/]+", path):
            asked = parse_qs(body.decode())["paths"] if body[:1] != b"{" else json.loads(body)["paths"]
            _send(request, 200, [entry for name in asked if (entry := self._entry(name)) is not None])
        elif found := re.fullmatch(rf"/api/datasets/{REPOSITORY}/tree/[^/]+(?:/(.*))?", path):
            names = sorted(self.folder.joinpath(found[1] or "").rglob("*"))
            _send(request, 200, [self._entry(name.relative_to(self.folder).as_posix()) for name in names])
        elif re.fullmatch(rf"/api/datasets/{REPOSITORY}(/revision/[^/]+)?", path):
            _send(request, 200, {"id": REPOSITORY, "sha": COMMIT, "private": True, "tags": [], "downloads": 0, "likes": 0})
        elif (found := re.fullmatch(rf"/datasets/{REPOSITORY}/resolve/[^/]+/(.*)", path)) and (
            file := self.folder / found[1]
        ).is_file():
            self._file(request, file)
        else:
            _send(request, 404, {"error": "Entry not found"}, "EntryNotFound")

    def _entry(self, name: str) -> dict[str, object] | None:
        file = self.folder / name
        if not file.exists():
            return None
        if file.is_dir():
            return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
        oid = hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()
        return {"type": "file", "path": name, "oid": oid, "size": file.stat().st_size}

    def _file(self, request: http.server.BaseHTTPRequestHandler, file: Path) -> None:
        content, status, total, first = file.read_bytes(), 200, file.stat().st_size, 0
        headers = {"X-Repo-Commit": COMMIT, "ETag": '"etag"', "Accept-Ranges": "bytes"}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")):
            first, status = int(asked[1]), 206
            content = content[first : int(asked[2]) + 1 if asked[2] else None]
            headers["Content-Range"] = f"bytes {first}-{first + len(content) - 1}/{total}"
        _send(request, status, content, **{name.replace("-", "_"): value for name, value in headers.items()})


def _send(
    request: http.server.BaseHTTPRequestHandler, status: int, content: object, error: str = "", **headers: str
) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    request.send_response(status)
    if error:
        request.send_header("X-Error-Code", error)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


@contextmanager
def dataset_hub(folder: Path) -> Iterator[DatasetHub]:
    """Serve a folder as a repository."""
    found = DatasetHub(folder)
    thread = threading.Thread(target=found.server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        found.server.shutdown()
        thread.join()
        found.server.server_close()
