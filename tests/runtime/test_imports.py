"""What daemon and worker import at their start: each module costs time there, and memory for good."""

from __future__ import annotations

import subprocess
import sys

import pytest

LATER = {
    "edgeembed.engine.worker.serving": ("asyncio", "ssl", "hashlib", "email", "importlib.metadata", "aiohttp", "sqlite3"),
    "edgeembed.runtime.daemon": ("aiohttp", "tqdm", "filelock", "psutil", "edgeembed.hub.sources"),
    "edgeembed.server.lifecycle": ("tqdm", "filelock", "prometheus_client", "edgeembed.upstream.engine", "llama_cpp"),
}
"""By what is imported: modules that are imported later, by those few who need them."""


@pytest.mark.parametrize("module", LATER)
def test_a_start_imports_only_what_it_needs(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-P"], input=code, capture_output=True, text=True, check=True, timeout=120)
    assert not set(done.stdout.split()) & set(LATER[module])
