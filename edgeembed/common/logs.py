"""Logging: text lines or JSON, each with the id of its request. `log_content` says what a line may hold."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import logging
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple, TextIO

import orjson

from edgeembed.common.log_content import describe_error, format_traceback, printable, printable_lines, shortened

if TYPE_CHECKING:
    from edgeembed.common.spans import RequestSpan

Format = Literal["text", "json"]

log = logging.getLogger("edgeembed.daemon")

LOG_FILE = "daemon.log"
"""The log, if neither a console nor a service manager keeps it."""
LOG_BYTES = 4 * 2**20
"""A longer log is rotated when a daemon starts; one old file is kept."""
MOST_LINES = 30
WINDOW_SECONDS = 10.0
MOST_RECENT = 1000
"""Lines that are kept in memory."""
_OURS = frozenset({"edgeembed", "edgeembed_convert"})
"""Packages whose messages hold no text of a request."""
_LINE = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class RequestScope:
    """A request in progress. Tasks that it started belong to it only until it ends: the supervisor of a worker, started for
    a request, runs for days.
    """

    __slots__ = ("active", "id", "span", "traceparent")

    def __init__(self, id_: str, traceparent: str | None = None, span: RequestSpan | None = None) -> None:
        self.id = id_
        self.traceparent = traceparent
        """The client's header of that name; see `spans`."""
        self.span = span
        self.active = True


_scope: ContextVar[RequestScope | None] = ContextVar("request", default=None)


def begin_request(id_: str, traceparent: str | None = None, span: RequestSpan | None = None) -> RequestScope:
    """Add a request id to log lines of this task, and of tasks that it starts, until `active` is False."""
    scope = RequestScope(id_, traceparent, span)
    _scope.set(scope)
    return scope


def request_scope() -> RequestScope | None:
    """Return the current request, if any."""
    scope = _scope.get()
    return scope if scope is not None and scope.active else None


def request_id() -> str | None:
    """Return the id of the current request, if any."""
    scope = request_scope()
    return None if scope is None else scope.id


def _content(record: logging.LogRecord) -> tuple[str, str | None]:
    """Return what is logged of a record: its message, and the traceback of its exception if any.

    A message of other software may quote a request or a key, so only where it comes from is logged.
    """
    if not isinstance(record.exc_info, tuple) or (error := record.exc_info[1]) is None:
        error = None
    if record.name.partition(".")[0] in _OURS:
        message = record.getMessage()
    else:
        what = "a message" if error is None else describe_error(error)
        message = f"{what}, from {record.filename}:{record.lineno}"
    return shortened(message), format_traceback(error) if error is not None else None


class TextFormatter(logging.Formatter):
    """One line of text, with the request id at its end. The lines of a traceback follow."""

    def __init__(self) -> None:
        super().__init__(_LINE, "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        message, trace = _content(record)
        record.message, record.asctime = printable(message), self.formatTime(record, self.datefmt)
        line = self.formatMessage(record)
        if id_ := None if record.lineno == 0 else request_id():
            line = f"{line} [{id_}]"
        return line if trace is None else "\n".join([line, *map(printable, trace.split("\n"))])


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (RFC 3339, UTC), level, logger, message, and request_id and exception if any."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        message, trace = _content(record)
        fields = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        if id_ := None if record.lineno == 0 else request_id():
            fields["request_id"] = id_
        if trace is not None:
            fields["exception"] = trace
        # Data from clients may contain invalid Unicode, which is replaced rather than losing the line.
        try:
            return orjson.dumps(fields).decode()
        except TypeError:
            return orjson.dumps({name: value.encode(errors="replace").decode() for name, value in fields.items()}).decode()


class RecentLine(NamedTuple):
    """A line of the log. number: counts up. time: Unix seconds."""

    number: int
    time: float
    level: int
    message: str


class RecentLines:
    """The latest lines of the log, in memory, as they were written: without texts of requests and secrets."""

    def __init__(self) -> None:
        self._lines: deque[RecentLine] = deque(maxlen=MOST_RECENT)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def add(self, time: float, level: int, message: str) -> None:
        """Keep a line."""
        with self._lock:
            self._lines.append(RecentLine(next(self._numbers), time, level, message))

    def of(self, level: int) -> list[RecentLine]:
        """Return the lines of a level and above, the newest last."""
        with self._lock:
            return [line for line in self._lines if line.level >= level]


class LogHandler(logging.StreamHandler[TextIO]):
    """Writes to stderr: from each logging statement at most MOST_LINES in WINDOW_SECONDS (except debug messages), then how
    many were left out.
    """

    def __init__(self, format_: Format, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(JsonFormatter() if format_ == "json" else TextFormatter())
        self._clock = clock
        self._windows: dict[tuple[str, str, int], _Window] = {}
        self.recent = RecentLines()

    def emit(self, record: logging.LogRecord) -> None:
        now = self._clock()
        self._report(now)
        if record.levelno > logging.DEBUG and record.lineno:
            window = self._windows.setdefault((record.name, record.filename, record.lineno), _Window(now, record.levelno))
            if window.count >= MOST_LINES:
                window.left_out += 1
                return
            window.count += 1
        self._write(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing: logging's own method prints the message with its arguments to stderr."""

    def close(self) -> None:
        with self.lock or contextlib.nullcontext():
            self._report(float("inf"))
        super().close()

    def _report(self, now: float) -> None:
        """Forget the windows that are over, and log how many lines were left out in them."""
        over = [place for place, window in self._windows.items() if now - window.began >= WINDOW_SECONDS]
        for place in over:
            window = self._windows.pop(place)
            if window.left_out:
                _, file, line = place
                said = f"{window.left_out} more lines from {file}:{line} were left out"
                self._write(logging.LogRecord(log.name, window.level, __file__, 0, said, (), None))

    def _write(self, record: logging.LogRecord) -> None:
        super().emit(record)
        try:
            message, trace = _content(record)
        except Exception:  # arguments that do not fit the message, which `handleError` has dealt with
            return
        self.recent.add(record.created, record.levelno, printable_lines(message if trace is None else f"{message}\n{trace}"))


@dataclass
class _Window:
    """What one logging statement has written since `began`, in seconds of a clock."""

    began: float
    level: int
    count: int = 0
    left_out: int = 0


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
    """Log our lines of at least `level`, and warnings of other software without their content, to stderr.

    What Python itself would print there is logged too: exceptions that nobody catches, and warnings.
    """
    handler, before = LogHandler(format_), _handler()
    if before is not None:
        handler.recent = before.recent
    ours, root = logging.getLogger("edgeembed"), logging.getLogger()
    ours.handlers[:] = [handler]
    ours.propagate = False
    ours.setLevel(level.upper())
    root.handlers[:] = [*(each for each in root.handlers if not isinstance(each, LogHandler)), handler]
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda failure: _log_uncaught(failure.exc_type, failure.exc_value, failure.exc_traceback)
    sys.unraisablehook = lambda failure: _log_uncaught(failure.exc_type, failure.exc_value, failure.exc_traceback)
    warnings.showwarning = _log_warning


def _log_uncaught(kind: type[BaseException], error: BaseException | None, _trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt | SystemExit):
        log.critical("unexpected error: %s", kind.__qualname__ if error is None else describe_error(error), exc_info=error)


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    log.warning("%s, from %s:%d", category.__qualname__, Path(filename).name, lineno)


def recent_lines(level: int) -> list[RecentLine]:
    """Return the latest lines of this process's log, of a level and above, the newest last."""
    handler = _handler()
    return handler.recent.of(level) if handler else []


def keep_line(line: str) -> None:
    """Keep a line, which is printed between those of the log, among the latest lines."""
    if handler := _handler():
        handler.recent.add(time.time(), logging.INFO, printable_lines(line))


def _handler() -> LogHandler | None:
    return next((each for each in logging.getLogger("edgeembed").handlers if isinstance(each, LogHandler)), None)


def log_anyway(line: str) -> None:
    """Log a line that the user must see, whatever the log level and however many there are."""
    log.handle(log.makeRecord(log.name, logging.INFO, __file__, 0, line, (), None))
