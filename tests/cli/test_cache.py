"""`edgeembed cache`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgeembed.cache import KeyMaker, VectorCache
from edgeembed.cli.cache import cache
from edgeembed.config import Paths, Settings
from edgeembed.engine.protocol import Row
from edgeembed.errors import ConfigError
from edgeembed.fleet import Fleet, make_service
from edgeembed.hub.store import Store
from edgeembed.roster import served
from tests.cli.helpers import install

KEYS = KeyMaker("5" * 64, "mean")


@pytest.fixture
def run() -> CliRunner:
    return CliRunner(catch_exceptions=False)


def daemons_cache() -> VectorCache:
    """The cache that `serve` would use."""
    model = Store(Paths.resolve()).find("alpha") or install("alpha", "F32")
    found = make_service(Settings(), Paths.resolve(), Fleet(served(model))).cache
    assert found is not None
    return found


async def fill(target: VectorCache, count: int) -> None:
    await target.open()
    for number in range(count):
        target.put(KEYS.key("{text}", str(number)), Row(np.full(384, number, dtype=np.float32), 3))
    await target.close()


async def test_stats_and_clear_see_what_the_daemon_wrote(run: CliRunner) -> None:
    await fill(daemons_cache(), 1234)
    folder = run.invoke(cache, ["path"]).output.strip()
    assert run.invoke(cache, ["stats"]).output.startswith(f"{folder}: 1,234 vectors, ")
    assert run.invoke(cache, ["clear"]).output == "removed 1,234 vectors\n"
    assert ": 0 vectors, " in run.invoke(cache, ["stats"]).output


async def test_clear_while_the_daemon_runs(run: CliRunner) -> None:
    running = daemons_cache()
    await fill(daemons_cache(), 5)
    await running.open()
    assert run.invoke(cache, ["clear"]).output == "removed 5 vectors\n"
    assert await running.get_many([KEYS.key("{text}", "1")]) == {}
    running.put(KEYS.key("{text}", "1"), Row(np.ones(384, dtype=np.float32), 3))
    await running.close()
    assert running.stats.disk_problem is None
    assert run.invoke(cache, ["clear"]).output == "removed 1 vectors\n"


async def test_looking_removes_nothing_even_with_a_lower_limit(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(daemons_cache(), 2000)
    monkeypatch.setenv("EDGEEMBED_CACHE_DISK_MIB", "0")
    for _ in range(2):
        assert ": 2,000 vectors, " in run.invoke(cache, ["stats"]).output


def test_a_cache_that_cannot_be_opened(run: CliRunner, home: Path) -> None:
    home.mkdir()
    (home / "cache").write_text("a file where the folder should be")
    for command in ("stats", "clear"):
        with pytest.raises(ConfigError, match="cannot be opened"):
            run.invoke(cache, [command])
    assert run.invoke(cache, ["path"]).output.startswith(str(home / "cache"))
