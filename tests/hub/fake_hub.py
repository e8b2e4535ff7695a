"""A model hub on this machine, with the URLs, headers, redirects and failures of the real one.

Shapes: `GET /api/models/OWNER/NAME[/revision/REV]?blobs=true` lists a repository; `/OWNER/NAME/resolve/REV/FILE` returns a
small file itself and redirects a large one to a signed URL of another host, with X-Repo-Commit, X-Linked-Size and
X-Linked-ETag (the SHA-256) on the redirect only. The other host's ETag is unrelated.
"""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import re
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SIGNATURE = "s1gnature-that-nobody-may-see"


@dataclass
class Request:
    """A request, and how much of the response body was sent."""

    method: str
    role: str
    path: str
    authorization: str | None
    range: str | None
    agent: str
    status: int = 0
    sent: int = 0


@dataclass
class Trouble:
    """Failures of the next responses, in order; None: no failure."""

    cut: list[int | None] = field(default_factory=list)
    """Bytes of a large file after which the connection breaks, alternately closed and reset."""
    hub_status: list[int | None] = field(default_factory=list)
    """Statuses of the hub in place of its response to a GET."""
    head_status: list[int | None] = field(default_factory=list)
    """Statuses of the hub in place of its response to a HEAD."""
    cdn_status: list[int | None] = field(default_factory=list)
    retry_after: str | None = None


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # clients that disconnect are expected
            super().handle_error(request, client_address)


class FakeHub:
    """The hub and its content delivery network, two servers.

    `files` maps "owner/name" to its files, `commits` to its commit, `licenses` to the licence in its card. `slow` sends
    large files slowly, so that progress can be seen.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.commits: dict[str, str] = {}
        self.licenses: dict[str, str] = {}
        self.gated: set[str] = set()
        self.expired: set[str] = set()
        """Tokens that the hub refuses, even for public repositories."""
        self.damaged: dict[str, bytes] = {}
        """What the content delivery network sends instead of a file, by "owner/name/file"."""
        self.ranges = True
        self.wrong_ranges = False
        """Whether ranges begin at another byte than requested."""
        self.tells_sizes = True
        """Whether listings and redirects name sizes and checksums; mirrors may not."""
        self.compresses = False
        """Whether small files are compressed, as by some proxies."""
        self.slow = False
        self.hold_at: int | None = None
        """Bytes of a large file after which nothing more is sent until `gate` is set."""
        self.gate = threading.Event()
        self.trouble = Trouble()
        self.log: list[Request] = []
        self._lock = threading.Lock()
        self._servers = [_Server(("127.0.0.1", 0), self._handler(role)) for role in ("hub", "cdn")]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def cdn_url(self) -> str:
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    @property
    def requests(self) -> list[tuple[str, str, str | None]]:
        """Method, "role:path" and Authorization of every request."""
        return [(request.method, f"{request.role}:{request.path}", request.authorization) for request in self.log]

    @property
    def sent(self) -> int:
        """Bytes of large files sent."""
        return sum(request.sent for request in self.log if request.role == "cdn")

    @property
    def downloads(self) -> list[Request]:
        """The requests for bodies of large files."""
        return [request for request in self.log if request.role == "cdn" and request.method == "GET"]

    def close(self) -> None:
        self.gate.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _next(self, troubles: list[Any]) -> Any:
        with self._lock:
            return troubles.pop(0) if troubles else None

    def _handler(hub, role: str) -> type[http.server.BaseHTTPRequestHandler]:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Otherwise a body waits for the acknowledgement of the headers.
            disable_nagle_algorithm = True

            def log_message(self, *args: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self._answer()

            def do_GET(self) -> None:
                self._answer()

            def _answer(self) -> None:
                address = urlsplit(self.path)
                path = unquote(address.path).strip("/")
                self.seen = Request(
                    self.command,
                    role,
                    path,
                    self.headers.get("Authorization"),
                    self.headers.get("Range"),
                    self.headers.get("User-Agent", ""),
                )
                hub.log.append(self.seen)
                trouble = hub.trouble.cdn_status if role == "cdn" else hub.trouble.hub_status
                if self.command == "HEAD":
                    trouble = hub.trouble.head_status if role == "hub" else []
                if (status := hub._next(trouble)) is not None:
                    wait = {"Retry-After": hub.trouble.retry_after} if hub.trouble.retry_after else {}
                    self._send(status, wait, b"trouble")
                elif role == "cdn":
                    self._cdn(path, address.query)
                elif path.startswith("api/models/"):
                    self._api(path.split("/")[2:], address.query)
                elif len(parts := path.split("/")) > 4 and parts[2] == "resolve":
                    self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
                else:
                    self._send(404, {}, b"")

            def _api(self, parts: list[str], query: str) -> None:
                repo = "/".join(parts[:2])
                if self._refused(repo):
                    return
                commit = hub._commit(repo, parts[3] if parts[2:3] == ["revision"] else None)
                siblings: list[dict[str, Any]] = []
                for name, content in hub.files[repo].items():
                    sibling: dict[str, Any] = {"rfilename": name}
                    if "blobs" in parse_qs(query) and hub.tells_sizes:
                        blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
                        sibling |= {"size": len(content), "blobId": blob}
                        if _is_large(name):
                            sha256 = hashlib.sha256(content).hexdigest()
                            sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
                            sibling["blobId"] = hashlib.sha1(b"the pointer").hexdigest()
                    siblings.append(sibling)
                found: dict[str, Any] = {"id": repo, "modelId": repo, "sha": commit, "siblings": siblings}
                if repo in hub.licenses:
                    found["cardData"] = {"license": hub.licenses[repo]}
                self._send(200, {"Content-Type": "application/json"}, json.dumps(found).encode())

            def _resolve(self, repo: str, revision: str, name: str) -> None:
                if self._refused(repo):
                    return
                content = hub.files[repo].get(name)
                if content is None:
                    self._send(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}, b"")
                    return
                headers = {"X-Repo-Commit": hub._commit(repo, revision)}
                if not _is_large(name):
                    blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
                    if hub.compresses:
                        content, headers = gzip.compress(content), headers | {"Content-Encoding": "gzip"}
                    self._send(200, headers | {"ETag": f'"{blob}"'}, content)
                    return
                if hub.tells_sizes:
                    headers |= {
                        "X-Linked-Size": str(len(content)),
                        "X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                    }
                self._send(302, headers | {"Location": f"{hub.cdn_url}/{repo}/{quote(name)}?Signature={SIGNATURE}"}, b"")

            def _cdn(self, path: str, query: str) -> None:
                if parse_qs(query).get("Signature") != [SIGNATURE]:
                    self._send(403, {}, b"not signed")
                    return
                parts = path.split("/")
                content = hub.damaged.get(path, hub.files["/".join(parts[:2])]["/".join(parts[2:])])
                headers = {"ETag": f'"{hashlib.sha256(path.encode()).hexdigest()}"', "Accept-Ranges": "bytes"}
                start = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if hub.ranges else None
                if start is None:
                    self._send(200, headers, content)
                elif hub.wrong_ranges:
                    self._send(206, headers | {"Content-Range": f"bytes 7-{len(content) - 1}/{len(content)}"}, content[7:])
                elif int(start[1]) >= len(content):
                    self._send(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
                else:
                    part = content[int(start[1]) : int(start[2]) + 1 if start[2] else None]
                    place = f"bytes {start[1]}-{int(start[1]) + len(part) - 1}/{len(content)}"
                    self._send(206, headers | {"Content-Range": place}, part)

            def _refused(self, repo: str) -> bool:
                if (self.headers.get("Authorization") or "").removeprefix("Bearer ") in hub.expired:
                    self._send(401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b"")
                elif repo not in hub.files:
                    # The hub hides from strangers which repositories exist.
                    status = 404 if self.headers.get("Authorization") else 401
                    self._send(status, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b"")
                elif repo in hub.gated:
                    message = f"Access to model {repo} is restricted."
                    self._send(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": message}, b"")
                else:
                    return False
                return True

            def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
                self.seen.status = status
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command == "HEAD":
                    return
                cut = hub._next(hub.trouble.cut) if role == "cdn" else None
                body = content if cut is None else content[:cut]
                held = hub.hold_at is not None and hub.hold_at < 2**20
                step = 1000 if role == "cdn" and (hub.slow or held) else 2**16
                for start in range(0, len(body), step):
                    piece = body[start : start + step]
                    self.wfile.write(piece)
                    self.seen.sent += len(piece)
                    if hub.slow and role == "cdn":
                        time.sleep(0.01)  # a slow line
                    if role == "cdn" and hub.hold_at is not None and self.seen.sent >= hub.hold_at:
                        hub.gate.wait(120)
                if cut is not None:
                    self._break(reset=len(hub.trouble.cut) % 2 == 1)

            def _break(self, reset: bool) -> None:
                self.close_connection = True
                if reset:
                    time.sleep(0.05)  # so that the data sent so far arrives
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                else:
                    self.connection.shutdown(socket.SHUT_RDWR)

        return Handler

    def _commit(self, repo: str, revision: str | None) -> str:
        current = self.commits.get(repo, COMMIT)
        return revision if revision and re.fullmatch(r"[0-9a-f]{40}", revision) else current


def _is_large(name: str) -> bool:
    return name.endswith((".gguf", ".safetensors"))
