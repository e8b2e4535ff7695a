"""The one logger setup: lines for people or JSON for machines, and the request that a line belongs to."""

from __future__ import annotations

import datetime
import logging
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

import orjson

Format = Literal["text", "json"]

log = logging.getLogger("edgeembed.daemon")

LOG_FILE = "daemon.log"
"""Where no system keeps what the daemon says."""
LOG_BYTES = 4 * 2**20
"""A longer log is put aside when a daemon starts; one old one is kept."""
_LINE = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class RequestScope:
    """A request that is being answered. Tasks that it started know it, and forget it when it ends: the supervisor of a
    worker that a request caused to start lives on for days.
    """

    __slots__ = ("active", "id")

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.active = True


_scope: ContextVar[RequestScope | None] = ContextVar("request", default=None)


def begin_request(id_: str) -> RequestScope:
    """Let log lines of this task, and of tasks that it starts, carry a request id until `active` is False."""
    scope = RequestScope(id_)
    _scope.set(scope)
    return scope


def request_id() -> str | None:
    """Give the id of the request that is being answered here, if any."""
    scope = _scope.get()
    return scope.id if scope is not None and scope.active else None


class TextFormatter(logging.Formatter):
    """One line for a person, with the request id at its end."""

    def __init__(self) -> None:
        super().__init__(_LINE, "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        id_ = getattr(record, "request_id", None) or request_id()
        return f"{line} [{id_}]" if id_ else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (RFC 3339, UTC), level, logger, message, and request_id and exception where there are
    any.
    """

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        fields = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if id_ := getattr(record, "request_id", None) or request_id():
            fields["request_id"] = id_
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        # What a client called itself may hold what is no Unicode; a line is worth more than its every letter.
        try:
            return orjson.dumps(fields).decode()
        except TypeError:
            return orjson.dumps({name: value.encode(errors="replace").decode() for name, value in fields.items()}).decode()


def provide_stderr(folder: Path) -> None:
    """Where the process has no stderr, as one without a console on Windows, begin to write a file in place of it."""
    if sys.stderr is not None:
        return
    file = folder / LOG_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        put_aside(file)
        sys.stderr = file.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
    except OSError:
        return  # nobody can be told; the daemon runs without


def put_aside(file: Path) -> None:
    """Begin a log file anew that has grown long; one old one is kept. Raises OSError."""
    if file.exists() and file.stat().st_size > LOG_BYTES:
        file.replace(file.with_suffix(".log.1"))


def setup_logging(level: str, format_: Format = "text") -> None:
    """Send log lines of at least `level` to stderr. Texts that users send are never logged."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format_ == "json" else TextFormatter())
    root = logging.getLogger("edgeembed")
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(level.upper())


def log_anyway(line: str) -> None:
    """Log a line that is news for whoever started the daemon, whatever the least severity is."""
    log.handle(log.makeRecord(log.name, logging.INFO, __file__, 0, line, (), None))
