"""HTTP requests, counted as they are answered."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from aiohttp import web

from edgeembed.server.ops.activity import Activity

SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""Upper bounds of the latency histogram: a cache hit takes a quarter of a millisecond, a bulk request seconds."""
CLIENT_GONE = 499
"""The status counted for requests whose client disconnected, as in nginx."""
NO_ROUTE = "none"
WAITING = frozenset({"/v1/status/ending"})
"""Routes whose requests wait for something to happen: no latency."""


class HttpCounts:
    """Requests by route and status, in plain numbers: one event loop updates them, and a cache hit must stay cheap."""

    def __init__(self, activity: Activity) -> None:
        self.activity = activity
        self.in_flight = 0
        self.answered: Counter[tuple[str, int]] = Counter()
        self.buckets: dict[str, list[int]] = {}
        self.seconds: dict[str, float] = {}

    def count(self, request: web.Request, status: int, seconds: float) -> None:
        """Count a request by its route's template, as its path may hold anything."""
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else NO_ROUTE
        self.add(route, request.method, status, 0.0 if route in WAITING else seconds)

    def add(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request to a route."""
        self.answered[route, status] += 1
        buckets = self.buckets.get(route)
        if buckets is None:
            buckets = self.buckets[route] = [0] * (len(SECONDS) + 1)
            self.seconds[route] = 0.0
        buckets[bisect_left(SECONDS, seconds)] += 1
        self.seconds[route] += seconds
        if method == "POST":
            self.activity.record(seconds, status)
