"""The default model while it is not known yet: its file is being found, read or downloaded, or upstream is asked for it."""

from __future__ import annotations

import asyncio
import contextlib

from edgeembed.errors import ModelLoadingError

FETCH_RETRY_SECONDS = 5.0
"""Retry-After while the model is downloaded."""
RETRY_SECONDS = 1.0


class PendingModel:
    """What the daemon does before it has a default model. Everything runs on the event loop but `step` and `begin_fetch`.

    Requests wait for a model that is on this machine, as they wait while it loads. Downloads take minutes: while one runs,
    requests fail at once.
    """

    def __init__(self, what: str, longest_wait: float) -> None:
        """what: is being done, for people. longest_wait: seconds that a request waits."""
        self._loop = asyncio.get_running_loop()
        self._what = what
        self._longest_wait = longest_wait
        self._step = ("", 0, 0)
        self._fetching = False
        self._is_over = False
        self._settled = asyncio.Event()
        """Set when it is over, or when waiting for it makes no sense any more."""

    @property
    def stage(self) -> str:
        """What is being done now, for people, such as "fetching all-minilm-l6-v2: model.safetensors 43 %"."""
        what, done, total = self._step
        return f"{self._what}: {what} {100 * done // total} %" if total else self._what

    @property
    def share(self) -> float | None:
        """How much of the current step is done, from 0 to 1; None if that is not known."""
        _, done, total = self._step
        return min(1.0, done / total) if total else None

    @property
    def is_fetching(self) -> bool:
        """Whether the model is downloaded or converted."""
        return self._fetching

    def error(self) -> ModelLoadingError:
        """Return the error for a request that needs the model."""
        retry_after = FETCH_RETRY_SECONDS if self._fetching else RETRY_SECONDS
        return ModelLoadingError(f"the model is not there yet ({self.stage}); try again soon", retry_after=retry_after)

    async def wait(self) -> None:
        """Wait until the model is known. Raises ModelLoadingError if that takes longer, or if it is downloaded."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._longest_wait):
                await self._settled.wait()
        if not self._is_over:
            raise self.error()

    def finish(self) -> None:
        """Let the requests go on that wait: the model is known."""
        self._is_over = True
        self._settled.set()

    def fail(self) -> None:
        """Let the requests fail that wait: there will be no model."""
        self._settled.set()

    # --- called from the thread that fetches --------------------------------------------------------------------------

    def begin_fetch(self, what: str) -> None:
        """Note that the model has to be fetched."""
        self._what, self._step, self._fetching = what, ("", 0, 0), True
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            self._loop.call_soon_threadsafe(self._settled.set)

    def step(self, what: str, done: int, total: int) -> None:
        """Note how much of some work is done."""
        self._step = (what, done, total)
