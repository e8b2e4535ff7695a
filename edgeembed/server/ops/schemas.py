"""What routes answer that write their JSON from parts or from dicts: types for the OpenAPI document.

Tests hold real answers against them. A field with UNSET may be missing.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from edgeembed.common.status import CacheStats, EngineStatus
from edgeembed.engine.interface import Task
from edgeembed.models.prompts import InputType

Anything: TypeAlias = dict[str, Any]


class EmbeddingItem(msgspec.Struct):
    """One text's vector, of length 1; with `encoding_format: base64` as little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(msgspec.Struct):
    """Tokens of all texts as far as they were read, special ones and the prompt's included."""

    prompt_tokens: int
    total_tokens: int


class TruncatedItem(msgspec.Struct):
    """A text that was cut: how many of its tokens were read, of how many."""

    index: int
    tokens: int
    full_tokens: int


class EmbeddingsAnswer(msgspec.Struct):
    """Vectors in the order of the texts; `truncated` is there when something was cut."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingsUsage
    truncated: list[TruncatedItem] | UnsetType = UNSET


class ModelAnswer(msgspec.Struct):
    """One name that a request may use. `root` is what an alias stands for; some fields come once the model is loaded."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    task: Task
    type: str
    loaded: bool
    root: str | UnsetType = UNSET
    input_type: InputType | UnsetType = UNSET
    dimensions: int | UnsetType = UNSET
    context_tokens: int | UnsetType = UNSET


class ModelsAnswer(msgspec.Struct):
    """Every name that a request may use."""

    object: Literal["list"]
    data: list[ModelAnswer]


class HealthDemotion(msgspec.Struct):
    """A way to run the model that did not hold."""

    mode: str
    reason: str


class HealthAnswer(msgspec.Struct):
    """The default model can compute, or is unloaded because nobody uses it."""

    status: str
    model: str | None
    mode: str | None
    demotions: list[HealthDemotion]
    failed_models: dict[str, str | None] | UnsetType = UNSET
    cache: str | UnsetType = UNSET
    vectors: str | UnsetType = UNSET


class LiveAnswer(msgspec.Struct):
    """The server's loop runs."""

    status: Literal["ok"]


class IllAnswer(HealthAnswer, kw_only=True):
    """The default model cannot compute, and why; `starting` says that it will soon."""

    reason: str


class StatusModel(msgspec.Struct):
    """The default model; what its file says of it is there once it is loaded."""

    name: str
    digest: str
    architecture: str | UnsetType = UNSET
    dimensions: int | UnsetType = UNSET
    context_tokens: int | UnsetType = UNSET
    pooling: str | UnsetType = UNSET
    file_type: str | UnsetType = UNSET
    parameters: int | UnsetType = UNSET
    size_bytes: int | UnsetType = UNSET
    llama_cpp: str | UnsetType = UNSET
    canary_cosines: list[float] | UnsetType = UNSET


class StatusMemory(msgspec.Struct):
    """Memory of all loaded models."""

    budget_bytes: int
    used_bytes: int


class StatusSlot(msgspec.Struct):
    """A model that is loaded, loading, leaving, or that could not be loaded."""

    name: str
    type: str
    task: Task
    path: str
    digest: str
    default: bool
    pinned: bool
    state: str
    reason: str | None
    device: str | None
    memory_bytes: int
    requests: int
    texts: int
    texts_computed: int
    texts_waiting: int
    restarts: int
    active: int
    idle_seconds: float | None
    keep_alive_seconds: float | None
    dimensions: int | None
    context_tokens: int | None
    worker_pid: int | None


class StatusVectors(msgspec.Struct):
    """What a model's rows look like before normalising, of one input type (plain: none was named), of late."""

    model: str
    input_type: str
    rows: int
    bad_rows: int
    bad_share: float | None
    norm_bounds: list[float]
    norm_buckets: list[int]
    norm: float | None
    mean: float | None
    variance: float | None
    spread: float | None
    drift_cosine: float | None
    baseline_rows: int
    baseline_norm: float | None
    alarm: str | None


class StatusActivity(msgspec.Struct):
    """The last minutes in steps of equal length, the oldest first; null where nothing happened."""

    step_seconds: int
    requests_per_second: list[float]
    failures_per_second: list[float]
    tokens_per_second: list[float]
    p50_ms: list[float | None]
    p95_ms: list[float | None]
    hit_rate: list[float | None]


class StatusAnswer(msgspec.Struct):
    """Everything that there is to know about the server; no text that anybody sent is in it."""

    version: str
    pid: int
    uptime_seconds: float
    model: StatusModel | None
    engine: EngineStatus | None
    memory: StatusMemory
    models: list[StatusSlot]
    cache: CacheStats | None
    vectors: list[StatusVectors]
    activity: StatusActivity
