"""What a daemon says about itself, as JSON: GET /v1/status, /health, /v1/models and /v1/admin.

The server fills these types, the OpenAPI document describes them, commands and the tray icon decode them. A reader may be of
another version than the daemon: unknown fields are ignored, missing ones have a default where a reader can do without
them, and words such as a state are plain strings, so that new ones can be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

_Task: TypeAlias = Annotated[str, Meta(extra_json_schema={"enum": ["embed", "rerank", "classify"]})]


UnixSeconds: TypeAlias = Annotated[float, Meta(ge=0, lt=2**37)]
"""Small enough to be a date."""


class Demotion(msgspec.Struct, frozen=True, kw_only=True):
    """An execution mode that failed and was left for a slower one. Times are Unix seconds."""

    mode: str
    reason: str
    at: UnixSeconds
    cause: str = "other"
    """The reason as one word; see `edgeembed.engine.causes`."""
    again_at: UnixSeconds | None = None
    """When the mode is tried again; None: not until the daemon restarts."""


class ModeChange(msgspec.Struct, frozen=True, kw_only=True):
    """One change of the execution mode, to a slower or back to a faster one. `at` is in Unix seconds."""

    source: str
    target: str
    cause: str
    """One word; "recovered" for a change to a faster mode."""
    reason: str
    at: float


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The engine of one model. Counts begin when the model is loaded."""

    state: Annotated[str, Meta(extra_json_schema={"enum": ["starting", "ready", "restarting", "failed", "stopped"]})]
    reason: str | None = None
    """Why the state is not ready."""
    mode: str = ""
    """The execution mode that it runs in."""
    demotions: list[Demotion] = []
    """Faster modes that failed, in the order in which they were left."""
    restarts: int = 0
    texts_computed: int = 0
    """Texts whose row came from a forward pass."""
    batches_computed: int = 0
    """Forward passes."""
    tokens_computed: int = 0
    """Tokens of the texts computed."""
    texts_waiting: int = 0
    busy_since: float | None = None
    """Unix seconds at which the current forward pass began; None when idle."""
    worker_pid: int | None = None
    mode_changes: list[ModeChange] = []
    """The latest changes, oldest first."""
    mode_changes_by_cause: dict[str, int] = {}
    """Number of all changes, by "from>to>cause"."""
    offload: str | None = None
    """Which part of the model is on which GPU, in words; None if it uses none."""
    reduction: int = 0
    """Steps by which its worker is smaller than usual, after some died for want of memory; at most 3."""


class CacheCounts(msgspec.Struct):
    """Texts that were looked up, by where their row was found, and the computing time that this saved."""

    memory_hits: int = 0
    disk_hits: int = 0
    misses: int = 0
    saved_seconds: float = 0.0
    shared_hits: int = 0


class SharedCacheStats(msgspec.Struct, frozen=True, kw_only=True):
    """The server whose rows several daemons share, as this daemon sees it since its start."""

    address: str
    """HOST:PORT, or the path of a Unix socket."""
    connected: bool = False
    """Whether it is asked for rows now."""
    problem: str | None = None
    """Why it is not asked, or takes no rows."""
    lookups: int = 0
    """Questions that it answered, each for one or more rows."""
    lookup_seconds: float = 0.0
    """Time that these took, all together."""
    timeouts: int = 0
    errors: int = 0
    rows_written: int = 0
    rows_dropped: int = 0
    """Rows that it did not take, or that were not sent because it was away or busy."""
    rows_to_write: int = 0


class CacheStats(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache holds, and what it answered since the daemon started."""

    memory_hits: int = 0
    disk_hits: int = 0
    shared_hits: int = 0
    misses: int = 0
    saved_seconds: float = 0.0
    """Computing time of the rows that were found."""
    damaged: int = 0
    """Entries that were damaged, or stored under another key."""
    memory_entries: int = 0
    memory_bytes: int = 0
    answer_bytes: int = 0
    """Memory taken by complete answers, in addition to `memory_bytes`."""
    memory_limit_bytes: int = 0
    disk_limit_bytes: int = 0
    rows_to_write: int = 0
    """Rows in memory that are not on disk yet."""
    folder: str | None = None
    disk_problem: str | None = None
    """Why the disk tier is not used, if it is not."""
    shared: SharedCacheStats | None = None
    """The shared tier; None without the setting cache_url."""
    models: Mapping[str, CacheCounts] = {}
    """Counts by model: NAME:TYPE@ and the first digits of its file's digest."""


class UpstreamStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The server that computes the default model's vectors. Counts start again when it serves another model."""

    url: str
    model: str = ""
    identity: str = ""
    """What stands for the model in the cache's keys."""
    breaker: Annotated[str, Meta(extra_json_schema={"enum": ["closed", "open", "half-open"]})] = ""
    reason: str | None = None
    """Why the circuit breaker is not closed, or the last failure."""
    away_seconds: float | None = None
    """Seconds since the first of the failures in a row."""
    next_try_seconds: float = 0.0
    opened: int = 0
    """How often the circuit breaker opened."""
    changes: int = 0
    """How often upstream's vectors were found to be unlike the earlier ones, since the daemon started."""
    wrong_rows: int = 0
    """How often rows of other texts came back, since the daemon started. After the first time texts are sent one by one,
    after the second time none is sent."""
    requests: int = 0
    retries: int = 0
    """Texts that were sent again."""
    refusals: int = 0
    """Texts that upstream refused."""
    in_flight: int = 0
    """Requests sent and not answered yet."""
    waiting: int = 0
    """Texts not sent yet."""
    texts: int = 0
    """Texts that upstream computed."""
    most_texts: int = 0
    """Texts that fit one request, as far as upstream's limits are known."""
    fallback: Annotated[str, Meta(extra_json_schema={"enum": ["off", "loading", "same", "different", "failed"]})] = "off"
    fallback_reason: str | None = None
    fallback_cosine: float | None = None
    """The lowest cosine of the canary texts, to upstream's rows."""
    fallback_texts: int = 0
    """Texts that the local model computed."""


class DefaultModel(msgspec.Struct, frozen=True, kw_only=True):
    """The model for requests that name none. Most fields are present only once it is loaded."""

    name: str
    digest: str = ""
    architecture: str | UnsetType = UNSET
    dimensions: int | UnsetType = UNSET
    context_tokens: int | UnsetType = UNSET
    """The longest text in tokens, special tokens included."""
    pooling: str | UnsetType = UNSET
    task: _Task | UnsetType = UNSET
    outputs: tuple[str, ...] | UnsetType = UNSET
    """What its file has heads for; see docs/outputs.md."""
    file_type: str | UnsetType = UNSET
    parameters: int | UnsetType = UNSET
    size_bytes: int | UnsetType = UNSET
    llama_cpp: str | UnsetType = UNSET
    canary_cosines: tuple[float, ...] | UnsetType = UNSET
    attainable_tokens: int | UnsetType = UNSET
    """The longest text with a higher setting `context_tokens`; 0 if that would change nothing."""
    batch_tokens: int | UnsetType = UNSET
    autotune: dict[str, Any] | UnsetType | None = UNSET
    sandbox: dict[str, Any] | UnsetType = UNSET
    """What confines its worker: `landlock` (ABI, 0 for none), `seccomp`, and `words` for people."""


class MemoryUse(msgspec.Struct, frozen=True):
    """Memory of all loaded models together, in bytes."""

    used_bytes: int
    budget_bytes: int | None = None
    """None: there is no limit."""


class LoadedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is loaded, being loaded or unloaded, or that could not be loaded."""

    name: str
    type: str
    state: str
    """loading, ready, restarting, failed, unloading or stopped."""
    task: _Task = "embed"
    path: str = ""
    digest: str = ""
    default: bool = False
    """Whether requests that name no model get this one."""
    pinned: bool = False
    reason: str | None = None
    """Why it failed, or restarts."""
    device: str | None = None
    """The execution mode that it runs in."""
    offload: str | None = None
    demotions: list[Demotion] = []
    memory_bytes: int = 0
    requests: int = 0
    texts: int = 0
    texts_computed: int = 0
    texts_waiting: int = 0
    restarts: int = 0
    active: int = 0
    """Requests being answered now."""
    idle_seconds: float | None = None
    """None while requests are being answered."""
    keep_alive_seconds: float | None = None
    """Idle seconds after which it is unloaded; None: never."""
    dimensions: int | None = None
    outputs: list[str] = []
    """What it computes of texts; see docs/outputs.md. None for a reranker."""
    context_tokens: int | None = None
    worker_pid: int | None = None


class VectorsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The latest rows of a model before normalising, by input type; "plain" for requests that named none."""

    model: str
    input_type: str = "plain"
    rows: int = 0
    bad_rows: int = 0
    bad_share: float | None = None
    norm_bounds: tuple[float, ...] = ()
    norm_buckets: tuple[int, ...] = ()
    norm: float | None = None
    mean: float | None = None
    variance: float | None = None
    spread: float | None = None
    drift_cosine: float | None = None
    baseline_rows: int = 0
    baseline_norm: float | None = None
    alarm: str | None = None
    """How the rows differ from earlier ones, if they do."""


class ActivityStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The last minutes in steps of equal length, oldest first; null where nothing happened.

    Rates are per second, times in milliseconds, the hit rate is a share of 1.
    """

    step_seconds: int
    requests_per_second: tuple[float, ...]
    failures_per_second: tuple[float, ...]
    tokens_per_second: tuple[float, ...]
    p50_ms: tuple[float | None, ...]
    p95_ms: tuple[float | None, ...]
    hit_rate: tuple[float | None, ...]


class DaemonStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the daemon. No text of any request is included."""

    version: str
    pid: int
    uptime_seconds: float
    paused: bool = False
    """Whether only the cache answers."""
    starting: str | UnsetType = UNSET
    """What is done before there is a default model, such as a download, with its progress."""
    starting_share: float | UnsetType = UNSET
    """How much of this step is done, from 0 to 1."""
    loopback_only: bool = True
    """The daemon listens on a loopback address only: neither other machines nor containers reach it."""
    model: DefaultModel | None = None
    engine: EngineStatus | None = None
    """The default model's; None when it is not loaded."""
    memory: MemoryUse = MemoryUse(0)
    models: tuple[LoadedModel, ...] = ()
    devices: dict[str, Any] = {}
    """The GPUs, and which of them are used."""
    cache: CacheStats | None = None
    upstream: UpstreamStatus | None = None
    vectors: tuple[VectorsStatus, ...] = ()
    activity: ActivityStatus | None = None


class HealthDemotion(msgspec.Struct, frozen=True):
    """An execution mode that failed, and why."""

    mode: str
    reason: str


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the default model can compute; an unloaded model can, as the next request loads it."""

    status: Annotated[str, Meta(extra_json_schema={"enum": ["ok", "degraded", "paused", "starting", "unavailable"]})]
    paused: bool | UnsetType = UNSET
    """Whether only the cache answers; absent if not."""
    reason: str | UnsetType = UNSET
    """Why the model cannot compute."""
    model: str | None = None
    mode: str | None = None
    demotions: tuple[HealthDemotion, ...] = ()
    reduction: int | UnsetType = UNSET
    """Steps by which the model's worker is smaller than usual, after some died for want of memory; at most 3."""
    failed_models: dict[str, str | None] | UnsetType = UNSET
    """Other models that cannot be served, and why."""
    cache: str | UnsetType = UNSET
    """Why the cache's disk tier is not used."""
    vectors: str | UnsetType = UNSET
    """How the latest vectors differ from earlier ones."""


class ListedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A name that requests may use. `root`: what an alias stands for. Some fields need the model to be loaded.

    model_type: the task, as Xinference's clients read it.
    """

    id: str
    object: Annotated[str, Meta(extra_json_schema={"const": "model"})] = "model"
    created: int = 0
    owned_by: str = "edgeembed"
    task: _Task = "embed"
    model_type: Literal["embedding", "rerank", "classify"] = "embedding"
    type: str = ""
    loaded: bool = False
    root: str | UnsetType = UNSET
    input_type: Annotated[str | UnsetType, Meta(extra_json_schema={"enum": ["query", "document"]})] = UNSET
    dimensions: int | UnsetType = UNSET
    outputs: list[str] | UnsetType = UNSET
    labels: list[str] | UnsetType = UNSET
    context_tokens: int | UnsetType = UNSET


class EndingStatus(msgspec.Struct, frozen=True):
    """Why the daemon ends, and whether it starts anew; None while it does not end."""

    reason: str | None = None
    restarts: bool = False


class AdminStatus(msgspec.Struct, frozen=True):
    """paused: only the cache answers; stopping: the daemon ends once the requests in flight are done."""

    paused: bool
    stopping: bool = False
