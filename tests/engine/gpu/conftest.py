"""Vulkan on Mesa's driver that computes on the processor, and a small decoder to run on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.gpu.llvmpipe import driver, use, vulkan_build
from tests.engine.tiny_qwen3 import make_tiny_qwen3
from tests.sharing import once


@pytest.fixture
def vulkan_libraries(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the build that this process's children use, with llvmpipe as the only driver."""
    icd = driver()
    folder = vulkan_build(shared)
    use(monkeypatch, folder, icd)
    return folder


@pytest.fixture
def decoder(shared: Path) -> Path:
    return once(shared / "tiny-qwen3.gguf", make_tiny_qwen3)
