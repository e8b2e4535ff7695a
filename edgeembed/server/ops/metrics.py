"""GET /metrics: counts and states for Prometheus.

Only HTTP requests are counted here, as they are answered; `collector` reads all other values during a scrape.
"""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import TYPE_CHECKING

from aiohttp import web

from edgeembed.inference.service import EmbeddingService
from edgeembed.server.app_keys import SERVICE
from edgeembed.server.ops.activity import Activity, Totals
from edgeembed.server.ops.disk import DiskUse, disk_use
from edgeembed.server.ops.http_counts import HttpCounts

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

routes = web.RouteTableDef()


class Metrics:
    """The metrics of one application."""

    def __init__(self, service: EmbeddingService, started_at: float) -> None:
        """started_at: Unix seconds at which the daemon started."""
        self.http = HttpCounts(Activity(lambda: totals(service)))
        self._service = service
        self._started_at = started_at
        self.disk = DiskUse({}, {})
        """As of the last scrape."""

    @cached_property
    def registry(self) -> CollectorRegistry:
        """The collectors. The first use imports prometheus_client."""
        from edgeembed.server.ops import collector

        return collector.make_registry(self._service, self.http, lambda: self.disk, self._started_at)

    def write(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the format that an Accept header asks for, and its content type."""
        from edgeembed.server.ops import collector

        return collector.write(self.registry, accept)


METRICS = web.AppKey("metrics", Metrics)


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    """Return all metrics, in the text format of Prometheus or OpenMetrics, as the Accept header asks."""
    found = request.app[METRICS]
    await asyncio.to_thread(lambda: found.registry)
    found.disk = await disk_use(request.app[SERVICE])
    body, content_type = found.write(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


def totals(service: EmbeddingService) -> Totals:
    """Return the counts that the dashboard shows as rates."""
    stats = service.cache.stats if service.cache else None
    hits = stats.memory_hits + stats.disk_hits + stats.shared_hits if stats else 0
    return Totals(
        hits=hits,
        lookups=hits + (stats.misses if stats else 0),
        tokens=sum(slot.engine.status.tokens_computed for slot in service.pool.slots if slot.engine),
    )
