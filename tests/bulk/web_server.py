"""A web server of a folder, with ranges or without, that counts what it sends."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class WebServer:
    """ranges: whether it answers to them. sent: the bytes of all answers. broken: answers end in the middle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ranges = True
        self.sent = 0
        self.broken = False
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        file = self.folder / request.path.partition("?")[0].lstrip("/")
        if not file.is_file():
            request.send_error(404)
            return
        content, status = file.read_bytes(), 200
        total = len(content)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        first = 0
        if asked and self.ranges:
            first, status = int(asked[1]), 206
            content = content[first : int(asked[2]) + 1]
        request.send_response(status)
        request.send_header("ETag", f'"{file.stat().st_mtime_ns}"')
        if status == 206:
            request.send_header("Content-Range", f"bytes {first}-{first + len(content) - 1}/{total}")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if self.broken:
            content = content[: len(content) // 2]
            request.close_connection = True
        try:
            request.wfile.write(content)
        except OSError:  # the client has what it wanted
            request.close_connection = True
        self.sent += len(content)


@contextmanager
def web_server(folder: Path) -> Iterator[WebServer]:
    """Serve a folder."""
    found = WebServer(folder)
    thread = threading.Thread(target=found.server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        found.server.shutdown()
        thread.join()
        found.server.server_close()
