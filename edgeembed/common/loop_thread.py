"""An event loop in a thread of its own, for code that has no event loop, or another one."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_STOP_SECONDS = 10.0
_WAIT_SECONDS = 0.2 if sys.platform == "win32" else None
"""On Windows, Ctrl-C does not interrupt a wait without an end."""


class LoopThread:
    """A running event loop. Any thread may call, except the loop's own."""

    def __init__(self, name: str) -> None:
        # Windows: only this kind of loop has subprocesses, whatever policy the program has chosen.
        if sys.platform == "win32":
            self._loop: asyncio.AbstractEventLoop = asyncio.ProactorEventLoop()
        else:
            self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    @property
    def is_current(self) -> bool:
        """Whether the caller is the loop's thread, which must not wait for it."""
        return threading.current_thread() is self._thread

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the loop and return its future; cancelling that cancels the coroutine."""
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # the loop is closed
            coroutine.close()
            raise

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return its result. It is cancelled when the caller is interrupted."""
        return wait_for(self.submit(coroutine))

    def close(self) -> None:
        """Cancel what still runs, then end the thread."""
        with contextlib.suppress(RuntimeError, TimeoutError):  # it is closed, or a task does not end
            wait_for(self.submit(_cancel_all()), _STOP_SECONDS)
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()


def wait_for(future: Future[T], seconds: float | None = None) -> T:
    """Return the result of a future. It is cancelled when the caller is interrupted, or when the seconds have passed."""
    try:
        while True:
            try:
                return future.result(seconds or _WAIT_SECONDS)
            except TimeoutError:
                if future.done() or seconds:
                    raise
    except BaseException:
        future.cancel()
        raise


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
