"""Daemons that share a cache: a box that is new, or was restarted without a disk, has the hits of the others."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.cache.servers import KeyServer, missing, program_of
from tests.e2e.daemon import Daemon, running
from tests.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.skipif(program_of("redis") is None, reason=missing("redis"))]
TEXTS = [f"the {word} of the day" for word in ("light", "sound", "end", "rest")]
FLAGS = ("--cache-disk-mib", "0")


def hits(daemon: Daemon) -> tuple[int, int]:
    """Return how many texts the shared tier had, and how many no tier had."""
    cache = daemon.get("/v1/status")[1]["cache"]
    return cache["shared_hits"], cache["misses"]


def test_a_rolling_restart_keeps_hits_and_no_one_sees_the_password(minilm: Callable[[str], Path], tmp_path: Path) -> None:
    server = KeyServer("redis", tmp_path / "server", "--requirepass", "sesame", port=free_port())
    server.password = "sesame"
    shared = {"EDGEEMBED_CACHE_URL": f"redis://:sesame@127.0.0.1:{server.port}/0", "EDGEEMBED_CACHE_SECRET": "open-up"}
    flags = ("--model", str(minilm("Q8_0")), "--log-level", "debug", *FLAGS)
    server.start()
    try:
        with running(*flags, home=tmp_path / "one", **shared) as one:  # type: ignore[arg-type]
            rows = one.embed(TEXTS)
            assert hits(one) == (0, 4)
            one.stop()
        with running(*flags, home=tmp_path / "one", **shared) as one:  # type: ignore[arg-type]
            assert (one.embed(TEXTS) == rows).all() and hits(one) == (4, 0)
            metrics = urllib.request.urlopen(f"{one.url}/metrics").read().decode()
            assert 'tier="shared"} 4.0' in metrics
            status = one.get("/v1/status")[1]
            assert status["cache"]["shared"]["address"] == f"127.0.0.1:{server.port}"
            shown = [metrics, json.dumps(status), one.log, json.dumps(one.get("/v1/admin/settings")[1])]
            family = [psutil.Process(one.process.pid), *psutil.Process(one.process.pid).children(recursive=True)]
            shown += [" ".join(process.cmdline()) for process in family]
            shown += [" ".join(process.environ().values()) for process in family[1:]]
            assert not any(word in text for word in ("sesame", "open-up") for text in shown)
            server.kill()
            assert np.allclose(one.embed(["another text"]), one.embed(["another text"])), "it goes on"
            assert one.get("/health")[0] == 200
    finally:
        server.kill()
