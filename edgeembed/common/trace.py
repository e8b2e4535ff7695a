"""Where the time of a request goes: stamps at the boundaries of its stages, in each process that it passes.

`edgeembed bench --trace` starts a daemon for this and names a folder in its environment; without one, `traced` returns
functions as they are, so that nothing is called, and nothing kept. Each process writes its stamps to a file of that folder,
which it maps when this module is imported: a worker may open no file later. The clock is the same in all processes.

A stamp names the stage that ends with it. So the time between any two stamps belongs to exactly one stage, and all stages
together are the whole time.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

VARIABLE = "_EDGEEMBED_TRACE"
"""Names the folder. It does not begin as the variables of settings do."""
STAGES = (
    "arrive",
    "parse HTTP",
    "wake the handler",
    "fast path",
    "route",
    "decode JSON",
    "validate",
    "clean and key",
    "look up",
    "admit",
    "send to the worker",
    "reach the worker",
    "decode the frame",
    "tokenise",
    "queue",
    "wake the lane",
    "prepare the batch",
    "compute",
    "copy out",
    "send the rows",
    "reach the daemon",
    "store",
    "wake the request",
    "encode",
    "answer",
    "write",
)
"""In the order of a request. The last one ends when the client has the answer."""
PARTS = "compute: "
"""Parts of a stage begin with its name: their durations are measured by what computes, and are no stamps."""
_STAGES, _MOST_STAMPS = 64, 400_000
_NAME = struct.Struct("40s")
_stamp = struct.Struct("<iiq")  # stage, whether it is a part, nanoseconds, which are 0 behind the last stamp
_NAMES_BYTES = _STAGES * _NAME.size
_FILE_BYTES = _NAMES_BYTES + _MOST_STAMPS * _stamp.size


class Stamp(NamedTuple):
    """When a stage ended, in nanoseconds of `time.perf_counter_ns`.

    duration: of a part of the stage that follows; None for a stage.
    """

    at: int
    stage: str
    duration: int | None = None


class Recorder:
    """Writes the stamps of one process to a file, which outlives it. Any thread may stamp."""

    def __init__(self, file: Path) -> None:
        """Create the file. Raises OSError."""
        with file.open("xb+") as opened:
            opened.truncate(_FILE_BYTES)
            self._memory = mmap.mmap(opened.fileno(), _FILE_BYTES)
        self._stages: dict[str, int] = {}
        self._adding = threading.Lock()
        self._numbers = itertools.count()

    def stamp(self, stage: str) -> None:
        """Let a stage end now. When the file is full, nothing is recorded."""
        now = time.perf_counter_ns()
        self._write(stage, 0, now)

    def part(self, stage: str, nanoseconds: int) -> None:
        """Record the duration of a part of the stage that ends with the next stamp; see `PARTS`."""
        self._write(stage, 1, nanoseconds)

    def _write(self, stage: str, is_part: int, nanoseconds: int) -> None:
        number = next(self._numbers)
        if number < _MOST_STAMPS:
            known = self._stages.get(stage)
            _stamp.pack_into(
                self._memory,
                _NAMES_BYTES + number * _stamp.size,
                self._add(stage) if known is None else known,
                is_part,
                nanoseconds,
            )

    def _add(self, stage: str) -> int:
        """Return the number of a new stage, and write its name."""
        with self._adding:
            number = self._stages.setdefault(stage, len(self._stages))
            _NAME.pack_into(self._memory, number * _NAME.size, stage.encode())
            return number


def read_stamps(file: Path) -> Iterator[Stamp]:
    """Yield the stamps of a process, in the order in which they were written. Raises OSError."""
    content = file.read_bytes()
    names = [name.rstrip(b"\0").decode() for (name,) in _NAME.iter_unpack(content[:_NAMES_BYTES])]
    latest = 0
    for number, is_part, nanoseconds in _stamp.iter_unpack(content[_NAMES_BYTES:]):
        if not nanoseconds:
            return
        if is_part:
            yield Stamp(latest, names[number], nanoseconds)
        else:
            latest = nanoseconds
            yield Stamp(latest, names[number])


def read_folder(folder: Path) -> list[Stamp]:
    """Return the stamps of all processes. Raises OSError."""
    return [stamp for file in folder.glob("*.stamps") for stamp in read_stamps(file)]


def _begin() -> Recorder | None:
    folder = os.environ.get(VARIABLE)
    return Recorder(Path(folder) / f"{os.getpid()}.stamps") if folder else None


recorder = _begin()
"""Of this process; None unless it is traced."""


def traced(*, before: str | None = None, within: str | None = None) -> Callable[[F], F]:
    """Stamp the calls of a function. before: the stage that ends when it is called. within: that which ends with it.

    A function of a process that is not traced stays the same object.
    """
    kept = recorder

    def decorate(function: F) -> F:
        if kept is None:
            return function
        return _stamping(function, kept, before, within)

    return decorate


def _stamping(function: F, kept: Recorder, before: str | None, within: str | None) -> F:
    call: Any

    if inspect.iscoroutinefunction(function):

        async def call(*args: Any, **named: Any) -> Any:
            if before is not None:
                kept.stamp(before)
            result = await function(*args, **named)
            if within is not None:
                kept.stamp(within)
            return result

    else:

        def call(*args: Any, **named: Any) -> Any:
            if before is not None:
                kept.stamp(before)
            result = function(*args, **named)
            if within is not None:
                kept.stamp(within)
            return result

    functools.update_wrapper(call, function)
    return cast(F, call)
