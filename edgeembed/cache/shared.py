"""The shared tier: rows in a Redis or Valkey server that several daemons use.

It is asked for rows that memory and disk lack, and gets those that are computed here. It never holds up a request: only an
open connection is used, a reply is waited for `LOOKUP_SECONDS`, and a fault closes the connection and makes a miss. The tier
connects and writes in the background, with longer and longer pauses while the server is away.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from edgeembed.cache.health import TierHealth
from edgeembed.cache.redis_client import Command, Connection, Reply, Server, ServerFault, TooSlow, is_error, reason_of
from edgeembed.common.backoff import Backoff
from edgeembed.common.status import SharedCacheStats

log = logging.getLogger(__name__)

LOOKUP_SECONDS = 0.005
"""How long a request waits for rows that it asked for together."""
CONNECT_SECONDS = 2.0
FIRST_CONNECTION_SECONDS = 0.5
"""How long the start waits, so that the first requests find a server that is there."""
PAUSES = Backoff(first=0.1, longest=30.0, jitter=0.2)
"""Between attempts to use a server that failed."""
WRITE_SECONDS = 1.0
"""How long writes may take; no request waits for them."""
WRITE_AFTER_SECONDS = 0.05
CLEAR_SECONDS = 60.0

PREFIX = b"edgeembed:row2:"
"""What our keys begin with; the number is that of the form in which rows are written."""
ALL_KEYS = b"edgeembed:*"

REPLY_BYTES = 128 * 1024
"""About as much as is asked for at a time: what a slow network, 1 Gbit/s, carries in a fifth of `LOOKUP_SECONDS`."""
MOST_KEYS = 64
MOST_SIZES = 512
"""Rows whose sizes are asked for at a time."""
LONGEST_ROW = 256 * 1024
"""Larger rows, vectors of the tokens of long texts, are not shared: they might not arrive in time."""
BUFFER_BYTES = 4 * 2**20
"""Of rows that wait to be written; beyond that new ones are not shared."""
ROWS_AT_ONCE = 64
_TAG_BYTES = 16
_SCANNED = 1000

DAY = 86400.0
KEPT_SECONDS = 30 * DAY
KEPT_SECONDS_LOW = 7 * DAY
"""After this time the server removes a row, one of a bulk load earlier. No row of a model that is used no more stays for
ever, and the server's policies that only remove keys with an expiry work."""


class _Row(NamedTuple):
    name: bytes
    value: bytes
    seconds: int


class SharedTier:
    """Bytes of rows by key, on a server. Used on the event loop's thread only; no method raises for a fault but `clear`."""

    def __init__(self, server: Server, *, ttl: float | None = None, secret: str | None = None) -> None:
        """ttl: as for the cache. secret: shared by all daemons that use the server; its rows are then authenticated."""
        self._server = server
        self._kept = [max(1, round(min(ttl or seconds, seconds))) for seconds in (KEPT_SECONDS, KEPT_SECONDS_LOW)]
        self._secret = hashlib.blake2b(secret.encode()).digest() if secret else None
        self._health = TierHealth(f"the shared cache at {server.address}")
        self._lookups: Connection | None = None
        self._writes: Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._write_later: asyncio.TimerHandle | None = None
        self._buffer: dict[bytes, _Row] = {}
        self._buffered_bytes = 0
        self._failures = 0
        """Of lookups and connections in a row."""
        self._write_failures = 0
        self._closed = False
        self._counted = {"lookups": 0, "timeouts": 0, "errors": 0, "rows_written": 0, "rows_dropped": 0}
        self._seconds = 0.0

    @property
    def stats(self) -> SharedCacheStats:
        return SharedCacheStats(
            address=self._server.address,
            connected=self.may_have,
            problem=self._health.problem,
            lookup_seconds=round(self._seconds, 6),
            rows_to_write=len(self._buffer),
            **self._counted,
        )

    @property
    def may_have(self) -> bool:
        """Whether the server can be asked now; if not, it need not be waited for."""
        return self._lookups is not None

    async def open(self) -> None:
        """Connect. A server that does not answer soon is connected to in the background."""
        if self._server.is_exposed:
            log.warning(
                "cache_url: nothing sent to the shared cache at %s is encrypted; use rediss:// unless the network is yours",
                self._server.address,
            )
        self._closed = False
        await asyncio.wait([self._connect_soon()], timeout=FIRST_CONNECTION_SECONDS)

    async def get_many(self, keys: Sequence[bytes], model: str, row_bytes: int = LONGEST_ROW) -> dict[bytes, bytes]:
        """Return the rows' bytes that the server has, unchecked except for the secret's tag; see `decode_row`.

        row_bytes: of a row, about; from LONGEST_ROW on unknown. Many keys are asked for in parts, each of which may take
        `LOOKUP_SECONDS`; the first fault ends it.
        """
        found: dict[bytes, bytes] = {}
        for part in await self._parts(keys, model, row_bytes):
            names = [self._name(key, model) for key in part]
            reply = (await self._ask([(b"MGET", *names)]) or [None])[0]
            if reply is None:
                break
            if not isinstance(reply, list) or len(reply) != len(part):
                if self._lookups is not None:
                    self._lookups.refuse(reason_of(reply) if is_error(reply) else "its answer is not that of MGET")
                break
            self._failures = 0
            for key, name, value in zip(part, names, reply, strict=True):
                if value is not None:
                    found[key] = self._without_tag(name, value)
        return found

    async def _parts(self, keys: Sequence[bytes], model: str, row_bytes: int) -> list[Sequence[bytes]]:
        """Return keys whose rows are asked for together. If their sizes are unknown, the server is asked for these first.

        Then rows that it lacks are left out, and a row is asked for alone if the server does not say how long it is.
        """
        if row_bytes < LONGEST_ROW or len(keys) == 1:
            at_once = max(1, min(MOST_KEYS, REPLY_BYTES // row_bytes))
            return [keys[start : start + at_once] for start in range(0, len(keys), at_once)]
        parts: list[list[bytes]] = []
        room = 0
        for start in range(0, len(keys), MOST_SIZES):
            asked = keys[start : start + MOST_SIZES]
            sizes = await self._ask([(b"STRLEN", self._name(key, model)) for key in asked])
            for key, reply in zip(asked, sizes or (), strict=sizes is not None):
                size = reply if isinstance(reply, int) else LONGEST_ROW
                if not size:
                    continue
                if size > room or len(parts[-1]) == MOST_KEYS:
                    parts.append([])
                    room = REPLY_BYTES
                parts[-1].append(key)
                room -= size
        return [*parts]

    async def _ask(self, commands: Sequence[Command]) -> list[Reply] | None:
        """Return the replies to a lookup's commands, which are sent together; None if the server is not used."""
        if (connection := self._lookups) is None:
            return None
        began = time.perf_counter()
        try:
            replies = await connection.ask(commands, LOOKUP_SECONDS)
        except ServerFault as fault:
            if connection is self._lookups:  # it was closed before it was in use
                self._lookups_failed(fault)
            return None
        self._counted["lookups"] += 1
        self._seconds += time.perf_counter() - began
        return replies

    def put(self, key: bytes, value: bytes, model: str, *, low: bool = False) -> None:
        """Write a row soon, unless the server takes none now."""
        if self._closed or len(value) > LONGEST_ROW:
            return
        if self._lookups is None or self._health.is_paused("write") or self._buffered_bytes + len(value) > BUFFER_BYTES:
            self._counted["rows_dropped"] += 1
            return
        name = self._name(key, model)
        if (earlier := self._buffer.get(name)) is not None:
            self._forget(earlier)
        self._buffered_bytes += len(value)
        self._buffer[name] = _Row(name, value, self._kept[low])
        if len(self._buffer) >= ROWS_AT_ONCE:
            self._start_writer()
        elif self._write_later is None:
            self._write_later = asyncio.get_running_loop().call_later(WRITE_AFTER_SECONDS, self._start_writer)

    async def clear(self, models: Collection[str] | None = None) -> int:
        """Remove all rows, or those of some models' labels; return how many there were. Raises ServerFault."""
        self._drop_buffer()
        if self._writer is not None:
            await asyncio.wait([self._writer])
        connection = await self._server.connect(CONNECT_SECONDS, lambda fault: None)
        try:
            async with asyncio.timeout(CLEAR_SECONDS):
                patterns = [ALL_KEYS] if models is None else {_prefix(model) + b"*" for model in models}
                return sum([await self._remove(connection, pattern) for pattern in patterns])
        except TimeoutError:
            raise TooSlow(f"not done within {CLEAR_SECONDS:g} s") from None
        finally:
            await connection.close()

    async def close(self) -> None:
        """Write the buffered rows, if that is quickly done, and close the connections."""
        self._closed = True
        if self._write_later is not None:
            self._write_later.cancel()
        if self._buffer and self.may_have:
            self._start_writer()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._writer is not None:
            await asyncio.wait([self._writer], timeout=WRITE_SECONDS)
        tasks = [task for task in (self._connecting, self._writer) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in (self._lookups, self._writes):
            if connection is not None:
                await connection.close()
        self._lookups = self._writes = None

    # --- names and values ---------------------------------------------------------------------------------------------

    def _name(self, key: bytes, model: str) -> bytes:
        """Return the key on the server. With a secret nobody without it can find out whether a text has a row."""
        hidden = hashlib.blake2b(key, key=self._secret, digest_size=32).digest() if self._secret else key
        return _prefix(model) + hidden.hex().encode()

    def _with_tag(self, name: bytes, value: bytes) -> bytes:
        return value if self._secret is None else self._tag(self._secret, name, value) + value

    def _without_tag(self, name: bytes, value: object) -> bytes:
        """Return a row's bytes; none, which are no row, if somebody without the secret has written them."""
        if not isinstance(value, bytes):
            return b""
        if self._secret is None:
            return value
        tag, row = value[:_TAG_BYTES], value[_TAG_BYTES:]
        return row if hmac.compare_digest(tag, self._tag(self._secret, name, row)) else b""

    @staticmethod
    def _tag(secret: bytes, name: bytes, value: bytes) -> bytes:
        mac = hashlib.blake2b(name, key=secret, digest_size=_TAG_BYTES, person=b"edgeembed row")
        mac.update(value)
        return mac.digest()

    # --- connecting ---------------------------------------------------------------------------------------------------

    def _connect_soon(self) -> asyncio.Task[None]:
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.get_running_loop().create_task(self._connect(), name="cache-connect")
        return self._connecting

    async def _connect(self) -> None:
        """Open the connection of the lookups, with pauses between failures, until that succeeds."""
        while not self._closed:
            await asyncio.sleep(PAUSES.pause(self._failures - 1))  # the first attempt is made at once
            connection = None
            try:
                connection = await self._server.connect(CONNECT_SECONDS, self._lookup_fault)
                # A server that is too slow is noticed here, and not by requests. The first answer may be slow by chance.
                for attempt in range(3):
                    began = time.perf_counter()
                    (reply,) = await connection.ask([(b"PING",)], CONNECT_SECONDS)
                    if is_error(reply):
                        raise ServerFault(reason_of(reply))
                    if time.perf_counter() - began <= LOOKUP_SECONDS:
                        break
                    if attempt == 2:
                        raise TooSlow(f"its answers take longer than {1000 * LOOKUP_SECONDS:g} ms")
                self._lookups = connection
                self._health.succeeded("read")
                return
            except ServerFault as fault:
                self._lookups_failed(fault)
            finally:
                if connection is not None and connection is not self._lookups:
                    await connection.close()

    def _lookup_fault(self, fault: ServerFault) -> None:
        if self._lookups is not None:  # otherwise it is being opened, and `_connect` gets the fault
            self._lookups_failed(fault)

    def _lookups_failed(self, fault: ServerFault) -> None:
        """Note that the connection of the lookups was closed or could not be opened; open it again, after a pause."""
        self._counted["timeouts" if isinstance(fault, TooSlow) else "errors"] += 1
        self._failures += 1
        self._lookups = None
        self._health.failed("read", f"the shared cache at {self._server.address} is not used: {fault}")
        if not self._closed:
            self._connect_soon()

    # --- writing ------------------------------------------------------------------------------------------------------

    def _start_writer(self) -> None:
        if self._write_later is not None:
            self._write_later.cancel()
            self._write_later = None
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write(), name="cache-share")

    async def _write(self) -> None:
        """Write the buffered rows."""
        try:
            while self._buffer:
                if self._writes is None or not self._writes.is_open:
                    self._writes = await self._server.connect(CONNECT_SECONDS, self._write_fault)
                rows = list(islice(self._buffer.values(), ROWS_AT_ONCE))
                commands = [(b"SET", row.name, self._with_tag(row.name, row.value), b"EX", row.seconds) for row in rows]
                replies = await self._writes.ask(commands, WRITE_SECONDS)
                if (refusal := next(filter(is_error, replies), None)) is not None:
                    raise ServerFault(reason_of(refusal))
                for row in rows:
                    if self._buffer.get(row.name) is row:
                        self._forget(row)
                self._counted["rows_written"] += len(rows)
                self._write_failures = 0
                self._health.succeeded("write")
        except ServerFault as fault:
            self._counted["timeouts" if isinstance(fault, TooSlow) else "errors"] += 1
            self._write_failures += 1
            problem = f"the shared cache at {self._server.address} takes no rows: {fault}"
            self._health.failed("write", problem, PAUSES.pause(self._write_failures))
            self._counted["rows_dropped"] += len(self._buffer)
            self._drop_buffer()

    def _write_fault(self, fault: ServerFault) -> None:
        self._writes = None  # `_write` reports it if it was writing

    def _forget(self, row: _Row) -> None:
        del self._buffer[row.name]
        self._buffered_bytes -= len(row.value)

    def _drop_buffer(self) -> None:
        self._buffer.clear()
        self._buffered_bytes = 0

    @staticmethod
    async def _remove(connection: Connection, pattern: bytes) -> int:
        """Remove the keys that match a pattern; return how many. Raises ServerFault."""
        cursor, removed = b"0", 0
        while True:
            (reply,) = await connection.ask([(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", _SCANNED)], CONNECT_SECONDS)
            if not isinstance(reply, list) or len(reply) != 2 or not isinstance(reply[1], list):
                raise ServerFault(reason_of(reply) if is_error(reply) else "its answer is not that of SCAN")
            cursor, names = reply
            if names:
                (count,) = await connection.ask([(b"UNLINK", *names)], CONNECT_SECONDS)
                if not isinstance(count, int):
                    raise ServerFault(reason_of(count) if is_error(count) else "its answer is not that of UNLINK")
                removed += count
            if cursor == b"0":
                return removed


@lru_cache(maxsize=256)
def _prefix(model: str) -> bytes:
    """Return what the keys of a model's rows begin with. model: its label, whose digest is the same on every machine."""
    return PREFIX + (_digest_of(model).encode() or b"-") + b":"


def _digest_of(model: str) -> str:
    """Return the digits of the digest in a label; only these, as a label may be anything, and a pattern has wildcards."""
    _, at, digest = model.rpartition("@")
    return "".join(sign for sign in digest if at and sign.isascii() and sign.isalnum())


def row_bytes(dimensions: Iterable[int]) -> int:
    """Return about how many bytes a row takes. dimensions: that it may have; empty if that may be any."""
    return max((4 * number + 32 for number in dimensions), default=LONGEST_ROW)
