"""Logging set-up: text lines or JSON, each with the id of its request."""

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
"""The log, if neither a console nor a service manager keeps it."""
LOG_BYTES = 4 * 2**20
"""A longer log is rotated when a daemon starts; one old file is kept."""
_LINE = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class RequestScope:
    """A request in progress. Tasks that it started belong to it only until it ends: the supervisor of a worker, started for
    a request, runs for days.
    """

    __slots__ = ("active", "id")

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.active = True


_scope: ContextVar[RequestScope | None] = ContextVar("request", default=None)


def begin_request(id_: str) -> RequestScope:
    """Add a request id to log lines of this task, and of tasks that it starts, until `active` is False."""
    scope = RequestScope(id_)
    _scope.set(scope)
    return scope


def request_id() -> str | None:
    """Return the id of the current request, if any."""
    scope = _scope.get()
    return scope.id if scope is not None and scope.active else None


class TextFormatter(logging.Formatter):
    """One line of text, with the request id at its end."""

    def __init__(self) -> None:
        super().__init__(_LINE, "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        id_ = getattr(record, "request_id", None) or request_id()
        return f"{line} [{id_}]" if id_ else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (RFC 3339, UTC), level, logger, message, and request_id and exception if any."""

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
        # Data from clients may contain invalid Unicode, which is replaced rather than losing the line.
        try:
            return orjson.dumps(fields).decode()
        except TypeError:
            return orjson.dumps({name: value.encode(errors="replace").decode() for name, value in fields.items()}).decode()


def provide_stderr(folder: Path) -> None:
    """Redirect stderr to a log file if the process has none, such as one without a console on Windows."""
    if sys.stderr is not None:
        return
    file = folder / LOG_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        rotate_log(file)
        sys.stderr = file.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
    except OSError:
        return  # there is no way to report it; the daemon runs without a log


def rotate_log(file: Path) -> None:
    """Rename a log file that has grown too long; one old file is kept. Raises OSError."""
    if file.exists() and file.stat().st_size > LOG_BYTES:
        file.replace(file.with_suffix(".log.1"))


def setup_logging(level: str, format_: Format = "text") -> None:
    """Log lines of at least `level` to stderr. No message of ours contains a text from a request."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format_ == "json" else TextFormatter())
    root = logging.getLogger("edgeembed")
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(level.upper())


def log_anyway(line: str) -> None:
    """Log a line that the user must see, whatever the log level is."""
    log.handle(log.makeRecord(log.name, logging.INFO, __file__, 0, line, (), None))
