"""Compressed bodies: `Content-Encoding` gzip, x-gzip, deflate and identity (RFC 9110, 8.4.1); others are refused.

The application switches aiohttp's own decompression off: it answers an unknown coding before a handler can, in no dialect's
format, and reads on what is not to be used.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import count

from aiohttp import hdrs, web

from edgeembed.errors import RequestError, UnsupportedMediaError

TAKEN = "gzip, deflate"
"""For the header Accept-Encoding of a refusal."""
_PART_BYTES = 256 * 1024
"""Of decompressed bytes at a time; this takes about a millisecond."""
_GZIP, _ZLIB, _RAW_DEFLATE = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_MOST_MEMBERS = 64
"""Of a gzip body, which may consist of several."""


class Decompressor:
    """Decompresses one body, as far as its parts are asked for."""

    def __init__(self, coding: str) -> None:
        """coding: gzip or deflate."""
        self._coding = coding
        self._member: zlib._Decompress | None = None
        self._members = count(1)

    def parts(self, packed: bytes) -> Iterator[bytes]:
        """Yield what the next bytes of the body contain, decompressed, in parts. Raises RequestError."""
        while packed:
            if self._member is None or self._member.eof:
                self._member = self._next_member(packed)
            try:
                part = self._member.decompress(packed, _PART_BYTES)
            except zlib.error as error:
                raise RequestError(
                    f"the request body is not {self._coding}, which its Content-Encoding says: {error}"
                ) from None
            packed = self._member.unconsumed_tail or self._member.unused_data
            yield part
        # What fits into no part is still inside.
        while self._member is not None and (part := self._member.decompress(b"", _PART_BYTES)):
            yield part

    def finish(self) -> None:
        """Raise RequestError if the end of the body is missing."""
        if self._member is not None and not self._member.eof:
            raise RequestError(f"the request body ends too early: it is {self._coding}, and its end is missing")

    def _next_member(self, packed: bytes) -> zlib._Decompress:
        if next(self._members) > (_MOST_MEMBERS if self._coding == "gzip" else 1):
            raise RequestError(f"the request body has bytes behind the end of its {self._coding} data")
        if self._coding == "gzip":
            return zlib.decompressobj(_GZIP)
        # Many programs send deflate without zlib's header, whose first byte ends in 8.
        return zlib.decompressobj(_ZLIB if packed[0] & 0x0F == 0x08 else _RAW_DEFLATE)


def decompressor_of(request: web.BaseRequest) -> Decompressor | None:
    """Return what decompresses a request's body; None if it is not compressed. Raises UnsupportedMediaError."""
    named = ",".join(request.headers.getall(hdrs.CONTENT_ENCODING, ())).lower().split(",")
    codings = [coding for word in named if (coding := word.strip().removeprefix("x-")) not in ("", "identity")]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in ("gzip", "deflate"):
        shown = ", ".join(codings)[:100]
        raise UnsupportedMediaError(
            f"Content-Encoding {shown!r} is not supported; send the body plain, or with one of {TAKEN}"
        )
    return Decompressor(codings[0])
