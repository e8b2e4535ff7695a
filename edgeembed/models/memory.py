"""The memory of the machine, and of models: estimated before they are loaded, measured afterwards."""

from __future__ import annotations

from pathlib import Path

import psutil

from edgeembed.hub.gguf.header import read_header

MIB = 2**20
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
DEFAULT_SHARE = 0.7
"""Share of the machine's memory for loaded models."""
WORKER_BYTES = 96 * MIB
"""Memory of a worker without its model: interpreter, numpy, llama.cpp, and a context's fixed buffers."""
_BYTES_PER_VALUE = 2  # of the KV cache: float16


def machine_bytes() -> int:
    """Return the memory of this machine, or of the container around this process (cgroup v2)."""
    total = psutil.virtual_memory().total
    try:
        limit = CGROUP_LIMIT.read_text(encoding="ascii").strip()
        return min(total, int(limit)) if limit != "max" else total
    except (OSError, ValueError):
        return total  # no container, or one without a limit


def budget_bytes(memory_budget_mib: int) -> int:
    """Return the setting in bytes; 0 means a share of the machine's memory."""
    return memory_budget_mib * MIB or int(DEFAULT_SHARE * machine_bytes())


def estimate(path: Path, context_tokens: int, batch_tokens: int) -> int:
    """Return an estimate of a worker's bytes with this file: weights, KV cache, buffers of a batch.

    The KV cache has a key and a value of head_count_kv heads in float16 per layer and token. Raises HubError.
    """
    header = read_header(path)

    def number(key: str, otherwise: int = 0) -> int:
        return header.number(f"{header.architecture}.{key}") or otherwise

    layers, width, heads = number("block_count"), number("embedding_length"), number("attention.head_count", 1)
    head = width // heads
    per_token = number("attention.head_count_kv", heads) * (
        number("attention.key_length", head) + number("attention.value_length", head)
    )
    causal = header.values.get(f"{header.architecture}.attention.causal", True)
    context = min(context_tokens, number("context_length", context_tokens))
    cache = layers * per_token * context * _BYTES_PER_VALUE if causal else 0
    batch = batch_tokens if causal else max(batch_tokens, context)
    activations = 4 * batch * (4 * width + 2 * number("feed_forward_length"))
    return path.stat().st_size + cache + activations + WORKER_BYTES


def resident_bytes(pid: int | None) -> int | None:
    """Return the resident memory of a process in bytes; None if it does not exist."""
    if pid is None:
        return None
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None
