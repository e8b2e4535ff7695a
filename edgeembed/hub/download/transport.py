"""HTTP to the model hub: the one client, its errors in our words, and how long it is worth trying again.

The client is huggingface_hub's own session, so HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, the proxy variables and the
certificate variables count as everywhere with that library. Which library is below it (httpx in its 1.x, httpx2 in its
2.x) is never named here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from edgeembed import __version__
from edgeembed.errors import HubError, SourceUnreachableError, UnknownModelError

T = TypeVar("T")

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*://)(?:[^\s/'\"@]*@)?([^\s'\"?#]*)(?:\?[^\s'\"]*)?", re.IGNORECASE)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
_TRY_AGAIN = frozenset({408, 425, 429})


@dataclass(frozen=True)
class RetryBudget:
    """How long a line that fails is worth trying again. Seconds, where nothing else is said."""

    attempts: int = 7
    """Attempts in a row that bring nothing new, before it is given up."""
    first_pause: float = 1.0
    """After the first of them; each further pause is twice as long."""
    longest_pause: float = 30.0
    silence: float = 30.0
    """Without a byte, after which a connection counts as dead."""
    longest_wait: float = 300.0
    """That a server may ask for (Retry-After)."""

    def pause(self, failures: int, asked: float | None = None) -> float:
        """Give the pause after so many failures in a row; `asked` is what the server wants."""
        return max(min(self.longest_pause, self.first_pause * 2.0 ** (failures - 1)), asked or 0.0)


RETRY_BUDGET = RetryBudget()
LIBRARY = "edgeembed"
"""Who asks, for the user agent."""


class Refusal(SourceUnreachableError):
    """The hub answered, but not with this file; asking again would not help."""


class Interrupted(Exception):
    """The line broke, or the server asks to come back; the same request may succeed later."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


def endpoint() -> str:
    """Give the hub's address, read now and not when huggingface_hub was first imported.

    Raises HubError when HF_ENDPOINT is no address.
    """
    from huggingface_hub import constants

    address = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    try:
        if urlsplit(address).scheme in ("http", "https") and urlsplit(address).hostname:
            return address
    except ValueError:
        pass
    raise HubError(f"HF_ENDPOINT = {plain(address)!r} is not an address such as https://hub.example")


def hub_host() -> str:
    """Give the hub's host, for messages."""
    return urlsplit(endpoint()).hostname or "the model hub"


def session() -> Any:
    """Give the HTTP client. Raises HubError when the proxy settings cannot be used."""
    from huggingface_hub import constants, get_session

    # It would put into the user agent what else is installed and which tool runs us, and ask the hub for a list of such
    # tools first, on the user's time. The variable HF_HUB_DISABLE_TELEMETRY says the same, but is read at import.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        return get_session()
    except (ValueError, ImportError) as error:  # an unknown scheme; SOCKS without the package for it
        raise HubError(f"the proxy settings (HTTPS_PROXY, ALL_PROXY) cannot be used: {first_line(error)}") from error


def headers() -> dict[str, str]:
    """Give the headers of a request to the hub: the token if there is one, and no compression, which has no ranges."""
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined] # public, but for its own __all__

    session()  # whose settings count for the headers too
    return {**build_hf_headers(library_name=LIBRARY, library_version=__version__), "Accept-Encoding": "identity"}


def line_errors() -> tuple[type[Exception], ...]:
    """Give the exceptions of the HTTP client that mean the line: no connection, a reset, a short body, silence."""
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError" and issubclass(base, Exception))


def translated(call: Callable[[], T], about: str) -> T:
    """Make a call of huggingface_hub and raise its errors as ours.

    `about` is the repository, for messages. Raises Interrupted for what may pass, Refusal for what will not,
    HubError for settings that cannot be used; errors of the disk stay what they are.
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
        # Without its cause, whose text may hold a signed address.
        raise of_status(error.response.status_code, error.response.headers, about) from None
    except HFValidationError as error:
        raise UnknownModelError(f"{about} cannot be the name of a repository: {first_line(error)}") from error
    except OfflineModeIsEnabled as error:
        raise Refusal("HF_HUB_OFFLINE is set, so the model hub is not asked") from error
    except (EntryNotFoundError, FileMetadataError, KeyError, TypeError, ValueError, ImportError) as error:
        raise Refusal(f"an answer that makes no sense ({first_line(error)}); is HF_ENDPOINT a model hub?") from error
    except line as error:
        raise Interrupted(first_line(error)) from error


def of_status(status: int, answer: Mapping[str, str], about: str) -> Interrupted | Refusal:
    """Give the error for an HTTP status of the hub (400 or more); `answer` are the headers."""
    said = plain(answer.get("x-error-message") or "")
    if status in _TRY_AGAIN or status >= 500:
        return Interrupted(_sentence(f"HTTP {status}", said), retry_after(answer))
    # The hub answers 401 for a repository that is not there, too: it does not tell strangers which ones are.
    if status in (401, 403):
        page = f"{endpoint()}/{about}"
        return Refusal(
            f"HTTP {status}: the model hub does not give {about} to "
            f"{'this token' if has_token() else 'strangers'}{f' ({said})' if said else ''}. Check the name; if it is "
            f"right, accept the terms on the model's page, {page}, and set HF_TOKEN to a token that may read it"
        )
    code = answer.get("x-error-code")
    meaning = {
        "RepoNotFound": f"there is no repository {about}",
        "RevisionNotFound": f"{about} has no such revision",
        "EntryNotFound": f"{about} has no such file",
    }.get(code or "", said)
    return Refusal(_sentence(f"HTTP {status}", meaning or ("not found" if status == 404 else "refused")))


def retry_after(answer: Mapping[str, str]) -> float | None:
    """Read Retry-After in seconds (RFC 9110, 10.2.3); its other form, a date, is left to our own pauses."""
    value = (answer.get("retry-after") or "").strip()
    return float(value) if value.isdigit() else None


def has_token() -> bool:
    """Say whether requests to the hub carry a token."""
    return any(name.lower() == "authorization" for name in headers())


def first_line(error: BaseException) -> str:
    """Give the first line of a foreign error, fit to be shown."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return plain(lines[0]) if lines else type(error).__name__


def plain(text: str) -> str:
    """Take out what must not be shown: the queries of signed addresses, passwords of proxies, tokens, control characters."""
    text = _TOKEN.sub("hf_…", _ADDRESS.sub(r"\1\2", text))
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _sentence(status: str, meaning: str) -> str:
    return f"{status}: {meaning}" if meaning else status
