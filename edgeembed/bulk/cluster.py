"""Many engines for one job: Ray actors, each with a model of its own, on this machine or on a cluster.

Ray places the workers, starts them anew when they die and moves texts and vectors. Everything else is as without it: one
process reads the inputs, cuts them into shards and writes shards and receipts, so the output, what is written once and what
--resume does are the same. Ray Data is not used: it hands out blocks of its own making, and a job's shards have numbers that
its receipts name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec

from edgeembed.bulk.embedders import Embedder, EmbedderInfo, EmbedOptions, LocalEmbedder, error_of, own_service
from edgeembed.config.paths import Paths
from edgeembed.config.resolution import Resolved
from edgeembed.config.settings import Settings
from edgeembed.errors import ConfigError, EdgeEmbedError, EngineUnavailableError
from edgeembed.inference.postprocess import Matrix
from edgeembed.models.profiles import DEFAULT_BATCH_TOKENS

AT_ONCE = 3
"""Requests that each worker has: while one is computed, the next is there and the last one's rows are on their way."""
RESTART_SECONDS = 2.0
"""A worker that has died is asked again after so long; until then its requests go to others."""
CONNECT_SECONDS = 10.0
OBJECT_STORE_BYTES = 256 * 2**20
"""Of a cluster that is this machine alone: a request and its rows take less than a megabyte."""

log = logging.getLogger(__name__)


class ClusterRules(NamedTuple):
    """What to compute on. address: of a Ray cluster, as `ray.init` takes it; None is RAY_ADDRESS, or this machine alone.

    workers: None for as many as fit. cpus, gpus: that each worker takes.
    """

    address: str | None = None
    workers: int | None = None
    cpus: int = 1
    gpus: float = 0


class _Failure(NamedTuple):
    """An error on its way between processes, where exceptions do not travel well. status: HTTP's."""

    status: int
    message: str
    param: str | None


class EngineWorker:
    """What runs in a worker: a model in an engine of its own, loaded when it is first needed."""

    def __init__(self, settings: Settings, how: EmbedOptions) -> None:
        """Prepare. settings: those of the job; folders are this machine's own."""
        self._settings = settings
        self._how = how
        self._lock = asyncio.Lock()
        self._computer: LocalEmbedder | None = None
        self._opened = contextlib.AsyncExitStack()

    async def info(self) -> EmbedderInfo | _Failure:
        """Load the model, and say what computes."""
        try:
            return (await self._ready()).info
        except EdgeEmbedError as error:
            return _Failure(error.status, error.message, None)

    async def embed(self, texts: Sequence[str]) -> Matrix | _Failure:
        """See `Embedder.embed`."""
        try:
            return await (await self._ready()).embed(texts)
        except EdgeEmbedError as error:
            return _Failure(error.status, error.message, error.param)

    async def count(self, texts: Sequence[str]) -> list[int] | _Failure:
        """See `Embedder.count`."""
        try:
            return await (await self._ready()).count(texts)
        except EdgeEmbedError as error:
            return _Failure(error.status, error.message, error.param)

    async def _ready(self) -> LocalEmbedder:
        async with self._lock:
            if self._computer is None:
                resolved = Resolved(self._settings, {}, Paths.resolve())
                service, model = await self._opened.enter_async_context(own_service(resolved, log.info))
                embedder = LocalEmbedder(service, model, self._how)
                await embedder.learn()
                self._computer = embedder
            return self._computer


@asynccontextmanager
async def open_cluster(
    resolved: Resolved, how: EmbedOptions, say: Callable[[str], None], rules: ClusterRules
) -> AsyncIterator[Embedder]:
    """Start workers and wait until the first one has loaded the model. Raises ConfigError, EdgeEmbedError."""
    ray = import_ray()
    settings = msgspec.structs.replace(
        resolved.settings,
        threads=resolved.settings.threads or max(rules.cpus, 1),
        # What `edgeembed tune` found on one machine must not make its rows differ from the others'.
        batch_tokens=resolved.settings.batch_tokens or DEFAULT_BATCH_TOKENS,
        # Ray counts cards: workers that asked for none must not take those of others.
        device=resolved.settings.device if rules.gpus or resolved.settings.device != "auto" else "cpu",
    )
    with _connected(ray, rules):
        count = _workers(ray, rules, say)
        options = {"num_cpus": rules.cpus, "num_gpus": rules.gpus, "max_restarts": -1, "max_concurrency": AT_ONCE + 1}
        actor = ray.remote(**options)(EngineWorker)
        workers = [actor.remote(settings, how) for _ in range(count)]
        embedder = ClusterEmbedder(ray, workers, say)
        try:
            await embedder.learn()
            yield embedder
        finally:
            embedder.close()
            for worker in workers:
                ray.kill(worker)


class ClusterEmbedder:
    """Workers of a cluster: each request goes to one that has room."""

    info: EmbedderInfo

    def __init__(self, ray: Any, workers: Sequence[Any], say: Callable[[str], None]) -> None:
        self._ray = ray
        self._workers = workers
        self._say = say
        self._places: asyncio.Queue[Any] = asyncio.Queue()
        """A worker for each request that one has room for."""
        self._joining: list[asyncio.Task[None]] = []
        self._left = len(workers)

    async def learn(self) -> None:
        """Wait until one worker is ready; the others join as they become so. Raises EdgeEmbedError when none does."""
        first: asyncio.Future[EmbedderInfo] = asyncio.get_running_loop().create_future()
        self._joining = [asyncio.create_task(self._join(worker, first)) for worker in self._workers]
        info = await first
        count = len(self._workers)
        by = f"{count} worker{'s' if count > 1 else ''} on Ray"
        self.info = info._replace(by=by, at_once=AT_ONCE * count)

    async def embed(self, texts: Sequence[str]) -> Matrix:
        found: Matrix = await self._ask(lambda worker: worker.embed.remote(texts))
        return found

    async def count(self, texts: Sequence[str]) -> list[int]:
        found: list[int] = await self._ask(lambda worker: worker.count.remote(texts))
        return found

    def close(self) -> None:
        """Wait for nobody any more."""
        for task in self._joining:
            task.cancel()

    async def _join(self, worker: Any, first: asyncio.Future[EmbedderInfo]) -> None:
        """Give a worker its places when it has loaded the model, the same one as the first worker."""
        try:
            info = await self._answer(worker.info.remote())
        except EdgeEmbedError as error:
            self._leave(f"a worker cannot compute: {error.message}", first, error)
            return
        if not first.done():
            first.set_result(info)
        model = first.result()
        for name in ("digest", "dimensions", "batch_tokens"):
            if getattr(info, name) != getattr(model, name):
                told = f"a worker's {name} is {getattr(info, name)}, another one's {getattr(model, name)}: it gets no texts"
                self._leave(told, first, EngineUnavailableError(told))
                return
        if info.engine != model.engine:
            self._say(f"workers differ ({model.engine}; {info.engine}): last digits depend on which one computes a text")
        for _ in range(AT_ONCE):
            self._places.put_nowait(worker)

    def _leave(self, told: str, first: asyncio.Future[EmbedderInfo], error: EdgeEmbedError) -> None:
        self._left -= 1
        self._say(told)
        if self._left == 0 and not first.done():
            first.set_exception(error)

    async def _ask(self, call: Callable[[Any], Any]) -> Any:
        """Let a worker do something. Raises EngineUnavailableError when it dies over it, and what it raises itself."""
        worker = await self._places.get()
        pause = 0.0
        try:
            return await self._answer(call(worker))
        except _WorkerDiedError as error:
            pause = RESTART_SECONDS
            log.info("%s", error.message)
            raise
        finally:
            asyncio.get_running_loop().call_later(pause, self._places.put_nowait, worker)

    async def _answer(self, reference: Any) -> Any:
        try:
            found = await reference
        except self._ray.exceptions.RayActorError as error:
            raise _WorkerDiedError(f"a worker has died: {str(error).splitlines()[0]}") from error
        except self._ray.exceptions.RayError as error:
            raise EngineUnavailableError(f"Ray: {str(error).splitlines()[0]}") from error
        if isinstance(found, _Failure):
            raise error_of(found.status, found.message, found.param)
        return found


class _WorkerDiedError(EngineUnavailableError):
    """Ray starts the worker anew; others can do what it was doing."""


def import_ray() -> Any:
    """Import Ray, which tells nobody what it is used for. Raises ConfigError when it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Under `uv run` Ray would copy the working directory, and install the project from the copy into the very environment.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ConfigError(f"--engine ray needs Ray ({error}): pip install 'edgeembed[ray]'") from error
    return ray


@contextlib.contextmanager
def _connected(ray: Any, rules: ClusterRules) -> Iterator[None]:
    """Connect to a cluster, or start one that is this machine alone and ends with this process. Raises ConfigError."""
    address = rules.address or os.environ.get("RAY_ADDRESS") or "local"
    _require_answer(address)
    alone = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **alone)
    except Exception as error:  # a start that takes too long is one of no class of its own
        where = "on this machine" if address == "local" else f"at {address}"
        raise ConfigError(f"no Ray cluster {where}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Knock at a cluster's door: Ray itself knocks for minutes. Raises ConfigError."""
    host, _, port = address.rpartition(":")
    if not host or "://" in host or not port.isdecimal():
        return  # local, auto, or something that Ray understands
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"no Ray cluster at {address}: {error}") from error


def _workers(ray: Any, rules: ClusterRules, say: Callable[[str], None]) -> int:
    """Say how many workers there will be. Raises ConfigError when not one fits."""
    there_is = ray.cluster_resources()
    needed = {name: amount for name, amount in (("CPU", rules.cpus), ("GPU", rules.gpus)) if amount}
    fit = min((int(there_is.get(name, 0) / amount) for name, amount in needed.items()), default=1)
    has = ", ".join(f"{there_is.get(name, 0):g} {name}" for name in needed)
    if rules.workers is None and fit < 1:
        raise ConfigError(f"no worker fits into the cluster, which has {has}; see --cpus-per-worker and --gpus-per-worker")
    if rules.workers is not None and rules.workers > fit:
        # A cluster that grows on demand has room for them later.
        say(f"the cluster has {has} now, room for {fit} of {rules.workers} workers; the others wait")
    return rules.workers or fit
