"""The certificates of authorities, which are read only where a server with https is asked: they take 2 MiB and 25 ms."""

from __future__ import annotations

import contextlib
import functools
import ssl
import threading
from collections.abc import Iterator


@functools.cache
def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(("http/1.1",))
    return context


def verifying(url: str) -> ssl.SSLContext | bool:
    """Return what `aiohttp.TCPConnector` takes as `ssl` for requests to a server: a context that knows all authorities."""
    return _context() if url.lower().startswith("https:") else True


@contextlib.contextmanager
def without_certificates() -> Iterator[None]:
    """Let contexts that this thread makes know no authority, so that they refuse every server.

    aiohttp makes one when it is imported. Connections with https then need `verifying`; without it, they fail.
    """
    usual, thread = ssl.SSLContext.load_default_certs, threading.get_ident()

    def load(context: ssl.SSLContext, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:
        if threading.get_ident() != thread:
            usual(context, purpose)

    ssl.SSLContext.load_default_certs = load  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        ssl.SSLContext.load_default_certs = usual  # type: ignore[method-assign]
