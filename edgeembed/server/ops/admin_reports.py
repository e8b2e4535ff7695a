"""Routes for the daemon's owner to look at: what the cache holds, and the tail of the log."""

from __future__ import annotations

import datetime
import logging

from aiohttp import web

from edgeembed.common.admin_status import CacheModel, CacheStatus, LogLine, LogTail
from edgeembed.common.logs import MOST_RECENT, RecentLine, recent_lines
from edgeembed.errors import RequestError
from edgeembed.server.app_keys import SERVICE
from edgeembed.server.owner import owned
from edgeembed.server.responses import struct_response

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
DEFAULT_LINES = 200


def add_to(app: web.Application) -> None:
    """Add the routes to an application."""
    app.add_routes([web.get("/v1/admin/cache", owned(show_cache)), web.get("/v1/admin/log", owned(show_log))])


async def show_cache(request: web.Request) -> web.Response:
    """Describe what the cache holds, in memory and on disk, and of which models."""
    cache = request.app[SERVICE].cache
    if cache is None:
        return struct_response(CacheStatus(problem="the setting cache is off"))
    stats = cache.stats
    disk_bytes, models = await cache.report()
    return struct_response(
        CacheStatus(
            memory_bytes=stats.memory_bytes + stats.answer_bytes,
            memory_limit_bytes=stats.memory_limit_bytes,
            disk_bytes=disk_bytes,
            disk_limit_bytes=stats.disk_limit_bytes,
            folder=stats.folder,
            rows=sum(each.entries for each in models) if stats.folder else stats.memory_entries,
            problem=stats.disk_problem if stats.folder else None,
            models=tuple(
                CacheModel(model=each.model, rows=each.entries, bytes=each.bytes) for each in models if each.entries
            ),
        )
    )


async def show_log(request: web.Request) -> web.Response:
    """Return the latest lines of the log, the newest last: `?level=warning&lines=200`.

    They are kept in memory, 1,000 at most, and are those that the log has: without texts of requests and keys.
    """
    word = request.query.get("level", "info")
    if word not in LEVELS:
        raise RequestError(f"level: expected one of {', '.join(LEVELS)}", param="level")
    count = request.query.get("lines", str(DEFAULT_LINES))
    if not (count.isascii() and count.isdigit() and len(count) <= 4 and 1 <= int(count) <= MOST_RECENT):
        raise RequestError(f"lines: expected a number from 1 to {MOST_RECENT}", param="lines")
    return struct_response(LogTail(lines=tuple(map(_line, recent_lines(LEVELS[word])[-int(count) :]))))


def _line(line: RecentLine) -> LogLine:
    time = datetime.datetime.fromtimestamp(line.time, datetime.UTC).isoformat(timespec="milliseconds")
    level = logging.getLevelName(line.level).lower()
    return LogLine(number=line.number, time=time.replace("+00:00", "Z"), level=level, message=line.message)
