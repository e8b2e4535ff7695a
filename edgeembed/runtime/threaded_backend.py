"""A backend in a thread of its own: for programs without an event loop, and for those with any number of them."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from edgeembed.common.files import expanded
from edgeembed.common.loop_thread import LoopThread, wait_for
from edgeembed.config.resolution import Resolved
from edgeembed.errors import ConfigError, EdgeEmbedError
from edgeembed.hub.install import ensure_installed
from edgeembed.runtime.backends import Backend, daemon_backend, engine_backend

log = logging.getLogger(__name__)

T = TypeVar("T")

Work = Callable[[Backend], Coroutine[Any, Any, T]]


class ThreadedBackend:
    """A backend that is found when it is first needed. Any thread may use it."""

    def __init__(self, resolved: Resolved, model: str | None, daemon: bool | None) -> None:
        """model: None for the daemon's default model, or the configured one.

        daemon: True requires the running daemon, False does without it, None takes it if it has the model.
        """
        self._model = model
        self._resolved = resolved
        self._daemon = daemon
        self._lock = threading.Lock()
        self._loop: LoopThread | None = None
        self._backend: Backend | None = None
        self._stack = contextlib.AsyncExitStack()
        self._process = os.getpid()
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Whether `submit` need not find the backend first."""
        return self._backend is not None and not self._closed

    def open(self) -> Backend:
        """Find the backend, or load the model, unless that is done. May download the model. Raises EdgeEmbedError."""
        self._require_usable()
        with self._lock:
            self._require_usable()
            if self._backend is None:
                self._loop = self._loop or LoopThread("edgeembed")
                self._process = os.getpid()
                self._backend = self._find(self._loop)
                log.debug("texts go to %s", self._backend.description)
            return self._backend

    def submit(self, work: Work[T]) -> Future[T]:
        """Start work on the backend, which is found first if need be, and return its future."""
        backend = self._backend
        if backend is None or self._process != os.getpid() or self._closed:
            backend = self.open()
        assert self._loop is not None
        return self._loop.submit(work(backend))

    def run(self, work: Work[T]) -> T:
        """Return the result of work on the backend."""
        return self.result(self.submit(work))

    def result(self, future: Future[T]) -> T:
        """Return the result of a future of `submit`. Raises RuntimeError if the backend was closed meanwhile."""
        try:
            return wait_for(future)
        except (CancelledError, EdgeEmbedError):
            self._require_usable()
            raise

    def close(self) -> None:
        """Close connections, end the worker, write what the cache has not written yet. May be called more than once."""
        self._closed = True
        loop, self._loop, self._backend = self._loop, None, None
        if loop is None or self._process != os.getpid():  # after a fork, all of it belongs to the other process
            return
        try:
            loop.run(self._stack.aclose())
        finally:
            loop.close()

    def close_soon(self) -> None:
        """Close it in a thread: for the garbage collector, which runs in any thread, whatever locks that holds."""
        if self._loop is not None and self._process == os.getpid():
            threading.Thread(target=self.close, name="edgeembed-close").start()

    def _require_usable(self) -> None:
        if self._closed:
            raise RuntimeError("this Embedder is closed; make a new one")
        if self._loop is not None and self._process != os.getpid():
            raise RuntimeError(
                f"this Embedder belongs to process {self._process}, of which this process ({os.getpid()}) is a fork; make "
                "one in each process, or use it only after the fork"
            )

    # --- finding ------------------------------------------------------------------------------------------------------

    def _find(self, loop: LoopThread) -> Backend:
        """Return the daemon if it has the model, or else an engine. This thread downloads, so that Ctrl-C interrupts it."""
        name = self._model
        if name and name.lower().endswith(".gguf") and (file := expanded(name)).is_file():
            name = str(file)  # another file of the daemon's may have this name
        if self._daemon is not False and (found := loop.run(self._enter_daemon(name))):
            return found
        if self._daemon:
            model = f" with the model {name!r}" if name else ""
            raise ConfigError(f"no daemon{model} runs here; start one with `edgeembed serve`, or leave daemon out")
        settings, paths = self._resolved.settings, self._resolved.paths
        if settings.model is None:
            raise ConfigError(
                'no daemon runs, and no model is configured; name one, as in Embedder("all-minilm-l6-v2"), or set one with '
                "`edgeembed config set model NAME`"
            )
        installed = ensure_installed(settings.model, paths=paths, settings=settings, report=log.info)
        # It may be new, or `name` that of the hub: the daemon knows it by its name in the store.
        if self._daemon is None and name and paths.models in installed.path.parents:
            again = self._enter_daemon(installed.spec, installed.digest)
            if found := loop.run(again):
                return found
        return loop.run(self._stack.enter_async_context(engine_backend(self._resolved, log.info, named=name is not None)))

    async def _enter_daemon(self, name: str | None, digest: str = "") -> Backend | None:
        found = await self._stack.enter_async_context(daemon_backend(self._resolved, name, digest))
        if found is None:
            await self._stack.pop_all().aclose()
        return found


def close_at_exit(owner: object, backend: ThreadedBackend) -> None:
    """Close a backend when its owner is gone, or else when the interpreter ends."""
    finalizer = weakref.finalize(owner, backend.close_soon)
    finalizer.atexit = False

    alive = weakref.ref(backend)  # the hook is kept for as long as the interpreter runs

    def close() -> None:
        if (found := alive()) and finalizer.detach():
            found.close()

    # atexit is too late: by then no thread can take the cache's last rows. This is the hook of concurrent.futures.
    register = getattr(threading, "_register_atexit", atexit.register)
    register(close)
