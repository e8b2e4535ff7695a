"""The access log: a line for each request, if the setting `access_log` names a file.

Like the other logs it holds nothing that a client wrote, except for a valid request id: the route, not the path.
"""

from __future__ import annotations

import datetime
import logging
import os
import queue
import sys
from io import TextIOWrapper
from logging.handlers import QueueHandler, QueueListener, WatchedFileHandler
from pathlib import Path
from typing import TextIO

import orjson
from aiohttp import web

from edgeembed.common.log_content import describe_error
from edgeembed.common.logs import Format
from edgeembed.errors import ConfigError
from edgeembed.server.auth import KEY_NAME

log = logging.getLogger(__name__)

STDOUT = "-"
MOST_WAITING = 10_000
"""Lines in memory while the disk is slow; further ones are lost, and counted in the log."""


class AccessLog:
    """Writes lines on a thread of its own, so that a slow disk holds up no request."""

    def __init__(self, target: str, format_: Format) -> None:
        """target: a file, which log rotation may rename, or STDOUT. Raises ConfigError if it cannot be written."""
        self._format = format_
        self._queue: queue.Queue[logging.LogRecord] = queue.Queue()
        self._handler = _Enqueue(self._queue)
        self._listener = QueueListener(self._queue, _writer(target))
        self._listener.start()

    def write(self, request: web.BaseRequest, route: str, status: int, seconds: float, size: int | None, id_: str) -> None:
        """Add a line. route: such as "POST /v1/embeddings". size: of the response's body, if known. id_: of the request."""
        now = datetime.datetime.now(datetime.UTC)
        client, key = request.remote or "-", request.get(KEY_NAME, "-")
        milliseconds = round(1000 * seconds, 3)
        if self._format == "json":
            fields = {
                "time": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "client": client,
                "key": key,
                "request": route,
                "status": status,
                "bytes": size,
                "ms": milliseconds,
                "request_id": id_,
            }
            line = orjson.dumps(fields).decode()
        else:
            time = now.strftime("%d/%b/%Y:%H:%M:%S +0000")
            line = f'{client} - {key} [{time}] "{route}" {status} {"-" if size is None else size} {milliseconds} {id_}'
        self._handler.handle(logging.LogRecord(__name__, logging.INFO, __file__, 0, line, None, None))

    def close(self) -> None:
        """Write the last lines."""
        self._listener.stop()
        for handler in self._listener.handlers:
            handler.close()
        if self._handler.lost:
            log.warning("the access log lacks %d lines, as its file could not be written fast enough", self._handler.lost)


class _Enqueue(QueueHandler):
    """Puts lines into the queue; counts those for which there is no room."""

    lost = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        assert isinstance(self.queue, queue.Queue)
        if self.queue.qsize() < MOST_WAITING:
            self.queue.put_nowait(record)
        else:
            self.lost += 1


class _Lossy(logging.Handler):
    """Goes on without lines that cannot be written, such as those for a full disk, and logs the first one of them."""

    failing = False

    def emit(self, record: logging.LogRecord) -> None:
        failing, self.failing = self.failing, False
        try:
            super().emit(record)
        except OSError:  # the file cannot be opened again
            self.handleError(record)
        if failing and not self.failing:
            log.warning("the access log is written again")
        elif self.failing and not failing:
            log.warning("the access log cannot be written: %s", describe_error(self.error))

    def handleError(self, record: logging.LogRecord) -> None:
        """Note the exception that is being handled."""
        self.failing, self.error = True, sys.exc_info()[1] or OSError()


class _File(_Lossy, WatchedFileHandler):
    """A file that only its owner can read; opened again after it was renamed."""

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=_open_private)


class _Stdout(_Lossy, logging.StreamHandler[TextIO]):
    """Standard output."""


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _writer(target: str) -> logging.Handler:
    if target == STDOUT:
        return _Stdout(sys.stdout)
    try:
        return _File(Path(target).expanduser())
    except OSError as error:
        raise ConfigError(
            f"access_log: {target} cannot be written: {error.strerror}; name a file in a folder that exists"
        ) from error
