"""The model hub, through `huggingface_hub`: whether it answers, and files from it.

HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and the proxy and certificate variables count, as everywhere with that library.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from edgeembed.config import Settings
from edgeembed.errors import HubError, SourceUnreachableError, UnknownModelError
from edgeembed.hub.progress import Report, bar_class

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

T = TypeVar("T")

# What a checkpoint is made of; the same repositories also hold ONNX, OpenVINO and pickled copies of the weights.
_CHECKPOINT_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "*.jinja", "README.md"]
_NOT_CHECKPOINT = ["onnx/*", "openvino/*"]
_REPOSITORY = re.compile(r"(?:hf:)?([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?", re.ASCII)


class HuggingFace:
    """One conversation with the hub. That it is out of reach is found out once and then remembered."""

    def __init__(self, settings: Settings, report: Report) -> None:
        self._offline = settings.offline
        self._timeout = settings.hub_timeout
        self._report = report
        self._out_of_reach: str | None = None

    @property
    def out_of_reach(self) -> str | None:
        """Why the hub as a whole cannot be reached; None as long as that was not seen."""
        return self._out_of_reach

    def head(self, repo: str, file: str, revision: str | None = None) -> HfFileMetadata:
        """Ask for one file's size and commit: the quick probe before any other work.

        It takes `hub_timeout` seconds at most, whatever hangs: name resolution, connection or answer. Raises
        SourceUnreachableError when the hub does not answer or does not have the file.
        """
        if self._offline:
            raise HubError("the network is not used: offline is set")
        if self._out_of_reach is None:
            try:
                return self._head(repo, file, revision)
            except _Silence as silence:
                self._out_of_reach = str(silence)
        raise SourceUnreachableError(self._out_of_reach)

    def file(self, repo: str, file: str, revision: str | None, folder: Path) -> Path:
        """Download one file below `folder` and give its path. Raises SourceUnreachableError."""
        from huggingface_hub import hf_hub_download

        return Path(
            _translated(
                lambda: hf_hub_download(
                    repo,
                    file,
                    revision=revision,
                    local_dir=folder,
                    endpoint=_endpoint(),
                    tqdm_class=bar_class(self._report, Path(file).name),
                )
            )
        )

    def checkpoint(self, repo: str, revision: str | None, folder: Path) -> Path:
        """Download the weights, tokenizer and configuration of a repository into `folder`. Raises SourceUnreachableError."""
        from huggingface_hub import snapshot_download

        return Path(
            _translated(
                lambda: snapshot_download(
                    repo,
                    revision=revision,
                    local_dir=folder,
                    cache_dir=folder.parent / "hub-cache",  # it notes the commit there, and must not in the user's own
                    endpoint=_endpoint(),
                    allow_patterns=_CHECKPOINT_FILES,
                    ignore_patterns=_NOT_CHECKPOINT,
                    tqdm_class=bar_class(self._report),
                )
            )
        )

    def _head(self, repo: str, file: str, revision: str | None) -> HfFileMetadata:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        endpoint = _endpoint()
        host = urlsplit(endpoint).hostname or "the model hub"
        url = hf_hub_url(repo, file, revision=revision, endpoint=endpoint)

        def ask() -> HfFileMetadata:
            return get_hf_file_metadata(url, timeout=self._timeout, endpoint=endpoint)

        # In a thread of its own, because getaddrinfo() and retries inside the library know no deadline.
        done = _in_thread(lambda: _translated(ask), self._timeout)
        if done is None:
            raise _Silence(f"{host} did not answer within {self._timeout:g} s")
        result, error = done
        if isinstance(error, SourceUnreachableError) and not isinstance(error, _Refusal):
            raise _Silence(f"{host}: {error}") from error
        if error is not None:
            raise error
        assert result is not None
        return result


@contextlib.contextmanager
def checkpoint_of(name: str, settings: Settings, report: Report, beside: Path) -> Iterator[tuple[Path, str, str]]:
    """Fetch the checkpoint of a repository, OWNER/NAME or OWNER/NAME@REVISION, into a folder that goes away again.

    Gives the folder, the repository and the commit. The folder lies in `beside`, on the disk that the user chose for the
    result. Raises HubError for another name, SourceUnreachableError.
    """
    found = _REPOSITORY.fullmatch(name)
    if found is None:
        raise UnknownModelError(f"{name!r} is neither a folder nor a repository of the model hub (OWNER/NAME)")
    repo, revision = found[1], found[2]
    hub = HuggingFace(settings, report)
    commit = hub.head(repo, "config.json", revision).commit_hash or revision or "main"
    with tempfile.TemporaryDirectory(dir=beside, prefix=".convert-", ignore_cleanup_errors=True) as folder:
        yield hub.checkpoint(repo, commit, Path(folder) / repo.partition("/")[2]), repo, commit


class _Silence(Exception):
    """The hub as a whole is out of reach, with the reason."""


class _Refusal(SourceUnreachableError):
    """The hub answered, but not with this file."""


def _endpoint() -> str:
    # Read now, not when huggingface_hub was first imported.
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def _in_thread(work: Callable[[], T], timeout: float) -> tuple[T | None, Exception | None] | None:
    """Run `work` in a daemon thread and give its result and error; None when it is not done in time."""
    outcome: list[tuple[T | None, Exception | None]] = []

    def run() -> None:
        try:
            outcome.append((work(), None))
        except Exception as error:  # handed to the caller, who raises it
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="hub-probe", daemon=True)
    thread.start()
    thread.join(timeout)
    return outcome[0] if outcome else None


def _translated(call: Callable[[], T]) -> T:
    """Make SourceUnreachableError of the errors that mean line or hub; errors of the disk stay what they are."""
    from huggingface_hub.errors import EntryNotFoundError, FileMetadataError, HfHubHTTPError, OfflineModeIsEnabled

    # The base class of the HTTP client that this version of huggingface_hub uses (httpx, then httpx2), and what hf_xet
    # raises when a transfer fails.
    line: tuple[type[Exception], ...] = (
        *(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError" and issubclass(base, Exception)),
        RuntimeError,
    )
    try:
        return call()
    except HfHubHTTPError as error:
        status = error.response.status_code
        reason = f"HTTP {status}: {_first_line(error)}"
        if status >= 500:
            raise SourceUnreachableError(reason) from error
        raise _Refusal(reason) from error
    except FileMetadataError as error:
        raise _Refusal(_first_line(error)) from error
    except (EntryNotFoundError, OfflineModeIsEnabled, ConnectionError, TimeoutError) as error:
        cause = error.__cause__ or error
        raise SourceUnreachableError(_first_line(cause)) from error
    except line as error:
        raise SourceUnreachableError(_first_line(error)) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
