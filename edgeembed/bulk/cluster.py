"""Computes the fragments of a job on a Ray cluster: Ray Data carries them to workers, each with its own copy of the model.

Ray places the workers, adds and removes them, restarts those that die and gives their fragments to others. A worker reads
its fragment and writes the shards; what comes back to this process is a receipt of each fragment.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import pickle
import socket
import threading
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from edgeembed.bulk.crashes import MOST_CRASHES, MOST_FAILED, CrashGuard, FragmentFailedError, start_beginnings
from edgeembed.bulk.embedders import Embedder, EmbedderInfo, EmbedOptions, LocalEmbedder, fitted_rules
from edgeembed.bulk.fragment_shards import CONCURRENT_FRAGMENTS, FragmentReceipt, FragmentWork, compute, concurrently
from edgeembed.bulk.fragments import Fragment
from edgeembed.bulk.records import Position
from edgeembed.client import error_of
from edgeembed.common.installation import find_installation
from edgeembed.common.progress import ReportLine
from edgeembed.config.paths import Paths
from edgeembed.config.resolution import Resolved
from edgeembed.config.secrets import HUB_TOKENS, hide_secrets, secret_names
from edgeembed.config.settings import Settings
from edgeembed.errors import ConfigError, EdgeEmbedError, EngineUnavailableError, WorkerCrashedError
from edgeembed.inference.chunking import ChunkRules
from edgeembed.runtime.in_process import in_process_service

CONNECT_SECONDS = 10.0
OBJECT_STORE_BYTES = 256 * 2**20
"""For a cluster on this machine; fragments and receipts take a few hundred bytes each."""
BLOCKS_PER_WORKER = 64
"""At least, as far as there are fragments: so the last ones are spread over all workers, also where one is slow."""
MOST_PER_BLOCK = 8
"""Fragments that a worker is given at a time."""
RAY_LOGS = "Ray's logs are in /tmp/ray/session_latest/logs on each machine"

T = TypeVar("T")

log = logging.getLogger(__name__)


class ClusterRules(NamedTuple):
    """The workers of a job. address: of the Ray cluster, as for `ray.init`; None for RAY_ADDRESS, or else this machine.

    workers: least and most; None for one to as many as fit. cpus, gpus: per worker.
    """

    address: str | None = None
    workers: tuple[int, int] | None = None
    cpus: int = 1
    gpus: float = 0


class _Failure(msgspec.Struct, frozen=True):
    """An error sent between processes, where exceptions do not pickle well. status: of HTTP; 0 for one of the system."""

    status: int
    message: str

    def error(self) -> EdgeEmbedError:
        return error_of(self.status, self.message, None)


class Described(NamedTuple):
    """The model that the workers have. chunks: the job's rules, as far as the model takes them."""

    info: EmbedderInfo
    chunks: ChunkRules


class EngineWorker:
    """A Ray actor with a model in its own engine, loaded when it is first needed."""

    def __init__(
        self, settings: Settings, options: EmbedOptions, work: FragmentWork | None = None, beginnings: Any = None
    ) -> None:
        """settings: of the job; the folders are those of the worker's machine. beginnings: as for CrashGuard."""
        self._settings = settings
        self._options = options
        self._work = work
        self._beginnings = beginnings
        self._lock = asyncio.Lock()
        self._embedder: LocalEmbedder | None = None
        self._resources = contextlib.AsyncExitStack()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def describe(self, chunks: ChunkRules) -> Described | _Failure:
        """Load the model and describe it."""

        async def described() -> Described:
            embedder = await self._ready()
            return Described(embedder.info, await fitted_rules(chunks, embedder))

        return self._run(described())

    def __call__(self, block: Any) -> Any:
        """Compute the fragments of a row; called by Ray Data, in tables of Arrow. Returns receipts, or a failure."""
        import pyarrow as pa

        fragments: list[Fragment] = pickle.loads(block.column("fragments")[0].as_py())  # noqa: S301 - of the process that began the job
        found = self._run(self._computed(fragments))
        return pa.table({"receipts": [msgspec.msgpack.encode(found)]})

    @functools.cached_property
    def _guard(self) -> CrashGuard:
        import ray

        return CrashGuard(ray, self._beginnings)

    async def _computed(self, fragments: Sequence[Fragment]) -> list[FragmentReceipt]:
        work, guard = self._work, self._guard
        assert work is not None, "it is given to the workers of Ray Data"
        limit = asyncio.Semaphore(4)

        async def one(fragment: Fragment) -> FragmentReceipt:
            async def ready(start: Position) -> Embedder:
                await guard.begin(fragment, start)
                return await self._same_as_others()

            try:
                return await compute(work, fragment, ready, limit)
            except FragmentFailedError as error:
                return FragmentReceipt(place=(fragment.input, fragment.index), failed=str(error))

        async def jobs() -> Any:
            for fragment in fragments:
                yield one(fragment)

        at_once = 1 if guard.is_needed else CONCURRENT_FRAGMENTS
        found = [receipt async for receipt in concurrently(jobs(), at_once)]
        guard.is_needed = False  # what ended the worker before is not here
        return found

    def _run(self, job: Coroutine[Any, Any, T]) -> T | _Failure:
        try:
            return asyncio.run_coroutine_threadsafe(job, self._loop).result()
        except EdgeEmbedError as error:
            return _Failure(error.status, f"{error.message} (on {socket.gethostname()})")
        except OSError as error:
            return _Failure(500, f"{error} (on {socket.gethostname()})")

    async def _same_as_others(self) -> Embedder:
        """Return the engine. Raises ConfigError if its model differs from the job's."""
        assert self._work is not None, "see above"
        info, manifest = (await self._ready()).info, self._work.manifest
        widths = {output: width for output, width in info.widths.items() if output != "dense"}
        for name, found, wanted in (
            ("model file", info.digest, manifest.digest),
            ("vector length", info.dimensions, manifest.dimensions),
            ("row lengths", widths, manifest.widths),
            ("batch_tokens", info.batch_tokens, manifest.batch_tokens),
        ):
            if found != wanted:
                raise ConfigError(
                    f"a worker's {name} is {found}, not {wanted} as where the job began; give all machines the same model "
                    "and version, then continue with --resume"
                )
        return self._embedder or await self._ready()

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


class Cluster:
    """A connection to a Ray cluster, and the workers that a job may have there."""

    def __init__(self, ray: Any, rules: ClusterRules, settings: Settings, options: EmbedOptions, report: ReportLine) -> None:
        self._ray = ray
        self._rules = rules
        self._settings = msgspec.structs.replace(
            settings,
            threads=settings.threads or max(rules.cpus, 1),
            # Ray assigns GPUs: a worker that asked for none must not use those of others.
            device=settings.device if rules.gpus or settings.device != "auto" else "cpu",
            **dict.fromkeys(secret_names()),
        )
        self._options = options
        self.workers = worker_range(ray, rules, report)

    @property
    def description(self) -> str:
        """What computes, for people."""
        least, most = self.workers
        count = str(most) if least == most else f"{least} to {most}"
        return f"{count} worker{'s' if most > 1 else ''} on Ray"

    def describe(self, chunks: ChunkRules) -> Described:
        """Load the model in one worker and describe it. Raises EdgeEmbedError."""
        actor = self._ray.remote(max_restarts=3, max_task_retries=3, **self._resources)(EngineWorker)
        worker = actor.remote(self._settings, self._options)
        try:
            found = self._ray.get(worker.describe.remote(chunks))
        except self._ray.exceptions.RayError as error:
            raise EngineUnavailableError(f"Ray: {str(error).splitlines()[0]}; {RAY_LOGS}") from error
        finally:
            self._ray.kill(worker)
        if isinstance(found, _Failure):
            raise found.error()
        return Described(*found)

    def compute(self, work: FragmentWork, fragments: Sequence[Fragment]) -> Iterator[FragmentReceipt]:
        """Yield the receipts of fragments, as they come. Raises EdgeEmbedError for the first failure.

        Fragments at which workers end again and again are left out, and named in the error at the end.
        """
        failed: list[str] = []
        for receipt in self._receipts(work, fragments):
            if not receipt.failed:
                yield receipt
                continue
            failed.append(receipt.failed)
            if len(failed) > MOST_FAILED:
                break
        if failed:
            done = "The job ended early" if len(failed) > MOST_FAILED else "All else is there"
            raise WorkerCrashedError(
                f"{MOST_CRASHES} restarted workers died, out of memory or by a crash, each time at the same rows: "
                f"{'; '.join(failed)}. {done}; {RAY_LOGS}. If memory ran out, start fewer workers on a machine "
                "(--workers, or more --cpus-per-worker) and continue with --resume. If the file itself crashes its reader, "
                "correct it and start again with --overwrite"
            )

    def _receipts(self, work: FragmentWork, fragments: Sequence[Fragment]) -> Iterator[FragmentReceipt]:
        data = self._ray.data
        self._silence()
        least, most = self.workers
        blocks = [{"fragments": pickle.dumps(list(each))} for each in blocks_of(fragments, most)]
        dataset = data.from_items(blocks, override_num_blocks=len(blocks)).map_batches(
            EngineWorker,
            fn_constructor_args=(self._settings, self._options, work, start_beginnings(self._ray)),
            batch_size=1,
            batch_format="pyarrow",
            compute=data.ActorPoolStrategy(min_size=least, max_size=most),
            **self._resources,
        )
        try:
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for content in batch.column("receipts").to_pylist():
                    found = msgspec.msgpack.decode(content, type=list[FragmentReceipt] | _Failure)
                    if isinstance(found, _Failure):
                        raise found.error()
                    yield from found
        except self._ray.exceptions.RayError as error:
            raise EngineUnavailableError(f"Ray: {str(error).splitlines()[0]}; {RAY_LOGS}; continue with --resume") from error

    @property
    def _resources(self) -> dict[str, Any]:
        return {"num_cpus": self._rules.cpus, "num_gpus": self._rules.gpus}

    def _silence(self) -> None:
        """Turn off Ray Data's own lines and bars: receipts show the progress."""
        context = self._ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def blocks_of(fragments: Sequence[Fragment], workers: int) -> list[Sequence[Fragment]]:
    """Divide fragments into what a worker is given at a time: fewer messages for many, all workers busy with few."""
    size = max(1, min(MOST_PER_BLOCK, len(fragments) // (BLOCKS_PER_WORKER * workers)))
    return [fragments[first : first + size] for first in range(0, len(fragments), size)]


def import_ray() -> Any:
    """Import Ray, with its usage reports disabled. Raises ConfigError when it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Under `uv run` Ray would copy the working directory and install the project from the copy into this environment.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    if "RAY_AUTH_TOKEN" in os.environ:  # Ray itself would not use it for an address that is named
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError as error:
        raise ConfigError(f"--engine ray needs Ray ({error}): {find_installation().add('ray')}") from error
    return ray


@contextlib.contextmanager
def connected_cluster(
    rules: ClusterRules, settings: Settings, options: EmbedOptions, report: ReportLine
) -> Iterator[Cluster]:
    """Connect to a cluster, or start one on this machine that ends with this process. Raises ConfigError."""
    ray = import_ray()
    address = rules.address or os.environ.get("RAY_ADDRESS") or "local"
    _require_open_port(address)
    alone = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES} if address == "local" else {}
    # Its C++ parts write to the terminal otherwise; what fails is raised, too. Whoever sets the level wants to see more.
    quietly = contextlib.nullcontext if "RAY_BACKEND_LOG_LEVEL" in os.environ else _hiding_stderr
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Ray's processes inherit the variables: they may fetch the model and reach the inputs' store, and need no other key.
    environ = hide_secrets()
    os.environ |= {name: environ[name] for name in HUB_TOKENS if name in environ}
    try:
        with quietly():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **alone)
    except Exception as error:  # a timeout of the start has no class of its own
        where = "on this machine" if address == "local" else f"at {address}"
        # Ray's own error does not say that the cluster refuses a program without a token.
        silent = address != "local" and os.environ.get("RAY_AUTH_MODE", "").lower() != "token"
        advice = ". If the cluster requires a token, copy ~/.ray/auth_token from its head and set RAY_AUTH_MODE=token"
        hint = advice if silent else ""
        raise ConfigError(f"no Ray cluster {where}: {error}{hint}") from error
    finally:
        os.environ |= environ
    # log_to_driver leaves out what workers print. That a worker or a machine died Ray prints to stdout all the same.
    with Path(os.devnull).open("w", encoding="utf-8", errors="replace") as nothing, contextlib.redirect_stdout(nothing):
        try:
            yield Cluster(ray, rules, settings, options, report)
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _hiding_stderr() -> Iterator[None]:
    """Hide what this process writes to its standard error: Ray's C++ parts confirm there that they write nothing."""
    try:
        shown = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    hidden = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(hidden, 2)
        yield
    finally:
        os.dup2(shown, 2)
        os.close(shown)
        os.close(hidden)


def _require_open_port(address: str) -> None:
    """Raise ConfigError when nothing listens at a cluster's address: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or "://" in host or not port.isdecimal():
        return  # local, auto, or another form that Ray understands
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"no Ray cluster at {address}: {error}") from error


def worker_range(ray: Any, rules: ClusterRules, report: ReportLine) -> tuple[int, int]:
    """Return the least and the most workers. Raises ConfigError when not even one fits."""
    resources = ray.cluster_resources()
    needed = {name: amount for name, amount in (("CPU", rules.cpus), ("GPU", rules.gpus)) if amount}
    fit = min((int(resources.get(name, 0) / amount) for name, amount in needed.items()), default=1)
    has = ", ".join(f"{resources.get(name, 0):g} {name}" for name in needed)
    if rules.workers is None:
        if fit < 1:
            raise ConfigError(
                f"no worker fits into the cluster, which has {has}; lower --cpus-per-worker or --gpus-per-worker"
            )
        return fit, fit
    if rules.workers[0] > fit:
        # A cluster that scales on demand makes room for them later.
        report(f"the cluster has {has}, room for {fit} of {rules.workers[0]} workers; the others wait for more")
    return rules.workers
