"""The memory of the machine, and of models: estimated before they are loaded, measured afterwards."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

from edgeembed.common import cgroups
from edgeembed.engine.sparse import masked_lm_vocabulary
from edgeembed.hub.catalogue import CatalogueEntry
from edgeembed.hub.file_sizes import CACHED, CAUSAL, size_of, stored_feed_forward
from edgeembed.hub.gguf.header import read_header

MIB = 2**20
DEFAULT_SHARE = 0.7
"""Share of the memory that can be used, for loaded models."""
WORKER_BYTES = 96 * MIB
"""Memory of a worker without its model: interpreter, numpy, llama.cpp, and a context's fixed buffers."""
_NO_POOLING = 0
"""llama.cpp's number, in a file without dense rows."""
_BYTES_PER_VALUE = 2  # of the KV cache: float16


def usable_bytes() -> int:
    """Return the memory that this process and its workers may take: the least that the machine, the cgroups around it
    (what others in them use is not counted) and its own limits allow.

    A limit of the address space (`ulimit -v`) holds for each worker, not for all together; this is on the safe side.
    """
    bounds = [_machine_bytes(), cgroups.memory_left(), *_process_limits()]
    return min(bound for bound in bounds if bound is not None)


def _machine_bytes() -> int:
    """Return the size of the main memory."""
    if sys.platform == "linux":  # as psutil does, whose import takes longer than all else here
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "MemTotal":
                return int(value.split()[0]) * 1024
    import psutil

    return int(psutil.virtual_memory().total)


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


class _Sizes(NamedTuple):
    """What a model's memory depends on, besides its file."""

    layers: int
    width: int
    feed_forward: int
    per_token: int
    """Numbers of a layer's keys and values for a token."""
    causal: bool
    cached: bool
    """Whether llama.cpp allocates a KV cache."""
    context: int
    """Longest text."""
    dense: bool
    """Whether it has dense rows. If not, each text is computed in a second context, that of the hidden states."""
    copied: int
    """Bytes of token embeddings that are copied for a masked-LM head; see `edgeembed.engine.llama.masked_lm`."""


def estimate(path: Path, context_tokens: int, batch_tokens: int) -> int:
    """Return an estimate of a worker's bytes with this file: weights, KV cache, buffers of a batch. Raises HubError.

    What outputs beside dense rows take while they are asked for is not counted, except for a masked-LM head.
    """
    header = read_header(path)

    def number(key: str, otherwise: int = 0) -> int:
        return header.size(key) or otherwise

    width, heads = number("embedding_length"), number("attention.head_count", 1)
    head = width // heads
    lengths = number("attention.key_length", head) + number("attention.value_length", head)
    causal = bool(header.values.get(header.key("attention.causal"), True))
    sizes = _Sizes(
        layers=number("block_count"),
        width=width,
        feed_forward=number("feed_forward_length"),
        per_token=number("attention.head_count_kv", heads) * lengths,
        causal=causal,
        cached=causal or header.architecture in CACHED,
        context=number("context_length", context_tokens),
        dense=header.pooling != _NO_POOLING,
        copied=masked_lm_vocabulary(header.text) * width * 34 // 32 if header.type == "Q8_0" else 0,
    )
    return _estimate(path.stat().st_size, sizes, context_tokens, batch_tokens)


def estimate_entry(entry: CatalogueEntry, kind: str, context_tokens: int, batch_tokens: int) -> int | None:
    """Return an estimate of a worker's bytes with the catalogue's model in this type; None if its shape is not known."""
    shape, size = entry.shape, size_of(entry, kind)
    if shape is None or size is None:
        return None
    head = shape.head_length or shape.width // shape.heads
    sizes = _Sizes(
        layers=shape.layers,
        width=shape.width,
        feed_forward=stored_feed_forward(entry.architecture, shape.feed_forward),
        per_token=(shape.kv_heads or shape.heads) * 2 * head,
        causal=entry.architecture in CAUSAL,
        cached=entry.architecture in CACHED,
        context=entry.context_tokens,
        dense=entry.pooling != "none",
        copied=0,  # no such model is in the catalogue
    )
    return _estimate(size, sizes, context_tokens, batch_tokens)


def _estimate(file_bytes: int, sizes: _Sizes, context_tokens: int, batch_tokens: int) -> int:
    """Return the bytes of the weights, of the KV cache (a key and a value per layer and token, in float16), of a batch."""
    context = min(context_tokens, sizes.context)
    cache = sizes.layers * sizes.per_token * context * _BYTES_PER_VALUE if sizes.cached else 0
    batch = batch_tokens if sizes.causal else max(batch_tokens, context)
    activations = 4 * batch * (4 * sizes.width + 2 * sizes.feed_forward)
    contexts = 1 if sizes.dense else 2
    return file_bytes + sizes.copied + cache + contexts * activations + WORKER_BYTES


def resident_bytes(pid: int | None) -> int | None:
    """Return the resident memory of a process in bytes; None if it does not exist."""
    if pid is None:
        return None
    if sys.platform == "linux":
        try:
            return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):  # it has ended
            return None
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None
