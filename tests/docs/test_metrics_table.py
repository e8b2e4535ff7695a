"""The table of metrics in docs/monitoring.md names every metric of the code, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from unittest.mock import Mock, create_autospec

from edgeembed.cache import Server, SharedTier, VectorCache
from edgeembed.common.status import UpstreamStatus
from edgeembed.models.slot import Slot
from edgeembed.server.ops.metrics import Metrics
from edgeembed.upstream.engine import RemoteEngine
from tests.fakes import FakeEngine, fake_service

PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"


async def test_the_table_names_every_metric() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("<!-- metrics: begin -->")[2].partition("<!-- metrics: end -->")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = {name.removesuffix("_total") for row in rows for name in re.findall(r"`(\w+)`", row)}
    shared = SharedTier(Server("redis://localhost"))
    service = fake_service(FakeEngine(), VectorCache(None, memory_mib=8, disk_mib=0, shared=shared))
    upstream = create_autospec(RemoteEngine, instance=True)
    upstream.upstream = Mock(spec=UpstreamStatus, breaker="closed", **dict.fromkeys(_COUNTS, 0))
    upstream.status = FakeEngine().status
    slot = create_autospec(Slot, instance=True, engine=upstream, state="ready", memory_bytes=0)
    slot.model = service.registry.models[0]
    service.pool._slots["upstream", "embed"] = slot
    families = {family.name for family in Metrics(service, 0.0).registry.collect()}
    assert documented == {name.removeprefix("edgeembed_") for name in families if name.startswith("edgeembed_")}


_COUNTS = ("in_flight", "opened", "requests", "retries", "refusals", "fallback_texts", "changes")
