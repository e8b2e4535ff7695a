"""Reads request bodies: with a time limit, and with a limit on the bytes of all large bodies together."""

from __future__ import annotations

import asyncio
from collections import deque

from aiohttp import StreamReader, hdrs, web

from edgeembed.errors import BodyTimeoutError
from edgeembed.inference.aside import Aside
from edgeembed.server.app_keys import SERVICE
from edgeembed.server.content_codings import decompressor_of
from edgeembed.server.expectations import send_continue

STEP_SECONDS = 20.0
SMALL_BYTES = 256 * 1024
"""Of a body that is read at once; the rest of a larger one waits until there is room for it."""
_FIRST_STEP, _LATER_STEP = 64 * 1024, 512 * 1024
"""Bytes that must arrive within `STEP_SECONDS`, below `SMALL_BYTES` and above: 3 and 26 kB per second."""
ROOM_BYTES = 128 * 2**20
"""For the large bodies of all unfinished requests."""

_BODY = web.RequestKey("body", bytes)
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


async def read(request: web.BaseRequest, most: int, room: BodyRoom | None = None, aside: Aside | None = None) -> bytes:
    """Return the body; a second call returns the same bytes until `forget`. most: its limit in bytes.

    room, aside: where a large one is reserved until `release`, and put together; None if `most` is small.

    Raises:
        web.HTTPRequestEntityTooLarge: the body is larger than `most`.
        BodyTimeoutError: the client sends it too slowly.
        UnsupportedMediaError: it is compressed in a way that is not taken.
        RequestError: it cannot be decompressed.
        web.RequestPayloadError: its chunks cannot be read.
    """
    known = request.get(_BODY)
    if known is None:
        content = request.content
        complete = content.is_eof() and content.exception() is None and content.total_bytes <= most and _LATE not in request
        if complete and hdrs.CONTENT_ENCODING not in request.headers:  # as most are
            known = request[_BODY] = await content.readany()
            return known
        if (request.content_length or 0) > most:
            raise web.HTTPRequestEntityTooLarge(most)
        try:
            if _LATE in request:
                raise TimeoutError
            known = request[_BODY] = await _read_all(request, most, room, aside)
        except TimeoutError:
            request[_LATE] = True
            raise too_slow() from None
    return known


def too_slow() -> BodyTimeoutError:
    """Return the error for a body of which too little has arrived in `STEP_SECONDS`."""
    return BodyTimeoutError(f"the request body arrived too slowly, or stopped for {STEP_SECONDS:g} s")


def least_of_step(arrived: int) -> int:
    """Return how many bytes of a body must arrive in the next `STEP_SECONDS`, after so many."""
    return _FIRST_STEP if arrived < SMALL_BYTES else _LATER_STEP


def forget(request: web.BaseRequest) -> None:
    """Free the body of a request when it is decoded."""
    request[_BODY] = b""


def release(request: web.Request) -> None:
    """Release what was reserved for a request's body."""
    if reserved := request.get(_RESERVED):
        request.app[ROOM].release(reserved)


async def read_request(request: web.Request) -> bytes:
    """Return the body of a request to the application; see `read`."""
    body: bytes | None = request.get(_BODY)
    if body is not None:  # the fast path has read it
        return body
    return await read(request, request.client_max_size, request.app[ROOM], request.app[SERVICE].aside)


async def _read_all(request: web.BaseRequest, most: int, room: BodyRoom | None, aside: Aside | None) -> bytes:
    decompressor = decompressor_of(request)
    await send_continue(request)
    # A list, because a buffer that grows is copied from time to time: 30 ms for 60 MB.
    parts: list[bytes] = []
    arrived = size = 0
    while not request.content.at_eof() or request.content.exception():
        await _reserve(request, size, most, room)
        arrives = await _read_step(request.content, least_of_step(arrived))
        arrived += len(arrives)
        for part in decompressor.parts(arrives) if decompressor else (arrives,):
            parts.append(part)
            size += len(part)
            if size > most:
                raise web.HTTPRequestEntityTooLarge(most)
            if size > SMALL_BYTES:
                await asyncio.sleep(0)  # other requests go on, also if the client does not have to be waited for
            await _reserve(request, size, most, room)
    if decompressor:
        decompressor.finish()
    # Joining more than 1 MiB of bytes lets other threads run meanwhile.
    return b"".join(parts) if aside is None else await aside.run(size, b"".join, parts)


async def _reserve(request: web.BaseRequest, size: int, most: int, room: BodyRoom | None) -> None:
    """Wait until there is room for the rest of a body, if it turns out to be large."""
    if room is None or size < SMALL_BYTES or _RESERVED in request:
        return
    request[_RESERVED] = 0
    known = hdrs.CONTENT_ENCODING not in request.headers and request.content_length
    await room.reserve(known or most)
    request[_RESERVED] = known or most


async def _read_step(content: StreamReader, least: int) -> bytes:
    """Return at least this many further bytes of a body, or its end. Raises TimeoutError."""
    if content.is_eof():  # all of it has arrived, and entering a timeout takes longer than reading it
        return await content.readany()
    read = bytearray()
    async with asyncio.timeout(STEP_SECONDS):
        while len(read) < least and not content.at_eof():
            read += await content.readany()
    return bytes(read)
