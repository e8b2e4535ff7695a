"""Many engines for one job: Ray actors, each with its own copy of the model, on this machine or on a cluster.

Ray places the workers, restarts them when they die and moves texts and vectors. Everything else works as without Ray: one
process reads the inputs, cuts them into shards and writes shards and receipts, so output and --resume are the same. Ray Data
does not fit: it chooses its own blocks, while the receipts of a job name numbered shards.
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

from edgeembed.bulk.computed import Computed
from edgeembed.bulk.embedders import Embedder, EmbedderInfo, EmbedOptions, LocalEmbedder
from edgeembed.client import error_of
from edgeembed.common.installation import find_installation
from edgeembed.common.progress import ReportLine
from edgeembed.config.paths import Paths
from edgeembed.config.resolution import Resolved
from edgeembed.config.secrets import HUB_TOKENS, hide_secrets, secret_names
from edgeembed.config.settings import Settings
from edgeembed.errors import ConfigError, EdgeEmbedError, EngineUnavailableError
from edgeembed.models.profiles import DEFAULT_BATCH_TOKENS
from edgeembed.runtime.in_process import in_process_service

REQUESTS_PER_WORKER = 3
"""While a worker computes one, the next is there and the rows of the last one are being transferred."""
RESTART_SECONDS = 2.0
"""A worker that died gets no requests for this long."""
CONNECT_SECONDS = 10.0
OBJECT_STORE_BYTES = 256 * 2**20
"""For a cluster on this machine; a request and its dense rows take less than a megabyte, and token rows 16."""

log = logging.getLogger(__name__)


class ClusterRules(NamedTuple):
    """The workers of a job. address: of the Ray cluster, as for `ray.init`; None for RAY_ADDRESS, or else this machine.

    workers: None for as many as fit. cpus, gpus: per worker.
    """

    address: str | None = None
    workers: int | None = None
    cpus: int = 1
    gpus: float = 0


class _Failure(NamedTuple):
    """An error sent between processes, where exceptions do not pickle well. status: of HTTP."""

    status: int
    message: str
    param: str | None


class EngineWorker:
    """The Ray actor: a model in its own engine, loaded when it is first needed."""

    def __init__(self, settings: Settings, options: EmbedOptions) -> None:
        """settings: of the job; the folders are those of the worker's machine."""
        self._settings = settings
        self._options = options
        self._lock = asyncio.Lock()
        self._embedder: LocalEmbedder | None = None
        self._resources = contextlib.AsyncExitStack()

    async def info(self) -> EmbedderInfo | _Failure:
        """Load the model and describe it."""
        try:
            return (await self._ready()).info
        except EdgeEmbedError as error:
            return _Failure(error.status, error.message, None)

    async def embed(self, texts: Sequence[str]) -> Computed | _Failure:
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
            if self._embedder is None:
                resolved = Resolved(self._settings, {}, Paths.resolve())
                opened = in_process_service(resolved, log.info, cache=False)
                service, model = await self._resources.enter_async_context(opened)
                embedder = LocalEmbedder(service, model, self._options)
                await embedder.start()
                self._embedder = embedder
            return self._embedder


@asynccontextmanager
async def open_cluster(
    resolved: Resolved, options: EmbedOptions, report: ReportLine, rules: ClusterRules
) -> AsyncIterator[Embedder]:
    """Start workers and wait until the first one has loaded the model. Raises ConfigError, EdgeEmbedError."""
    ray = import_ray()
    settings = msgspec.structs.replace(
        resolved.settings,
        threads=resolved.settings.threads or max(rules.cpus, 1),
        # Batch sizes tuned on one machine would make its rows differ from those of the others.
        batch_tokens=resolved.settings.batch_tokens or DEFAULT_BATCH_TOKENS,
        # Ray assigns GPUs: a worker that asked for none must not use those of others.
        device=resolved.settings.device if rules.gpus or resolved.settings.device != "auto" else "cpu",
        **dict.fromkeys(secret_names()),
    )
    with _connected(ray, rules):
        count = worker_count(ray, rules, report)
        actor_options = {
            "num_cpus": rules.cpus,
            "num_gpus": rules.gpus,
            "max_restarts": -1,
            "max_concurrency": REQUESTS_PER_WORKER + 1,
        }
        actor = ray.remote(**actor_options)(EngineWorker)
        workers = [actor.remote(settings, options) for _ in range(count)]
        embedder = ClusterEmbedder(ray, workers, report)
        try:
            await embedder.start()
            yield embedder
        finally:
            embedder.close()
            for worker in workers:
                ray.kill(worker)


class ClusterEmbedder:
    """The workers of a cluster; each request goes to one that has room."""

    info: EmbedderInfo

    def __init__(self, ray: Any, workers: Sequence[Any], report: ReportLine) -> None:
        self._ray = ray
        self._workers = workers
        self._report = report
        self._free: asyncio.Queue[Any] = asyncio.Queue()
        """Holds a worker once for each further request that it can take."""
        self._joining: list[asyncio.Task[None]] = []
        self._left = len(workers)

    async def start(self) -> None:
        """Wait until one worker is ready; the others join later. Raises EdgeEmbedError when no worker can compute."""
        first: asyncio.Future[EmbedderInfo] = asyncio.get_running_loop().create_future()
        self._joining = [asyncio.create_task(self._join(worker, first)) for worker in self._workers]
        info = await first
        count = len(self._workers)
        description = f"{count} worker{'s' if count > 1 else ''} on Ray"
        self.info = info._replace(description=description, max_requests=REQUESTS_PER_WORKER * count)

    async def embed(self, texts: Sequence[str]) -> Computed:
        found: Computed = await self._ask(lambda worker: worker.embed.remote(texts))
        return found

    async def count(self, texts: Sequence[str]) -> list[int]:
        found: list[int] = await self._ask(lambda worker: worker.count.remote(texts))
        return found

    def close(self) -> None:
        """Stop waiting for workers that have not joined."""
        for task in self._joining:
            task.cancel()

    async def _join(self, worker: Any, first: asyncio.Future[EmbedderInfo]) -> None:
        """Let a worker take requests once it has loaded the same model as the first worker."""
        try:
            info = await self._answer(worker.info.remote())
        except EdgeEmbedError as error:
            self._drop(f"a worker cannot load the model: {error.message}", first, error)
            return
        if not first.done():
            first.set_result(info)
        model = first.result()
        for name in ("digest", "widths", "batch_tokens"):
            if getattr(info, name) != getattr(model, name):
                reason = f"a worker was left out: its {name} is {getattr(info, name)}, expected {getattr(model, name)}"
                self._drop(reason, first, EngineUnavailableError(reason))
                return
        if info.engine != model.engine:
            self._report(f"workers differ ({model.engine}; {info.engine}): the last digits of a vector depend on its worker")
        for _ in range(REQUESTS_PER_WORKER):
            self._free.put_nowait(worker)

    def _drop(self, reason: str, first: asyncio.Future[EmbedderInfo], error: EdgeEmbedError) -> None:
        self._left -= 1
        self._report(reason)
        if self._left == 0 and not first.done():
            first.set_exception(error)

    async def _ask(self, call: Callable[[Any], Any]) -> Any:
        """Call a worker that has room. Raises EngineUnavailableError when it dies, and the errors of the call."""
        worker = await self._free.get()
        pause = 0.0
        try:
            return await self._answer(call(worker))
        except _WorkerDiedError as error:
            pause = RESTART_SECONDS
            log.info("%s", error.message)
            raise
        finally:
            asyncio.get_running_loop().call_later(pause, self._free.put_nowait, worker)

    async def _answer(self, reference: Any) -> Any:
        try:
            found = await reference
        except self._ray.exceptions.RayActorError as error:
            raise _WorkerDiedError(f"a worker died: {str(error).splitlines()[0]}") from error
        except self._ray.exceptions.RayError as error:
            raise EngineUnavailableError(f"Ray: {str(error).splitlines()[0]}") from error
        if isinstance(found, _Failure):
            raise error_of(found.status, found.message, found.param)
        return found


class _WorkerDiedError(EngineUnavailableError):
    """Ray restarts the worker; others can take over its request."""


def import_ray() -> Any:
    """Import Ray, with its usage reports disabled. Raises ConfigError when it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Under `uv run` Ray would copy the working directory and install the project from the copy into this environment.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ConfigError(f"--engine ray needs Ray ({error}): {find_installation().add('ray')}") from error
    return ray


@contextlib.contextmanager
def _connected(ray: Any, rules: ClusterRules) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine that ends with this process. Raises ConfigError."""
    address = rules.address or os.environ.get("RAY_ADDRESS") or "local"
    _require_open_port(address)
    alone = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES} if address == "local" else {}
    environ = hide_secrets()  # Ray's processes inherit the variables; they may fetch the model, and need no other key
    os.environ |= {name: environ[name] for name in HUB_TOKENS if name in environ}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **alone)
    except Exception as error:  # a timeout of the start has no class of its own
        where = "on this machine" if address == "local" else f"at {address}"
        raise ConfigError(f"no Ray cluster {where}: {error}") from error
    finally:
        os.environ |= environ
    try:
        yield
    finally:
        ray.shutdown()


def _require_open_port(address: str) -> None:
    """Raise ConfigError when nothing listens at a cluster's address: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or "://" in host or not port.isdecimal():
        return  # local, auto, or another form that Ray understands
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"no Ray cluster at {address}: {error}") from error


def worker_count(ray: Any, rules: ClusterRules, report: ReportLine) -> int:
    """Return how many workers to start. Raises ConfigError when not even one fits."""
    resources = ray.cluster_resources()
    needed = {name: amount for name, amount in (("CPU", rules.cpus), ("GPU", rules.gpus)) if amount}
    fit = min((int(resources.get(name, 0) / amount) for name, amount in needed.items()), default=1)
    has = ", ".join(f"{resources.get(name, 0):g} {name}" for name in needed)
    if rules.workers is None and fit < 1:
        raise ConfigError(f"no worker fits into the cluster, which has {has}; lower --cpus-per-worker or --gpus-per-worker")
    if rules.workers is not None and rules.workers > fit:
        # A cluster that scales on demand makes room for them later.
        report(f"the cluster has {has}, room for {fit} of {rules.workers} workers; the others wait for more")
    return rules.workers or fit
