"""Bodies whose Content-Type names another charset than UTF-8, which JSON has (RFC 8259, 8.1) but not every program sends."""

from __future__ import annotations

import codecs
import functools
import re

from aiohttp import hdrs, web

from edgeembed.errors import RequestError, UnsupportedMediaError

_UTF8 = "utf-8"
_TAKEN = {
    **dict.fromkeys(("utf-8", "utf8", "us-ascii", "ascii"), _UTF8),
    **dict.fromkeys(("iso-8859-1", "latin1", "latin-1", "iso_8859-1"), "latin-1"),
    **dict.fromkeys(("windows-1252", "cp1252"), "cp1252"),
    **{name: name for name in ("utf-16", "utf-16le", "utf-16be")},
}
"""Charset -> codec. A list, as a codec may be slow, or read other things than characters."""
_CHARSET = re.compile(r""";\s*charset\s*=\s*["']?([^\s;"']*)""", re.IGNORECASE)
_STEP = 256 * 1024


def charset_of(request: web.BaseRequest) -> str:
    """Return the codec of a request's body. Raises UnsupportedMediaError."""
    content_type = request.headers.get(hdrs.CONTENT_TYPE, "")
    codec = _codec(content_type)
    if codec is None:
        raise UnsupportedMediaError(f"the charset in {content_type[:100]!r} is not supported; send the body as UTF-8")
    return codec


def is_utf8(request: web.BaseRequest) -> bool:
    """Return whether a request's body is UTF-8, as far as its Content-Type says."""
    return _codec(request.headers.get(hdrs.CONTENT_TYPE, "")) == _UTF8


def as_utf8(raw: bytes, codec: str) -> bytes:
    """Return a body as UTF-8, without the byte order mark with which some editors and .NET programs begin it.

    In steps, between which other threads run. Raises RequestError.
    """
    if codec == _UTF8:
        return raw.removeprefix(codecs.BOM_UTF8)
    decoder = codecs.getincrementaldecoder(codec)()
    try:
        parts = [decoder.decode(raw[begin : begin + _STEP]).encode() for begin in range(0, len(raw), _STEP)]
        parts.append(decoder.decode(b"", final=True).encode())
    except UnicodeError as error:
        raise RequestError(f"the body is not {codec}, which its Content-Type says: {error.args[-1]}") from None
    return b"".join(parts).removeprefix(codecs.BOM_UTF8)


@functools.lru_cache(maxsize=64)  # nearly all requests have one of a few
def _codec(content_type: str) -> str | None:
    found = _CHARSET.search(content_type)
    return _TAKEN.get(found[1].lower() or _UTF8) if found else _UTF8
