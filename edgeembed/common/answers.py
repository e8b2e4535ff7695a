"""Bodies of other servers' HTTP responses, read up to a limit: other servers do not decide how much memory is used."""

from __future__ import annotations

import asyncio

import aiohttp

_PAUSE_EVERY = 2**18
"""Bytes after which other tasks get a turn, as reading data that has already arrived does not yield."""


class AnswerTooLargeError(aiohttp.ClientError):
    """The body is longer than expected; the connection was closed."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(f"its answer is longer than {most_bytes} bytes")


async def read_body(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """Return the decompressed body of a response. Raises AnswerTooLargeError, and what aiohttp raises while reading."""
    body = await read_start(response, most_bytes + 1)
    if len(body) > most_bytes:
        raise AnswerTooLargeError(most_bytes)
    return body


async def read_start(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """Return the first bytes of a body, decompressed; of a longer one the rest is not read and the connection closed."""
    body, pause_at = bytearray(), _PAUSE_EVERY
    # aiohttp decompresses no more at a time than its buffer holds, and stops reading while that is full.
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) >= most_bytes:
            response.close()
            return bytes(body[:most_bytes])
        if len(body) >= pause_at:
            pause_at = len(body) + _PAUSE_EVERY
            await asyncio.sleep(0)
    return bytes(body)
