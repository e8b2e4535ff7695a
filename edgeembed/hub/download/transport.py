"""HTTP to the model hub: the client, the translation of its errors, and how long failed requests are retried.

The client is huggingface_hub's own session, so HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, the proxy variables and the
certificate variables work as in every program with that library. The HTTP library below it (httpx in its 1.x, httpx2 in its
2.x) is never named here.
"""

from __future__ import annotations

import os
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from edgeembed import __version__
from edgeembed.common.backoff import Backoff
from edgeembed.common.log_content import printable
from edgeembed.common.retry_after import parse_retry_after
from edgeembed.errors import HubError, SourceUnreachableError, UnknownModelError

T = TypeVar("T")

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*://)(?:[^\s/'\"@]*@)?([^\s'\"?#]*)(?:\?[^\s'\"]*)?", re.IGNORECASE)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
_TRY_AGAIN = frozenset({408, 425, 429})
_BACKOFF = Backoff(first=1.0, longest=30.0)


@dataclass(frozen=True)
class RetryBudget:
    """How long a download over a failing connection is retried. Times are in seconds."""

    attempts: int = 7
    """Attempts in a row without a new byte after which the download fails."""
    backoff: Backoff = _BACKOFF
    """Pauses between attempts."""
    silence: float = 30.0
    """Time without a byte after which a connection counts as dead."""
    longest_wait: float = 300.0
    """Longest Retry-After that is obeyed; after a longer one the download fails."""


RETRY_BUDGET = RetryBudget()
_PIECE = 2**20
"""Bytes that are decompressed at a time."""
_COMPRESSED = ("gzip", "x-gzip", "deflate")
_GZIP_OR_ZLIB = 47
"""`wbits` of zlib."""
LIBRARY = "edgeembed"
"""Our name in the user agent."""


class Refusal(SourceUnreachableError):
    """The hub refuses; the same request would fail again."""


class Denied(Refusal):
    """The hub refuses the token, or a request without one."""


class Interrupted(Exception):
    """The connection broke, or the server is busy; the same request may succeed later."""

    def __init__(self, reason: str, retry_after: float | None = None, *, answered: bool = False) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.answered = answered
        """Whether the server is there, but does not serve the request now."""


def endpoint() -> str:
    """Return the hub's URL, from HF_ENDPOINT as it is now, not as it was when huggingface_hub was imported.

    Raises HubError if HF_ENDPOINT is not a URL.
    """
    from huggingface_hub import constants

    address = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises for a port that is not a number
        if parts.scheme in ("http", "https") and parts.hostname:
            return address
    except ValueError:
        pass
    raise HubError(f"HF_ENDPOINT = {plain(address)!r} is not a URL; expected for example https://hub.example")


def hub_host() -> str:
    """Return the hub's host, for messages."""
    return urlsplit(endpoint()).hostname or "the model hub"


def session() -> Any:
    """Return the HTTP client. Raises HubError if the proxy or certificate settings cannot be used."""
    endpoint()  # before the import, which parses HF_ENDPOINT and would raise an error of its own
    from huggingface_hub import constants, get_session

    # Otherwise the user agent lists what else is installed and which tool runs us, and the hub is first asked for a list of
    # such tools, while the user waits. The variable HF_HUB_DISABLE_TELEMETRY does the same, but is read at import.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        return get_session()
    except Exception as error:  # building a client fails for its settings only, with an error of the client's own for each
        raise HubError(
            "the proxy settings (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY) or the certificates (SSL_CERT_FILE, "
            f"SSL_CERT_DIR) cannot be used: {first_line(error)}"
        ) from error


def headers(*, anonymous: bool = False) -> dict[str, str]:
    """Return the headers of a request to the hub: the token if there is one, and no compression, which rules out ranges.

    anonymous: send no token.
    """
    session()  # its settings apply to the headers, too; and it checks HF_ENDPOINT before the import
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined] # public, but for its own __all__

    token = False if anonymous else None  # None: the user's, if there is one
    built = build_hf_headers(token=token, library_name=LIBRARY, library_version=__version__)
    return {**built, "Accept-Encoding": "identity"}


def line_errors() -> tuple[type[Exception], ...]:
    """Return the HTTP client's exceptions for a broken connection: none opened, a reset, a short body, a timeout."""
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError" and issubclass(base, Exception))


def address_errors() -> tuple[type[Exception], ...]:
    """Return the HTTP client's exceptions for addresses that no attempt will reach: redirect loops, file://, malformed."""
    client = sys.modules[line_errors()[0].__module__.partition(".")[0]]
    return (client.TooManyRedirects, client.UnsupportedProtocol, client.InvalidURL)


def is_about_address(error: Exception) -> bool:
    """Return whether an exception of the HTTP client is about such an address; one in a redirect is only its context."""
    return isinstance(error, address_errors()) or isinstance(error.__context__, address_errors())


def pieces(response: Any) -> Iterator[bytes]:
    """Yield a body that may be compressed, a mebibyte at a time: a small body cannot become a large one in memory.

    Raises Interrupted if it is damaged or incomplete, Refusal for a compression that was not asked for.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("identity", ""):
        yield from response.iter_raw()
        return
    if encoding not in _COMPRESSED:
        raise Refusal(f"the answer is encoded as {plain(encoding)!r}, which was not asked for")
    decompressor = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        for raw in response.iter_raw():
            while raw and not decompressor.eof:
                yield decompressor.decompress(raw, _PIECE)
                raw = decompressor.unconsumed_tail
    except zlib.error as error:
        raise Interrupted(f"the answer is damaged: {error}") from error
    if not decompressor.eof:
        raise Interrupted("the compressed answer is incomplete")


def read(
    url: str, about: str, most_bytes: int, seconds: float, *, anonymous: bool = False, beginning: bool = False
) -> bytes:
    """Return the body of the response to GET, in at most so many seconds. anonymous: send no token.

    beginning: of a body of more than `most_bytes`, ask for no more than that, by a range, and return that.

    Raises the errors of `translated`, Refusal for any other body of more than `most_bytes`.
    """

    def ask() -> bytes:
        until, body = time.monotonic() + seconds, bytearray()
        sent = headers(anonymous=anonymous)
        if beginning:
            sent["Range"] = f"bytes=0-{most_bytes - 1}"
        with session().stream("GET", url, headers=sent, timeout=seconds, follow_redirects=True) as response:
            if response.status_code >= 400:
                raise of_status(response.status_code, response.headers, about)
            if response.status_code == 206 and not response.headers.get("content-range", "").startswith("bytes 0-"):
                raise Interrupted("the server sent another range than requested")
            for piece in pieces(response):
                body += piece
                if beginning and len(body) >= most_bytes:
                    return bytes(body[:most_bytes])  # all of the range, or enough of a server that knows no ranges
                if len(body) > most_bytes:
                    raise Refusal(f"the answer is longer than {most_bytes} bytes; check that HF_ENDPOINT is a model hub")
                if time.monotonic() > until:
                    raise Interrupted(f"the answer was not complete within {seconds:g} s")
        return bytes(body)

    return translated(ask, about)


def translated(call: Callable[[], T], about: str) -> T:
    """Return the result of a call of huggingface_hub, with its errors translated. about: the repository, for messages.

    Raises:
        Interrupted: The call may succeed later.
        Refusal: The call will fail again.
        HubError: The settings cannot be used.
        OSError: An error of the disk, unchanged.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        FileMetadataError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
    )

    line: tuple[type[Exception], ...] = (ConnectionError, TimeoutError, *line_errors())
    try:
        return call()
    except HfHubHTTPError as error:
        # Without its cause, whose text may contain a signed URL.
        raise of_status(error.response.status_code, error.response.headers, about) from None
    except HFValidationError as error:
        raise UnknownModelError(f"{about} is not a valid repository name: {first_line(error)}") from error
    except OfflineModeIsEnabled as error:
        raise Refusal("HF_HUB_OFFLINE is set, so the model hub is not used") from error
    except (EntryNotFoundError, FileMetadataError, RecursionError, KeyError, TypeError, ValueError, ImportError) as error:
        raise Refusal(f"unexpected answer ({first_line(error)}); check that HF_ENDPOINT is a model hub") from error
    except (*line, *address_errors()) as error:
        if is_about_address(error):
            raise Refusal(f"the address cannot be followed ({first_line(error)}); check HF_ENDPOINT") from error
        raise Interrupted(first_line(error)) from error


def of_status(status: int, answer: Mapping[str, str], about: str) -> Interrupted | Refusal:
    """Return the error for an HTTP status of 400 or more. answer: the response's headers."""
    said = plain(answer.get("x-error-message") or "")
    if status in _TRY_AGAIN or status >= 500:
        return Interrupted(_sentence(f"HTTP {status}", said), parse_retry_after(answer.get("retry-after")), answered=True)
    # The hub also answers 401 for a repository that does not exist, to hide from strangers which private ones do.
    if status in (401, 403):
        token = "with this token" if has_token() else "without a token"
        kind = Refusal if answer.get("x-error-code") == "GatedRepo" else Denied
        return kind(
            f"HTTP {status}: the model hub denies access to {about} {token}{f' ({said})' if said else ''}. Check the name; "
            f"if it is right, accept the terms on the model's page, {endpoint()}/{about}, and set HF_TOKEN to a token that "
            "may read it"
        )
    code = answer.get("x-error-code")
    meaning = {
        "RepoNotFound": f"there is no repository {about}",
        "RevisionNotFound": f"{about} has no such revision",
        "EntryNotFound": f"{about} has no such file",
    }.get(code or "", said)
    return Refusal(_sentence(f"HTTP {status}", meaning or ("not found" if status == 404 else "refused")))


def has_token() -> bool:
    """Return whether requests to the hub carry a token."""
    return any(name.lower() == "authorization" for name in headers())


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error, without secrets."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return plain(lines[0]) if lines else type(error).__name__


def plain(text: str) -> str:
    """Return a printable text without secrets: no queries of signed URLs, passwords of proxies or tokens."""
    return printable(_TOKEN.sub("hf_…", _ADDRESS.sub(r"\1\2", text)))


def _sentence(status: str, meaning: str) -> str:
    return f"{status}: {meaning}" if meaning else status
