"""What the cache and the models take on disk, and what is left there."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgeembed.inference.service import EmbeddingService


@dataclass
class DiskUse:
    """Bytes by what takes them, "cache" or "models"; without those that cannot be told."""

    used: dict[str, int]
    free: dict[str, int]


async def disk_use(service: EmbeddingService) -> DiskUse:
    """Return what is taken and left. Models: those that the daemon knows, wherever their files are."""
    cache = service.cache
    files = {model.path for model in service.registry.models if not model.upstream}
    cache_bytes = await cache.disk_bytes() if cache else None
    folder = cache.stats.folder if cache else None
    return await asyncio.to_thread(_measured, cache_bytes, folder, files)


def _measured(cache_bytes: int | None, cache_folder: str | None, files: Iterable[Path]) -> DiskUse:
    sizes, left = [], []
    for file in files:
        with suppress(OSError):  # removed a moment ago
            sizes.append(file.stat().st_size)
            left.append(shutil.disk_usage(file.parent).free)
    found = DiskUse({"models": sum(sizes)}, {"models": min(left)} if left else {})
    if cache_bytes is not None and cache_folder is not None:
        found.used["cache"] = cache_bytes
        with suppress(OSError):
            found.free["cache"] = shutil.disk_usage(cache_folder).free
    return found
