"""One file of the hub onto the disk, over a line that breaks: what has arrived stays, and the next try goes on from there.

Byte ranges are those of RFC 9110, section 14. If-Range is not sent: the hub redirects large files to a content delivery
network whose ETag is another one than the hub's, or missing. Instead the address names a commit, the partial file's name
says which content it is a part of, and the checksum of the whole is compared at the end.
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
from edgeembed.errors import ChecksumError, SourceUnreachableError
from edgeembed.hub.download import transport
from edgeembed.hub.download.checks import wrong_file
from edgeembed.hub.download.transport import Interrupted, Refusal, RetryBudget

log = logging.getLogger(__name__)

_BLOCK = 2**20
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository at one commit."""

    repo: str
    path: str
    """In the repository."""
    commit: str | None
    """Full hash; None where a mirror does not tell."""
    size_bytes: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    """Git's own hash of a file that is not kept in LFS."""
    etag: str | None = None
    """The hub's; only ever compared with the hub's."""

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def url(self) -> str:
        """Where the hub gives it out."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repo, self.path, revision=self.commit, endpoint=transport.endpoint())

    def describe(self) -> str:
        """Say in a few words where this is."""
        return f"model hub: {self.repo}{f' @ {self.commit[:12]}' if self.commit else ''}, {self.path}"

    def partial(self, target: Path) -> Path:
        """Give the partial file on the way to `target`. Another content has another name."""
        identity = "|".join(str(part) for part in (self.commit, self.sha256 or self.git_sha1 or self.etag, self.size_bytes))
        return target.with_name(f"{target.name}.{hashlib.sha256(identity.encode()).hexdigest()[:12]}.part")

    @property
    def identified(self) -> bool:
        """Whether a part of an earlier run can be known to be of this content."""
        return any((self.commit, self.sha256, self.git_sha1, self.etag))


@dataclass(frozen=True)
class DownloadWatcher:
    """Who is told how a download goes."""

    at: Callable[[int], None] = lambda _bytes: None
    """Takes the bytes of the file that are here now; fewer than before when it is begun anew."""
    say: Callable[[str], None] = log.info
    """Takes one line for a human."""


def missing_bytes(remote: RemoteFile, target: Path) -> int:
    """Give how many bytes of a file are not here yet; 0 when its size is unknown."""
    here = max((path.stat().st_size for path in (target, remote.partial(target)) if path.is_file()), default=0)
    return max((remote.size_bytes or 0) - here, 0)


def download(
    remote: RemoteFile, target: Path, watcher: DownloadWatcher | None = None, retry_budget: RetryBudget | None = None
) -> str:
    """Bring a file to `target`, whole and verified, and give its SHA-256.

    A part that an earlier call left is completed, however that call ended: the process may have been killed. Whoever
    calls holds a lock, so that nobody else writes it. When the sum is wrong and the file was put together from several
    parts, it is fetched once more from the start.

    Raises SourceUnreachableError when the line does not come back (the part stays), or when the hub refuses the file;
    ChecksumError (nothing stays); OSError of the disk (the part stays).
    """
    return _Download(remote, target, watcher or DownloadWatcher(), retry_budget or transport.RETRY_BUDGET).run()


class _WrongBytes(Exception):
    """All bytes are there, and they are not those of the file. The text says what they hash to, and what they should."""


class _Sums:
    """Hashes of the bytes so far."""

    def __init__(self, size: int | None) -> None:
        self.sha256 = hashlib.sha256()
        # Git hashes a header with the size in front of the content (Pro Git, "Git Objects").
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
        self._whole = False
        self._resumed = False
        self._sums = self._new_sums()

    def run(self) -> str:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._clear_way()
        try:
            return self._fetch()
        except _WrongBytes as error:
            if not self._resumed:
                raise self._checksum_error(error) from None
            self._watcher.say(f"{self._remote.name}: the parts do not make up the file; it is fetched anew from the start")
        try:
            return self._fetch()
        except _WrongBytes as error:
            raise self._checksum_error(error) from None

    def _clear_way(self) -> None:
        """Remove parts of other contents; a finished file is looked at again like a part that is whole."""
        if self._target.is_file():
            self._target.replace(self._partial)
        for stale in self._target.parent.glob("*.part"):
            if re.fullmatch(rf"{re.escape(self._target.name)}\.[0-9a-f]{{12}}\.part", stale.name) and stale != self._partial:
                stale.unlink()
        if not self._remote.identified:
            self._partial.unlink(missing_ok=True)

    def _fetch(self) -> str:
        """Complete the partial file and move it to its place. Raises _WrongBytes, and then it is gone."""
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
        """Hash what an earlier run has left."""
        while chunk := file.read(_BLOCK):
            self._count(chunk)
        if self._have:
            self._resumed = True
            log.info("%s: %d bytes are here already", self._remote.describe(), self._have)
        if self._remote.size_bytes is not None:
            self._whole = self._have == self._remote.size_bytes
            if self._have > self._remote.size_bytes:
                self._begin_anew(file)

    def _complete(self, file: BinaryIO) -> None:
        failures = 0
        while not self._whole:
            self._furthest = max(self._furthest, self._have)
            try:
                self._attempt(file)
                continue
            except Interrupted as interrupted:
                reason, asked = str(interrupted), interrupted.retry_after
            except transport.line_errors() as error:
                reason, asked = transport.first_line(error), None
            failures = 0 if self._have > self._furthest else failures + 1
            if failures >= self._retry_budget.attempts or (asked or 0.0) > self._retry_budget.longest_wait:
                raise SourceUnreachableError(self._giving_up(reason, asked))
            pause = self._retry_budget.pause(max(failures, 1), asked)
            if failures:
                self._watcher.say(f"{self._remote.name}: {reason}; next try in {pause:.0f} s, Ctrl-C keeps what is here")
            log.info("%s: %s after %d bytes; next try in %.1f s", self._remote.describe(), reason, self._have, pause)
            time.sleep(pause)

    def _attempt(self, file: BinaryIO) -> None:
        """Ask once for what is missing and write what comes. Raises Interrupted, Refusal, or an error of the client."""
        headers = transport.headers()
        if self._have:
            headers["Range"] = f"bytes={self._have}-"
        # Through the hub each time: the address of the content delivery network is signed for a short while only. The
        # client takes the token off when it follows a redirect to another origin.
        with transport.session().stream(
            "GET", self._remote.url, headers=headers, timeout=self._retry_budget.silence, follow_redirects=True
        ) as response:
            skip = self._accept(response, file)
            if self._whole:
                return
            self._resumed = self._resumed or self._have > 0
            for chunk in response.iter_bytes():
                if skip:
                    chunk, skip = chunk[skip:], max(skip - len(chunk), 0)
                if chunk:
                    file.write(chunk)
                    file.flush()  # it is in the file when the process is killed
                    self._count(chunk)
                if self._remote.size_bytes is not None and self._have > self._remote.size_bytes:
                    self._begin_anew(file)
                    raise Interrupted(f"more than the {self._remote.size_bytes} bytes came that the hub speaks of")
        if self._remote.size_bytes is not None and self._have < self._remote.size_bytes:
            raise Interrupted(f"the connection ended {human_size(self._remote.size_bytes - self._have)} too early")
        self._whole = True

    def _accept(self, response: Any, file: BinaryIO) -> int:
        """Check the head of an answer, and give how many of its first bytes are here already."""
        status = response.status_code
        if status == 416:
            return self._no_such_range(response, file)
        if status >= 400:
            raise self._failure(response)
        if status not in (200, 206):
            raise Interrupted(f"HTTP {status} where a file was expected")
        encoded = response.headers.get("content-encoding", "identity").lower() not in ("identity", "")
        start, total = 0, response.headers.get("content-length")
        if status == 206:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
            if found is None or found[1] is None or int(found[1]) != self._have or encoded:
                self._begin_anew(file)
                raise Interrupted("the server answered with another part than was asked for")
            start, total = self._have, None if found[3] == "*" else found[3]
        promised = self._remote.size_bytes
        if promised is not None and total is not None and not encoded and int(total) != promised:
            self._begin_anew(file)
            raise Interrupted(f"the server offers {total} bytes, the hub speaks of {promised}")
        if self._have and not self._same_content(response):
            self._begin_anew(file)
            raise Interrupted("the file has changed")
        return self._have - start

    def _no_such_range(self, response: Any, file: BinaryIO) -> int:
        """See what a 416 means: all is here, or what is here is no part of what the server has."""
        found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
        if self._remote.size_bytes is None and found is not None and found[3] == str(self._have):
            self._whole = True
            return 0
        self._begin_anew(file)
        raise Interrupted("HTTP 416: the server has no such part of the file")

    def _same_content(self, response: Any) -> bool:
        """Say whether an answer is of the same content as what is here; where there is a checksum, that will tell."""
        if self._remote.sha256 or self._remote.git_sha1:
            return True
        first = [*response.history, response][0]
        etag = first.headers.get("x-linked-etag") or (None if response.history else first.headers.get("etag"))
        return etag is not None and etag.removeprefix("W/").strip('"') == self._remote.etag

    def _failure(self, response: Any) -> Interrupted | Refusal:
        host = urlsplit(str(response.url)).hostname
        if response.history and urlsplit(str(response.url)).netloc != urlsplit(transport.endpoint()).netloc:
            # Its refusals are of a signature that ran out, or of a node that lacks the file; the next one may not.
            return Interrupted(f"HTTP {response.status_code} from {host}", transport.retry_after(response.headers))
        return transport.of_status(response.status_code, response.headers, self._remote.repo)

    def _begin_anew(self, file: BinaryIO) -> None:
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
            raise _WrongBytes(f"has the {kind} {found}, but {promised} is promised")

    def _checksum_error(self, error: _WrongBytes) -> ChecksumError:
        return ChecksumError(wrong_file(self._remote.describe(), self._remote.name, str(error)))

    def _giving_up(self, reason: str, asked: float | None) -> str:
        size = self._remote.size_bytes
        wait = f" (the server asks to come back in {asked:.0f} s)" if asked else ""
        kept = f"; {human_size(self._have)}{f' of {human_size(size)}' if size else ''} are kept for the next try"
        return f"{transport.hub_host()}: {reason}{wait}{kept if self._have else ''}"
