"""The memory of the machine, and of models: estimated before they are loaded, measured afterwards."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

from edgeembed.common import cgroups
from edgeembed.hub.gguf.header import read_header

MIB = 2**20
DEFAULT_SHARE = 0.7
"""Share of the memory that can be used, for loaded models."""
WORKER_BYTES = 96 * MIB
"""Memory of a worker without its model: interpreter, numpy, llama.cpp, and a context's fixed buffers."""
_BYTES_PER_VALUE = 2  # of the KV cache: float16


def usable_bytes() -> int:
    """Return the memory that this process and its workers may take: the least that the machine, the cgroups around it
    (what others in them use is not counted) and its own limits allow.

    A limit of the address space (`ulimit -v`) holds for each worker, not for all together; this is on the safe side.
    """
    bounds = [psutil.virtual_memory().total, cgroups.memory_left(), *_process_limits()]
    return min(bound for bound in bounds if bound is not None)


def _process_limits() -> list[int]:
    """Return the limits of address space and data that this process and the workers that it starts have."""
    if sys.platform == "win32":
        return []
    import resource

    soft = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return [limit for limit in soft if limit != resource.RLIM_INFINITY]


def budget_bytes(memory_budget_mib: int) -> int:
    """Return the setting in bytes; 0 means a share of the memory that can be used."""
    return memory_budget_mib * MIB or int(DEFAULT_SHARE * usable_bytes())


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
