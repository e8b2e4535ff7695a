"""What Prometheus gets: a collector of all values, which are read from their owners during a scrape.

Imported by the first scrape: prometheus_client takes a while to import, and starts with a server of its own.
Reference: "Metric and label naming" of the Prometheus documentation; units are seconds and bytes.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from edgeembed import __version__
from edgeembed.common.status import EngineStatus, SharedCacheStats
from edgeembed.inference.drift import VectorStats
from edgeembed.inference.moments import NORM_BOUNDS
from edgeembed.inference.service import EmbeddingService
from edgeembed.models.slot import Slot
from edgeembed.server.ops.disk import DiskUse
from edgeembed.server.ops.http_counts import SECONDS, HttpCounts
from edgeembed.upstream.engine import RemoteEngine

Key = TypeVar("Key", bound=Hashable)


def make_registry(
    service: EmbeddingService, http: HttpCounts, disk: Callable[[], DiskUse], started_at: float
) -> CollectorRegistry:
    """Return the registry of one application's metrics.

    disk: returns what was last measured. started_at: Unix seconds at which the daemon started.
    """
    registry = CollectorRegistry()
    registry.register(DaemonCollector(service, http, disk, started_at))
    ProcessCollector(registry=registry)
    return registry


def write(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return all metrics in the format that an Accept header asks for, and its content type."""
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type


class DaemonCollector(Collector):
    """All metrics except those of the process; they are read at each scrape."""

    def __init__(self, service: EmbeddingService, http: HttpCounts, disk: Callable[[], DiskUse], started_at: float) -> None:
        self._service = service
        self._http = http
        self._disk = disk
        self._started_at = started_at

    def describe(self) -> Iterable[Metric]:
        """Return nothing; otherwise the registry would collect everything once to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield gauge("build_info", "Version, as a label; the value is always 1.", {(__version__,): 1}, ["version"])
        yield gauge("uptime_seconds", "Seconds since the daemon started.", {(): time.time() - self._started_at})
        yield gauge("paused", "Whether computing is paused.", {(): int(self._service.pool.paused)})
        disk = self._disk()
        words = "Bytes on disk, of the cache or of the models."
        yield gauge("disk_used_bytes", words, {(what,): size for what, size in disk.used.items()}, ["what"])
        words = "Bytes that are left on the disk of the cache or of the models."
        yield gauge("disk_free_bytes", words, {(what,): size for what, size in disk.free.items()}, ["what"])
        yield from self._requests()
        yield from self._models()
        yield from _upstream(self._service.pool.slots)
        yield from self._cache()
        yield from vectors(self._service.vectors.stats())

    def _requests(self) -> Iterator[Metric]:
        http = self._http
        answered = {(route, str(status)): count for (route, status), count in http.answered.items()}
        words = "Requests answered, by route and status; 499: the client disconnected."
        yield counter("http_requests", words, answered, ["route", "status"])
        family = HistogramMetricFamily(
            "edgeembed_http_request_duration_seconds", "Time from the head of a request to its response.", labels=["route"]
        )
        for route, buckets in http.buckets.items():
            family.add_metric([route], cumulated(SECONDS, buckets), http.seconds[route])
        yield family
        yield gauge("http_requests_in_flight", "Requests being answered.", {(): http.in_flight})

    def _models(self) -> Iterator[Metric]:
        service, pool = self._service, self._service.pool
        name = {model.key: (model.spec,) for model in service.registry.models}
        for counts, what, words in (
            (service.requests, "model_requests", "Requests answered by a model or by its part of the cache."),
            (service.texts, "model_texts", "Texts or pairs in those requests."),
        ):
            yield counter(what, words, added((name[key], n) for key, n in counts.items() if key in name), ["model"])
        outputs = added(((*name[key], output), n) for (key, output), n in service.outputs.items() if key in name)
        words = "Those texts by what was returned of them: dense, multi, sparse or tokens; a text may have several."
        yield counter("model_outputs", words, outputs, ["model", "output"])
        for by_spec, what, words in (
            (pool.loads, "model_loads", "How often a model was loaded."),
            (pool.unloads, "model_unloads", "How often a model was unloaded."),
            (pool.failures, "model_failures", "How often a model could not be loaded, or failed permanently."),
        ):
            yield counter(what, words, {(spec,): n for spec, n in by_spec.items()}, ["model"])
        yield from _loaded_models(service, pool.slots)
        yield gauge("memory_budget_bytes", "Memory that all loaded models together may take.", {(): pool.budget_bytes})

    def _cache(self) -> Iterator[Metric]:
        if self._service.cache is None:
            return
        stats = self._service.cache.stats
        hits: dict[tuple[str, str], float] = {}
        misses: dict[tuple[str], float] = {}
        saved: dict[tuple[str], float] = {}
        for label, counts in stats.models.items():
            model = label.partition("@")[0]
            for tier, found in (
                ("memory", counts.memory_hits),
                ("disk", counts.disk_hits),
                ("shared", counts.shared_hits),
            ):
                if tier != "shared" or stats.shared:
                    hits[model, tier] = hits.get((model, tier), 0) + found
            misses[model,] = misses.get((model,), 0) + counts.misses
            saved[model,] = saved.get((model,), 0.0) + counts.saved_seconds
        yield counter("cache_hits", "Texts found in the cache.", hits, ["model", "tier"])
        yield counter("cache_misses", "Texts not found in the cache.", misses, ["model"])
        yield counter("cache_saved_seconds", "Computing time saved by texts found in the cache.", saved, ["model"])
        yield counter("cache_damaged", "Damaged rows, which were computed again.", {(): stats.damaged})
        yield gauge("cache_memory_entries", "Rows in the memory tier.", {(): stats.memory_entries})
        yield gauge("cache_memory_bytes", "Memory taken by the memory tier.", {(): stats.memory_bytes})
        yield gauge("cache_disk_up", "Whether the disk tier is used.", {(): int(stats.disk_problem is None)})
        if stats.shared:
            yield from _shared_cache(stats.shared)


def _shared_cache(stats: SharedCacheStats) -> Iterator[Metric]:
    """Yield metrics of the server whose rows several daemons share."""
    yield gauge("cache_shared_up", "Whether the shared tier is asked for rows.", {(): int(stats.connected)})
    family = SummaryMetricFamily("edgeembed_cache_shared_lookup_seconds", "Time of the questions that it answered.")
    family.add_metric([], stats.lookups, stats.lookup_seconds)
    yield family
    for name, what, value in (
        ("cache_shared_timeouts", "How often the shared tier did not answer in time.", stats.timeouts),
        ("cache_shared_errors", "How often the shared tier failed otherwise.", stats.errors),
        ("cache_shared_rows_written", "Rows written to the shared tier.", stats.rows_written),
        ("cache_shared_rows_dropped", "Rows that the shared tier did not take, or was not there for.", stats.rows_dropped),
    ):
        yield counter(name, what, {(): value})


def _loaded_models(service: EmbeddingService, slots: list[Slot]) -> Iterator[Metric]:
    """Yield metrics of loaded models. A model can be there twice, while the old one drains: the values are added up."""
    engines: list[tuple[tuple[str], EngineStatus]] = [
        ((slot.model.spec,), slot.engine.status) for slot in slots if slot.engine is not None
    ]
    states = added(((slot.model.spec, slot.state), 1) for slot in slots)
    yield gauge("model_state", "Models by state: loading, ready, failed, unloading.", states, ["model", "state"])
    memory = added(((slot.model.spec,), slot.memory_bytes) for slot in slots)
    yield gauge("model_memory_bytes", "Memory of the model's worker.", memory, ["model"])
    waiting = added(((slot.model.spec,), service.waiting_tokens(slot.model)) for slot in slots)
    yield gauge("queue_tokens", "Estimated tokens of requests not answered yet.", waiting, ["model"])
    queued = added((model, status.texts_waiting) for model, status in engines)
    yield gauge("queue_texts", "Texts not computed yet.", queued, ["model"])
    for what, words, unit in (
        ("batch_texts", "Texts per forward pass; the sum is all texts computed.", "texts_computed"),
        ("batch_tokens", "Tokens per forward pass; the sum is all tokens computed.", "tokens_computed"),
    ):
        family = SummaryMetricFamily(f"edgeembed_{what}", words, labels=["model"])
        passes = added((model, status.batches_computed) for model, status in engines)
        for model, done in added((model, getattr(status, unit)) for model, status in engines).items():
            family.add_metric(model, int(passes[model]), done)
        yield family
    restarts = added((model, status.restarts) for model, status in engines)
    yield counter("worker_restarts", "How often a model's worker was restarted.", restarts, ["model"])
    modes = {(*model, status.mode): 1 for model, status in engines}
    yield gauge("execution_mode", "A model's execution mode, as a label; the value is 1.", modes, ["model", "mode"])
    mode_changes = added(
        ((*model, *kind.split(">")), count)
        for model, status in engines
        for kind, count in status.mode_changes_by_cause.items()
    )
    words = "Changes of the execution mode, with the cause; recovered: to a faster mode."
    yield counter("mode_changes", words, mode_changes, ["model", "from", "to", "cause"])
    demotions = added((model, len(status.demotions)) for model, status in engines)
    yield gauge("demotions", "Faster execution modes that failed.", demotions, ["model"])
    reductions = added((model, status.reduction) for model, status in engines)
    words = "Steps by which a model's worker is smaller than usual, after some died for want of memory."
    yield gauge("worker_reduction", words, reductions, ["model"])


def _upstream(slots: list[Slot]) -> Iterator[Metric]:
    """Yield metrics of the upstream server, if one computes the vectors."""
    stats = [slot.engine.upstream for slot in slots if isinstance(slot.engine, RemoteEngine)]
    if not stats:
        return
    states = added(((one.breaker,), 1) for one in stats)
    words = "The state of the circuit breaker, as a label; the value is 1. open: only occasional probes are sent."
    yield gauge("upstream_breaker", words, states, ["state"])
    in_flight = sum(one.in_flight for one in stats)
    yield gauge("upstream_requests_in_flight", "Requests sent and not answered yet.", {(): in_flight})
    same = any(one.fallback == "same" for one in stats)
    yield gauge("upstream_fallback_up", "Whether a local model computes the same vectors.", {(): int(same)})
    for name, what, values in (
        ("upstream_opened", "How often the circuit breaker opened.", [one.opened for one in stats]),
        ("upstream_requests", "Requests sent, without canary texts.", [one.requests for one in stats]),
        ("upstream_retries", "Texts that were sent again.", [one.retries for one in stats]),
        ("upstream_refusals", "Texts that upstream refused.", [one.refusals for one in stats]),
        ("upstream_fallback_texts", "Texts that the local model computed.", [one.fallback_texts for one in stats]),
        ("upstream_changes", "How often upstream's vectors differed from earlier ones.", [one.changes for one in stats]),
        ("upstream_wrong_rows", "How often upstream returned rows of other texts.", [one.wrong_rows for one in stats]),
    ):
        whole = name in ("upstream_changes", "upstream_wrong_rows")  # of the server, not of one of its models
        yield counter(name, what, {(): max(values) if whole else sum(values)})


def vectors(stats: list[VectorStats]) -> Iterator[Metric]:
    """Yield metrics of the computed rows; see `edgeembed.inference.drift`."""
    labels = ["model", "input_type"]
    norms = HistogramMetricFamily("edgeembed_vector_norm", "Norm of computed rows before normalising.", labels=labels)
    for one in stats:
        norms.add_metric([one.model, one.input_type], cumulated(NORM_BOUNDS, one.norm_buckets), one.norm_sum)
    yield norms
    named = [((one.model, one.input_type), one) for one in stats]
    yield counter("vector_bad_rows", "Rows that were NaN, infinite or zero.", {who: one.bad for who, one in named}, labels)
    for name, words, value in _VECTOR_GAUGES:
        values = {who: number for who, one in named if (number := value(one)) is not None}
        yield gauge(f"vector_{name}", words, values, labels)


_VECTOR_GAUGES: tuple[tuple[str, str, Callable[[VectorStats], float | None]], ...] = (
    ("mean", "Mean of the numbers in recent rows.", lambda one: one.now.value_mean if one.now else None),
    ("variance", "Variance of the numbers in recent rows.", lambda one: one.now.value_variance if one.now else None),
    ("spread", "1 - length² of the mean unit row: 0 if all are equal.", lambda one: one.now.spread if one.now else None),
    ("bad_share", "Share of bad rows among recent ones.", lambda one: one.bad_share),
    ("drift_cosine", "Cosine of the mean direction of recent rows to the baseline's.", lambda one: one.drift_cosine),
    ("alarm", "Whether recent rows differ from the baseline.", lambda one: int(one.alarm is not None)),
)


def counter(name: str, words: str, values: Mapping[Any, float], labels: Sequence[str] = ()) -> Metric:
    """Return a counter. values: by label values. The formats append _total to its name."""
    family = CounterMetricFamily(f"edgeembed_{name}", words, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def gauge(name: str, words: str, values: Mapping[Any, float], labels: Sequence[str] = ()) -> Metric:
    """Return a gauge. values: by label values."""
    family = GaugeMetricFamily(f"edgeembed_{name}", words, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def added(pairs: Iterable[tuple[Key, float]]) -> dict[Key, float]:
    """Add up values with the same labels, as two samples with the same labels are an error in the format."""
    sums: dict[Key, float] = {}
    for key, value in pairs:
        sums[key] = sums.get(key, 0) + value
    return sums


def cumulated(bounds: Sequence[float], buckets: Sequence[int]) -> list[tuple[str, float]]:
    """Return a histogram's buckets in the form of Prometheus: the number of values up to each bound."""
    names = [*map(floatToGoString, bounds), "+Inf"]
    return list(zip(names, map(float, itertools.accumulate(buckets)), strict=True))
