"""The memory budget."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from edgeembed.common import cgroups
from edgeembed.models import memory

TOTAL = psutil.virtual_memory().total


def test_the_budget_is_a_share_of_the_least_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    left: list[int | None] = [None]
    monkeypatch.setattr(memory, "_process_limits", lambda: limits)
    monkeypatch.setattr(cgroups, "memory_left", lambda: left[0])
    assert memory.budget_bytes(0) == int(memory.DEFAULT_SHARE * TOTAL)
    left[0] = 1000
    assert memory.budget_bytes(0) == 700
    limits += [2000, 100]
    assert memory.budget_bytes(0) == 70
    assert memory.budget_bytes(3) == 3 * memory.MIB, "who sets it knows better"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")
@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_the_process_own_limits_count(kind: str) -> None:
    """In another process, as under `ulimit -v`."""
    limit = 3_000_000_000
    code = (
        f"import resource; resource.setrlimit(resource.{kind}, ({limit}, resource.RLIM_INFINITY)); "
        "from edgeembed.models import memory; print(memory.usable_bytes())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert int(found.stdout) == min(limit, memory.usable_bytes())
