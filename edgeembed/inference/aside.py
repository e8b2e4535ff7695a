"""A thread for the work on large requests that would hold up the event loop, and so all other requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from edgeembed.common.heap import IdleTrim

T = TypeVar("T")

LARGE = 128 * 1024
"""Bytes or characters; working on fewer takes less time than handing them to a thread may."""
_TEXT_SIZE = 64
"""What is done once to a text takes as long as what is done to so many of its characters."""


def size_of(texts: Collection[str]) -> int:
    """Return the size of work that is done to each of these texts."""
    return sum(map(len, texts)) + _TEXT_SIZE * len(texts)


DIGITS = 8
"""To write a number as text takes as long as what is done to so many characters: 64 vectors of 384 take more than a
millisecond, in which a query of another client would wait."""


class Aside:
    """Runs functions on one thread, so that at most one of them competes with the event loop.

    Python's global lock lets only one thread run, and most C code holds it until it returns: a function must not call C code
    that takes long, such as a JSON decoder with a large body.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large-requests")
        self._trim = IdleTrim()

    async def run(self, size: int, function: Callable[..., T], *arguments: object) -> T:
        """Return what a function returns: called at once if its work is small, else on the thread. size: see `LARGE`."""
        if size <= LARGE:
            return function(*arguments)
        self._trim.note_work()
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)
