"""What passes between ingress and replica: a request, and the answer to it, as HTTP has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

Headers = list[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
        *(b"proxy-authenticate", b"proxy-authorization", b"proxy-authentication-info", b"expect"),
    }
)
"""Headers of one connection (RFC 9110, 7.6.1); `Expect` was answered by Serve's proxy."""
BODILESS = frozenset({204, 304})
"""Statuses whose answers have neither body nor length."""
_OF_THE_LENGTH = frozenset({b"content-length"})


class Request(NamedTuple):
    """A request, whole. target: path and query as they were sent."""

    method: str
    target: str
    headers: Headers
    body: bytes


class Answer(NamedTuple):
    """The head of an answer, and the begin of its body. complete: nothing follows.

    failure: why there is none, of a replica whose daemon does not answer; empty otherwise.
    """

    status: int
    headers: Headers
    body: bytes = b""
    complete: bool = True
    failure: str = ""


def passed_on(headers: Iterable[tuple[bytes, bytes]], *, without: frozenset[bytes] = frozenset()) -> Headers:
    """Return the headers that are not of one connection, as they are. without: others to leave out, in lower case."""
    pairs = list(headers)
    named = {word.strip().lower() for name, value in pairs if name.lower() == b"connection" for word in value.split(b",")}
    dropped = _HOP_BY_HOP | named | without
    return [(name, value) for name, value in pairs if name.lower() not in dropped]


def forwarded(headers: Iterable[tuple[bytes, bytes]], client: str) -> Headers:
    """Return the headers of a request for a daemon, with the client's address after those of proxies in front.

    The daemon sees by it that the request is not from its own machine: nobody administers it by a socket of the replica.
    """
    pairs = list(headers)
    before = [value for name, value in pairs if name.lower() == b"x-forwarded-for"]
    kept = passed_on(pairs, without=_OF_THE_LENGTH | {b"x-forwarded-for"})
    return [*kept, (b"X-Forwarded-For", b", ".join([*before, client.encode()]))]
