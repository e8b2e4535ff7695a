"""Download of one file from the hub, which resumes after network errors and across processes.

Byte ranges are those of RFC 9110, section 14. If-Range is not sent: the hub redirects large files to a content delivery
network whose ETag differs from the hub's, or is missing. Instead the URL names a commit, the partial file's name identifies
the content, and the checksum of the whole file is compared at the end.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from edgeembed.common.progress import human_size
from edgeembed.common.retry_after import parse_retry_after
from edgeembed.errors import ChecksumError, SourceUnreachableError
from edgeembed.hub.download import transport
from edgeembed.hub.download.checks import require_space, wrong_file
from edgeembed.hub.download.transport import Interrupted, Refusal, RetryBudget

log = logging.getLogger(__name__)

_BLOCK = 2**20
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)", re.ASCII)
_LENGTH = re.compile(r"\d{1,18}", re.ASCII)
MOST_UNPROMISED = 64 * 2**20
"""Bytes of a file whose size neither the hub nor the response names: configuration, at most."""
_SLOWEST = 100.0
"""Bytes per second; a connection that is slower for ten times the silence that is allowed counts as broken."""
_PROGRESS = 4096
"""New bytes after which failed attempts are forgotten: with one byte for each attempt a download would never end."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository at one commit."""

    repo: str
    path: str
    """In the repository."""
    commit: str | None
    """Full hash; None if a mirror does not name it."""
    size_bytes: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    """Git's own hash of a file that is not kept in LFS."""
    etag: str | None = None
    """Of the hub; never compared with the ETag of another host."""
    anonymous: bool = False
    """Whether it is requested without the user's token, which the hub refuses."""

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def url(self) -> str:
        """The hub's URL of the file."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repo, self.path, revision=self.commit, endpoint=transport.endpoint())

    def describe(self) -> str:
        """Return the source in a few words."""
        return f"model hub: {self.repo}{f' @ {self.commit[:12]}' if self.commit else ''}, {self.path}"

    def partial(self, target: Path) -> Path:
        """Return the path of the partial file of `target`; it depends on the content."""
        identity = "|".join(str(part) for part in (self.commit, self.sha256 or self.git_sha1 or self.etag, self.size_bytes))
        return target.with_name(f"{target.name}.{hashlib.sha256(identity.encode()).hexdigest()[:12]}.part")

    @property
    def identified(self) -> bool:
        """Whether a partial file of an earlier run can be matched to this content."""
        return any((self.commit, self.sha256, self.git_sha1, self.etag))


@dataclass(frozen=True)
class DownloadWatcher:
    """Callbacks for the progress of a download."""

    at: Callable[[int], None] = lambda _bytes: None
    """Called with the bytes of the file that are on the disk; fewer than before if the download starts over."""
    say: Callable[[str], None] = log.info
    """Called with a line for the user."""


def missing_bytes(remote: RemoteFile, target: Path) -> int:
    """Return how many bytes of a file are missing; 0 if its size is unknown."""
    here = max((path.stat().st_size for path in (target, remote.partial(target)) if path.is_file()), default=0)
    return max((remote.size_bytes or 0) - here, 0)


def download(
    remote: RemoteFile, target: Path, watcher: DownloadWatcher | None = None, retry_budget: RetryBudget | None = None
) -> str:
    """Download a file to `target`, verify it, and return its SHA-256.

    A partial file of an earlier call is completed, even if that process was killed. The caller holds a lock, so that no
    other process writes to it. If the checksum is wrong and the file came in several parts, it is downloaded once more
    from the start.

    Raises:
        SourceUnreachableError: The connection fails for too long (the partial file stays), or the hub refuses the file.
        ChecksumError: The file is not the right one; nothing stays.
        OSError: The disk; the partial file stays.
    """
    return _Download(remote, target, watcher or DownloadWatcher(), retry_budget or transport.RETRY_BUDGET).run()


class _WrongBytes(Exception):
    """The file is complete but has another checksum; the message names both."""


class _Sums:
    """Hashes of the bytes so far."""

    def __init__(self, size: int | None) -> None:
        self.sha256 = hashlib.sha256()
        # Git puts a header with the size before the content (Pro Git, "Git Objects").
        self.git = None if size is None else hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)

    def update(self, chunk: bytes) -> None:
        self.sha256.update(chunk)
        if self.git is not None:
            self.git.update(chunk)


class _Download:
    def __init__(self, remote: RemoteFile, target: Path, watcher: DownloadWatcher, retry_budget: RetryBudget) -> None:
        self._remote = remote
        self._target = target
        self._partial = remote.partial(target)
        self._watcher = watcher
        self._retry_budget = retry_budget
        self._have = 0
        self._furthest = 0
        self._most = MOST_UNPROMISED if remote.size_bytes is None else remote.size_bytes
        """Bytes of the file after which nothing more is written."""
        self._whole = False
        self._resumed = False
        self._sums = self._new_sums()

    def run(self) -> str:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._remove_stale_parts()
        try:
            return self._fetch()
        except _WrongBytes as error:
            if not self._resumed:
                raise self._checksum_error(error) from None
            self._watcher.say(f"{self._remote.name}: wrong checksum after resuming; downloading it again from the start")
        try:
            return self._fetch()
        except _WrongBytes as error:
            raise self._checksum_error(error) from None

    def _remove_stale_parts(self) -> None:
        """Remove partial files of other contents; a finished file is verified again, like a complete partial file."""
        if self._target.is_file():
            self._target.replace(self._partial)
        for stale in self._target.parent.glob("*.part"):
            if re.fullmatch(rf"{re.escape(self._target.name)}\.[0-9a-f]{{12}}\.part", stale.name) and stale != self._partial:
                stale.unlink()
        if not self._remote.identified:
            self._partial.unlink(missing_ok=True)

    def _fetch(self) -> str:
        """Complete and rename the partial file and return its SHA-256. Raises _WrongBytes; the file is then removed."""
        self._have = self._furthest = 0
        self._whole = self._resumed = False
        self._sums = self._new_sums()
        with self._partial.open("r+b" if self._partial.exists() else "w+b") as file:
            self._read_back(file)
            self._complete(file)
            os.fsync(file.fileno())
        try:
            self._verify()
        except _WrongBytes:
            self._partial.unlink()
            raise
        self._partial.replace(self._target)
        return self._sums.sha256.hexdigest()

    def _read_back(self, file: BinaryIO) -> None:
        """Hash what an earlier run left."""
        while chunk := file.read(_BLOCK):
            self._count(chunk)
        if self._have:
            self._resumed = True
            log.info("%s: resuming at %d bytes", self._remote.describe(), self._have)
        if self._remote.size_bytes is not None:
            self._whole = self._have == self._remote.size_bytes
            if self._have > self._remote.size_bytes:
                self._start_over(file)

    def _complete(self, file: BinaryIO) -> None:
        failures = 0
        while not self._whole:
            self._furthest = max(self._furthest, self._have)
            try:
                self._attempt(file)
                continue
            except Interrupted as interrupted:
                reason, asked = str(interrupted), interrupted.retry_after
            except (*transport.line_errors(), *transport.address_errors()) as error:
                if transport.is_about_address(error):
                    raise Refusal(f"the address of the file cannot be followed: {transport.first_line(error)}") from error
                reason, asked = transport.first_line(error), None
            failures = 0 if self._have - self._furthest >= _PROGRESS else failures + 1
            if failures >= self._retry_budget.attempts or (asked or 0.0) > self._retry_budget.longest_wait:
                raise SourceUnreachableError(self._gave_up(reason, asked))
            pause = self._retry_budget.backoff.pause(max(failures, 1), asked)
            if failures:
                self._watcher.say(f"{self._remote.name}: {reason}; retrying in {pause:.0f} s (Ctrl-C keeps what is here)")
            log.info("%s: %s after %d bytes; retrying in %.1f s", self._remote.describe(), reason, self._have, pause)
            time.sleep(pause)

    def _attempt(self, file: BinaryIO) -> None:
        """Request the missing bytes once and write what arrives. Raises Interrupted, Refusal, or an error of the client."""
        headers = transport.headers(anonymous=self._remote.anonymous)
        if self._have:
            headers["Range"] = f"bytes={self._have}-"
        # Through the hub each time, as the URL of the content delivery network is signed for a short time only. The client
        # drops the token when it follows a redirect to another origin.
        with transport.session().stream(
            "GET", self._remote.url, headers=headers, timeout=self._retry_budget.silence, follow_redirects=True
        ) as response:
            skip = self._accept(response, file)
            if self._whole:
                return
            self._resumed = self._resumed or self._have > 0
            began, before = time.monotonic(), self._have
            for chunk in transport.pieces(response):
                if skip:
                    chunk, skip = chunk[skip:], max(skip - len(chunk), 0)
                if len(chunk) > self._most - self._have:
                    self._start_over(file)
                    raise Refusal(f"the server sends more than the {self._most} bytes that {self._promise}")
                if chunk:
                    file.write(chunk)
                    file.flush()  # so that it survives if the process is killed
                    self._count(chunk)
                took = time.monotonic() - began
                if took > 10 * self._retry_budget.silence and self._have - before < took * _SLOWEST:
                    raise Interrupted(f"the server sent only {human_size(self._have - before)} in {took:.0f} s")
        if self._remote.size_bytes is not None and self._have < self._remote.size_bytes:
            raise Interrupted(f"the connection ended with {human_size(self._remote.size_bytes - self._have)} missing")
        self._whole = True

    def _accept(self, response: Any, file: BinaryIO) -> int:
        """Check the headers of a response; return how many of its first bytes are on the disk already."""
        status = response.status_code
        if status == 416:
            return self._no_such_range(response, file)
        if status >= 400:
            raise self._failure(response)
        if status not in (200, 206):
            raise Interrupted(f"HTTP {status} instead of a file")
        encoded = response.headers.get("content-encoding", "identity").lower() not in ("identity", "")
        start, total = 0, response.headers.get("content-length")
        if status == 206:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
            if found is None or found[1] is None or int(found[1]) != self._have or encoded:
                self._start_over(file)
                raise Interrupted("the server sent another range than requested")
            start, total = self._have, None if found[3] == "*" else found[3]
        promised = self._remote.size_bytes
        if promised is None:
            self._most = int(total) if total is not None and not encoded and _LENGTH.fullmatch(total) else MOST_UNPROMISED
            require_space(self._target.parent, max(self._most - self._have, 0))
        if promised is not None and total is not None and not encoded and int(total) != promised:
            self._start_over(file)
            raise Interrupted(f"the server offers {total} bytes, but the hub promised {promised}")
        if self._have and not self._same_content(response):
            self._start_over(file)
            raise Interrupted("the file on the server has changed")
        return self._have - start

    def _no_such_range(self, response: Any, file: BinaryIO) -> int:
        """Handle a 416: the file is complete, or the partial file is not a part of the server's file."""
        found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
        if self._remote.size_bytes is None and found is not None and found[3] == str(self._have):
            self._whole = True
            return 0
        self._start_over(file)
        raise Interrupted("HTTP 416: the server does not have the requested range")

    def _same_content(self, response: Any) -> bool:
        """Return whether a response continues the partial file; with a checksum, the end will show it."""
        if self._remote.sha256 or self._remote.git_sha1:
            return True
        first = [*response.history, response][0]
        etag = first.headers.get("x-linked-etag") or (None if response.history else first.headers.get("etag"))
        return etag is not None and etag.removeprefix("W/").strip('"') == self._remote.etag

    def _failure(self, response: Any) -> Interrupted | Refusal:
        host = urlsplit(str(response.url)).hostname
        if response.history and urlsplit(str(response.url)).netloc != urlsplit(transport.endpoint()).netloc:
            # It refuses an expired signature, or one of its nodes lacks the file; the next attempt may succeed.
            retry_after = parse_retry_after(response.headers.get("retry-after"))
            return Interrupted(f"HTTP {response.status_code} from {host}", retry_after)
        return transport.of_status(response.status_code, response.headers, self._remote.repo)

    def _start_over(self, file: BinaryIO) -> None:
        file.seek(0)
        file.truncate()
        self._have = 0
        self._resumed = False
        self._sums = self._new_sums()
        self._watcher.at(0)

    def _count(self, chunk: bytes) -> None:
        self._sums.update(chunk)
        self._have += len(chunk)
        self._watcher.at(self._have)

    def _new_sums(self) -> _Sums:
        return _Sums(self._remote.size_bytes if self._remote.git_sha1 else None)

    def _verify(self) -> None:
        found, promised, kind = self._sums.sha256.hexdigest(), self._remote.sha256, "SHA-256"
        if promised is None and self._sums.git is not None:
            found, promised, kind = self._sums.git.hexdigest(), self._remote.git_sha1, "Git hash"
        if promised not in (None, found):
            raise _WrongBytes(f"has the {kind} {found}, expected {promised}")

    def _checksum_error(self, error: _WrongBytes) -> ChecksumError:
        return ChecksumError(wrong_file(self._remote.describe(), self._remote.name, str(error)))

    @property
    def _promise(self) -> str:
        if self._remote.size_bytes is not None:
            return "the hub promised"
        return "its headers promised" if self._most != MOST_UNPROMISED else "a file of an unknown size may have"

    def _gave_up(self, reason: str, asked: float | None) -> str:
        size = self._remote.size_bytes
        wait = f" (the server asks to wait {asked:.0f} s)" if asked else ""
        kept = f"; {human_size(self._have)}{f' of {human_size(size)}' if size else ''} are kept for the next attempt"
        return f"{transport.hub_host()}: {reason}{wait}{kept if self._have else ''}"
