"""The end of a log file, and what is added to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

CHUNK_BYTES = 64 * 2**10
FOLLOW_SECONDS = 0.3


def last_lines(file: Path, count: int, *, begin: int = 0) -> list[str]:
    """Return the last lines of a file, without line ends; none if it is missing or empty.

    begin: bytes of the file that do not count. Raises OSError if it cannot be read.
    """
    return _last_lines(file, count, begin)[0]


def follow(file: Path, count: int, *, pause: Callable[[], None] = lambda: time.sleep(FOLLOW_SECONDS)) -> Iterator[str]:
    """Yield the last lines, then each that is added, for ever; also those of a new file after the log was rotated.

    pause: waits until it makes sense to look again. Raises OSError if the file cannot be read.
    """
    found, at = _last_lines(file, count, 0)
    yield from found
    identity = _identity(file)
    rest = b""
    while True:
        pause()
        size, now = _size(file), _identity(file)
        if now != identity or size < at:
            identity, at, rest = now, 0, b""
        if size <= at:
            continue
        with file.open("rb") as opened:
            opened.seek(at)
            added = opened.read()
        at += len(added)
        *lines, rest = (rest + added).split(b"\n")
        yield from (line.decode(errors="replace").rstrip("\r") for line in lines)


def _last_lines(file: Path, count: int, begin: int) -> tuple[list[str], int]:
    """Return the last lines from byte `begin` on, and the size of the file that was read."""
    try:
        with file.open("rb") as opened:
            size = at = opened.seek(0, 2)
            found = b""
            while at > begin and found.count(b"\n") <= count:
                length = min(CHUNK_BYTES, at - begin)
                at -= length
                opened.seek(at)
                found = opened.read(length) + found
    except FileNotFoundError:
        return [], 0
    lines = found.decode(errors="replace").splitlines()
    return lines[-count:] if count else [], size


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
