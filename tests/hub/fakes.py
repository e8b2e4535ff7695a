"""Stand-ins for what the hub room talks to: a GGUF file, a wheel, the model hub, the converter."""

from __future__ import annotations

import hashlib
import http.server
import json
import struct
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def gguf_bytes(**values: str | int | list[str]) -> bytes:
    """Make a GGUF file without tensors; keys are written with `__` for a dot."""
    body = struct.pack("<IQQ", 3, 0, len(values))
    for key, value in values.items():
        body += _string(key.replace("__", "."))
        if isinstance(value, str):
            body += struct.pack("<I", 8) + _string(value)
        elif isinstance(value, int):
            body += struct.pack("<II", 4, value)
        else:
            body += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_string(item) for item in value)
    return b"GGUF" + body


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def make_wheel(folder: Path, package: str, version: str, files: dict[str, bytes]) -> Path:
    """Write a wheel that pip accepts for download."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{package.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    files = {
        **files,
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode(),
        f"{stem}.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{stem}.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


class FakeConverter:
    """`convert_checkpoint` without the work; counts its calls."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.calls: list[dict[str, Any]] = []
        self._seconds = seconds

    def __call__(self, source: Path, target: Path, **options: Any) -> Any:
        self.calls.append({"source": source, "target": target, **options})
        assert (source / "model.safetensors").is_file()
        time.sleep(self._seconds)
        options["progress"](1, 1)
        target.write_bytes(gguf_bytes(general__architecture="bert", general__name=options["name"]))
        return SimpleNamespace(path=target, fallbacks=["2 tensors are F16"])


class FakeHub:
    """A server with the URL shapes of the Hugging Face hub; large files are redirected to a second one, like its CDN.

    `files` maps "owner/name" to its files. `slow` makes large files dribble, so that a pull can be interrupted.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.slow = False
        self._servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler(role)) for role in ("hub", "cdn")]
        for server in self._servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def cdn_url(self) -> str:
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _handler(hub, role: str) -> type[http.server.BaseHTTPRequestHandler]:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def _answer(self, body: bool) -> None:
                path = unquote(urlsplit(self.path).path).strip("/")
                hub.requests.append((self.command, f"{role}:{path}", self.headers.get("Authorization")))
                parts = path.split("/")
                if role == "cdn":
                    content = hub.files["/".join(parts[:2])]["/".join(parts[2:])]
                    self._send(200, {}, content, body)
                elif parts[:2] == ["api", "models"]:
                    files = hub.files["/".join(parts[2:4])]
                    listing = [
                        {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                        for name, content in files.items()
                    ]
                    found: Any = listing if parts[4] == "tree" else {"id": "/".join(parts[2:4]), "sha": COMMIT}
                    self._send(200, {"Content-Type": "application/json"}, json.dumps(found).encode(), body)
                elif len(parts) > 4 and parts[2] == "resolve":
                    self._resolve("/".join(parts[:2]), "/".join(parts[4:]), body)
                else:
                    self._send(404, {}, b"", body)

            def _resolve(self, repo: str, name: str, body: bool) -> None:
                content = hub.files.get(repo, {}).get(name)
                if content is None:
                    self._send(404, {"X-Error-Code": "EntryNotFound"}, b"", body)
                    return
                headers = {"X-Repo-Commit": COMMIT}
                if name.endswith((".gguf", ".safetensors")):
                    headers |= {
                        "X-Linked-Size": str(len(content)),
                        "X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                        "Location": f"{hub.cdn_url}/{repo}/{name}",
                    }
                    self._send(302, headers, b"", body)
                else:
                    self._send(200, headers | {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'}, content, body)

            def _send(self, status: int, headers: dict[str, str], content: bytes, body: bool) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if not body:
                    return
                if not (hub.slow and role == "cdn"):
                    self.wfile.write(content)
                    return
                for start in range(0, len(content), 1000):
                    self.wfile.write(content[start : start + 1000])
                    self.wfile.flush()
                    time.sleep(0.1)

        return Handler
