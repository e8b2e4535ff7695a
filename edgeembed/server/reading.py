"""Reads request bodies: with a time limit, and with a limit on the bytes of all large bodies together."""

from __future__ import annotations

import asyncio
from collections import deque

from aiohttp import StreamReader, hdrs, web

from edgeembed.errors import BodyTimeoutError

STEP_SECONDS = 20.0
SMALL_BYTES = 256 * 1024
"""Of a body that is read at once; the rest of a larger one waits until there is room for it."""
_FIRST_STEP, _LATER_STEP = 64 * 1024, 512 * 1024
"""Bytes that must arrive within `STEP_SECONDS`, below `SMALL_BYTES` and above: 3 and 26 kB per second."""
ROOM_BYTES = 128 * 2**20
"""For the large bodies of all unfinished requests."""

Body = bytes | bytearray
_BODY = web.RequestKey[Body]("body", bytes)
_LATE = web.RequestKey("late", bool)
_RESERVED = web.RequestKey("reserved", int)


class BodyRoom:
    """Limits the bytes of the large bodies of unfinished requests. A body that has to wait is not read meanwhile."""

    def __init__(self, most_bytes: int) -> None:
        """most_bytes: the limit; a single body may be larger when there is no other."""
        self._most = most_bytes
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self.used = 0

    async def reserve(self, size: int) -> None:
        """Wait until `size` bytes fit, in the order of the calls. They are to be given back by `release`."""
        if not self._waiting and self._fits(size):
            self.used += size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, size))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(size)
            else:
                self._waiting.remove((turn, size))
                self._admit()
            raise

    def release(self, size: int) -> None:
        """Return reserved bytes."""
        self.used -= size
        self._admit()

    def _fits(self, size: int) -> bool:
        return not self.used or self.used + size <= self._most

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][1]):
            turn, size = self._waiting.popleft()
            if not turn.cancelled():
                self.used += size
                turn.set_result(None)


ROOM = web.AppKey("room", BodyRoom)


async def read(request: web.BaseRequest, most: int, room: BodyRoom | None = None) -> Body:
    """Return the body; a second call returns the same bytes until `forget`. most: its limit in bytes.

    room: where a large one is reserved until `release`; None if `most` is small.

    Raises:
        web.HTTPRequestEntityTooLarge: the body is larger than `most`.
        BodyTimeoutError: the client sends it too slowly.
        web.RequestPayloadError: it cannot be decompressed.
    """
    known = request.get(_BODY)
    if known is None:
        content = request.content
        if content.is_eof() and content.exception() is None and content.total_bytes <= most and _LATE not in request:
            # All of it has arrived, as most bodies have.
            known = request[_BODY] = await content.readany()
            return known
        if (request.content_length or 0) > most:
            raise web.HTTPRequestEntityTooLarge(most)
        try:
            if _LATE in request:
                raise TimeoutError
            known = request[_BODY] = await _read_all(request, most, room)
        except TimeoutError:
            request[_LATE] = True
            raise BodyTimeoutError(f"the request body arrived too slowly, or stopped for {STEP_SECONDS:g} s") from None
    return known


def forget(request: web.BaseRequest) -> None:
    """Free the body of a request when it is decoded."""
    request[_BODY] = bytearray()


def release(request: web.BaseRequest, room: BodyRoom) -> None:
    """Release what was reserved for a request's body."""
    if reserved := request.get(_RESERVED):
        room.release(reserved)


async def read_request(request: web.Request) -> Body:
    """Return the body of a request to the application; see `read`."""
    return await read(request, request.client_max_size, request.app[ROOM])


async def _read_all(request: web.BaseRequest, most: int, room: BodyRoom | None) -> bytearray:
    body = bytearray()
    while not request.content.at_eof() or request.content.exception():
        if room is not None and len(body) >= SMALL_BYTES and _RESERVED not in request:
            request[_RESERVED] = 0
            known = hdrs.CONTENT_ENCODING not in request.headers and request.content_length
            await room.reserve(known or most)
            request[_RESERVED] = known or most
        await _read_step(request.content, body, _FIRST_STEP if len(body) < SMALL_BYTES else _LATER_STEP)
        if len(body) > most:
            raise web.HTTPRequestEntityTooLarge(most)
    return body


async def _read_step(content: StreamReader, body: bytearray, least: int) -> None:
    """Read at least this many more bytes, or up to the end. Raises TimeoutError."""
    if content.is_eof():  # all of it has arrived, and entering a timeout takes longer than reading it
        body += await content.readany()
        return
    enough = len(body) + least
    async with asyncio.timeout(STEP_SECONDS):
        while len(body) < enough and not content.at_eof():
            body += await content.readany()
