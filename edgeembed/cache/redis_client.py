"""Connections to a Redis or Valkey server, on which requests wait for replies in order. Only this module uses redis-py.

redis-py connects, authenticates, encrypts, and packs and parses the protocol; which request a reply belongs to is decided
here. One rule makes that safe: whatever goes wrong on a connection, or takes too long, closes it, so that no late reply can
be taken for the next one. Of redis-py's private parts `_writer` and `_close` are used, which a contract test holds.
"""

from __future__ import annotations

import asyncio
import importlib.util
import ipaddress
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from edgeembed.common.installation import find_installation
from edgeembed.errors import ConfigError

_TURN_SECONDS = 0.001
"""A timer of this length is due after the event loop has read what has come."""

Command = Sequence[bytes | str | int]
Reply = Any
"""What redis-py makes of a reply: bytes, int, None, a list of them, or a ResponseError for one that refuses the command."""


class ServerFault(Exception):
    """The server could not be asked. Its message is ours: no word of the server's, no user name and no password."""


class TooSlow(ServerFault):
    """The reply did not come in time."""


def require_package() -> None:
    """Raise ConfigError if redis-py is not installed; it is not imported, which takes long."""
    if importlib.util.find_spec("redis") is None:
        raise ConfigError(f"cache_url needs redis-py: {find_installation().add('redis')}")


class Server:
    """A server that connections can be opened to."""

    def __init__(self, url: str) -> None:
        """url: as the setting cache_url takes it. Raises ConfigError: redis-py is not installed, or refuses the URL."""
        require_package()
        import redis.asyncio
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        try:
            # Protocol 2 is what every Redis and Valkey has. Timeouts and retries are ours.
            pool: Any = redis.asyncio.ConnectionPool
            self._pool = pool.from_url(
                url, protocol=2, socket_timeout=None, socket_connect_timeout=None, retry=Retry(NoBackoff(), 0)
            )
            self._pool.make_connection()  # checks the options
        except (TypeError, ValueError, OSError) as error:
            # Without the cause: its message may show the URL.
            raise ConfigError(f"cache_url: redis-py does not take this URL ({type(error).__name__})") from None
        parts = urlsplit(url)
        self.address = parts.path if parts.scheme == "unix" else f"{_bracketed(parts.hostname)}:{parts.port or 6379}"
        """For people, without user name and password."""
        self.is_exposed = parts.scheme == "redis" and not _is_here(parts.hostname or "localhost")
        """Whether what is sent crosses a network unencrypted."""

    async def connect(self, seconds: float, on_fault: Callable[[ServerFault], None]) -> Connection:
        """Return an open connection. on_fault: called once when it is closed by a fault. Raises ServerFault."""
        connection = self._pool.make_connection()
        try:
            async with asyncio.timeout(seconds):
                if (context := getattr(connection, "ssl_context", None)) is not None:
                    await asyncio.to_thread(context.get)  # it reads certificates, which holds the event loop up
                await connection.connect()
        except TimeoutError:
            _abort(connection)
            raise TooSlow(f"no connection within {seconds:g} s") from None
        except Exception as error:  # a server, or what pretends to be one, can make redis-py raise anything
            _abort(connection)
            raise ServerFault(reason_of(error)) from None
        except BaseException:
            _abort(connection)
            raise
        return Connection(connection, on_fault)


class _Request:
    """A request that waits for so many replies."""

    __slots__ = ("future", "missing", "replies")

    def __init__(self, missing: int) -> None:
        self.missing = missing
        self.replies: list[Reply] = []
        self.future: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()


class Connection:
    """An open connection, for any number of requests at a time."""

    def __init__(self, connection: Any, on_fault: Callable[[ServerFault], None]) -> None:
        """connection: of redis-py, connected."""
        self._connection = connection
        self._on_fault = on_fault
        self._waiting: deque[_Request] = deque()
        self._reason: ServerFault | None = None
        self._reader = asyncio.get_running_loop().create_task(self._read(), name="cache-replies")

    @property
    def is_open(self) -> bool:
        return self._reason is None

    async def ask(self, commands: Sequence[Command], seconds: float) -> list[Reply]:
        """Send commands together and return their replies. Raises ServerFault, after which the connection is closed."""
        if self._reason is None and not self._connection.is_connected:
            self._fail(ServerFault("the connection was closed"))
        if self._reason is not None:
            raise self._reason
        loop = asyncio.get_running_loop()
        request = _Request(len(commands))
        self._waiting.append(request)
        timer = loop.call_later(seconds, self._is_late, request, seconds)
        try:
            # Nothing is waited for before the bytes are in the transport, so replies come in the order of `_waiting`.
            await self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)
            return await request.future
        except ServerFault:
            raise
        except Exception as error:  # the transport failed while it was full
            self._fail(ServerFault(reason_of(error)))
            assert self._reason is not None
            raise self._reason from None
        finally:
            timer.cancel()
            if request.future.done() and not request.future.cancelled():
                request.future.exception()  # it was raised, or whoever asked is gone

    async def close(self) -> None:
        """Close the connection; nobody may wait for a reply any more."""
        self._fail(ServerFault("the connection was closed"), report=False)
        await asyncio.gather(self._reader, return_exceptions=True)

    def refuse(self, reason: str) -> None:
        """Close the connection for a reply that its command does not have."""
        self._fail(ServerFault(reason))

    def _is_late(self, request: _Request, seconds: float) -> None:
        # If the event loop was held up, the reply may have come and only not been read: a turn for reading the bytes (uvloop
        # runs what is due before it reads), and one for parsing them.
        loop = asyncio.get_running_loop()
        loop.call_later(_TURN_SECONDS, loop.call_soon, self._give_up, request, seconds)

    def _give_up(self, request: _Request, seconds: float) -> None:
        if not request.future.done():
            self._fail(TooSlow(f"no reply within {1000 * seconds:g} ms"))

    async def _read(self) -> None:
        """Read replies and hand each to the request that has waited longest."""
        from redis.exceptions import ResponseError

        try:
            while True:
                try:
                    reply = await self._connection.read_response(disable_decoding=True)
                except ResponseError as error:
                    reply = error
                if not self._waiting:
                    raise ServerFault("a reply that nobody asked for")
                request = self._waiting[0]
                request.replies.append(reply)
                request.missing -= 1
                if not request.missing:
                    self._waiting.popleft()
                    if not request.future.done():
                        request.future.set_result(request.replies)
        except ServerFault as fault:
            self._fail(fault)
        except Exception as error:  # bytes that are no reply can make the parser raise anything
            self._fail(ServerFault(reason_of(error)))

    def _fail(self, reason: ServerFault, *, report: bool = True) -> None:
        """Close the connection; whoever waits for a reply gets the reason."""
        if self._reason is not None:
            return
        self._reason = reason
        _abort(self._connection)
        self._reader.cancel()
        while self._waiting:
            future = self._waiting.popleft().future
            if not future.done():
                future.set_exception(type(reason)(*reason.args))
        if report:
            self._on_fault(reason)


def reason_of(error: Exception) -> str:
    """Return why the server cannot be used, in our words; see `ServerFault`."""
    from redis import exceptions

    for kind, words in (
        (exceptions.AuthenticationError, "it refuses the user name or password"),
        (exceptions.AuthorizationError, "it refuses the user name or password"),
        (exceptions.NoPermissionError, "its access rules forbid this user a command or a key"),
        (exceptions.BusyLoadingError, "it is loading its data"),
        (exceptions.ReadOnlyError, "it is a replica that takes no writes"),
        (exceptions.OutOfMemoryError, "its memory is full, and its maxmemory-policy removes nothing"),
        (exceptions.InvalidResponse, "its answer is not that of a Redis or Valkey server"),
        (exceptions.ResponseError, "it refuses a command"),
    ):
        if isinstance(error, kind):
            return words
    origin = error.__context__ or error
    return f"no connection ({type(origin).__name__})"


def is_error(reply: Reply) -> bool:
    """Return whether a reply refuses its command."""
    return isinstance(reply, Exception)


def _abort(connection: Any) -> None:
    """Close redis-py's connection at once, with what is not sent yet: a server that hangs would never read it."""
    if (writer := connection._writer) is not None:
        writer.transport.abort()
        connection._close()


def _bracketed(host: str | None) -> str:
    return f"[{host}]" if host and ":" in host else host or "localhost"


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
