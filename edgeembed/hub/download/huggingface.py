"""The model hub: whether it can be reached, what a repository contains, and downloads from it."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from edgeembed import __version__
from edgeembed.common.backoff import Backoff
from edgeembed.common.progress import Progress, ReportLine, human_size
from edgeembed.config.settings import Settings
from edgeembed.errors import ConversionError, HubError, SourceUnreachableError, UnknownModelError
from edgeembed.hub.download import transport
from edgeembed.hub.download.checks import require_space
from edgeembed.hub.download.listing import COMMIT, MOST_FILE_BYTES, MOST_LISTING_BYTES, RepositoryListing, read_listing
from edgeembed.hub.download.partials import LOCK, Partials, hold, remove_tree
from edgeembed.hub.download.transfer import DownloadWatcher, RemoteFile, download, missing_bytes
from edgeembed.hub.download.transport import Interrupted

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

T = TypeVar("T")

_REPOSITORY = re.compile(r"(?:hf:)?(\w[\w.-]*/\w[\w.-]*?)(?:@([\w./-]+))?", re.ASCII)
CHECK_CONNECTION = "Check the connection and the proxy settings (HTTPS_PROXY; HF_ENDPOINT for a mirror of the hub)"
_PROBES = 3
"""Attempts of the first request within `hub_timeout`: a single reset connection does not mean that the hub is down."""
_LONGEST_WAIT = 60.0
"""Longest Retry-After in seconds that the first request obeys; after a longer one, the hub counts as out of reach."""
_MOST_FILES = 1000
"""Of a checkpoint; the largest ones have a few hundred."""
_LISTING_TIME = 5
"""Timeout of a listing as a multiple of `hub_timeout`: the hub computes it, which takes longer than a probe."""


class HubClient:
    """The hub for one command. Once it is found to be unreachable, it is not tried again."""

    def __init__(self, settings: Settings, report: ReportLine) -> None:
        self._offline = settings.offline
        self._timeout = settings.hub_timeout
        self._report = report
        self._out_of_reach: str | None = None
        self._anonymous = False

    @property
    def out_of_reach(self) -> str | None:
        """Why the hub cannot be reached at all; None while it can, or was not tried."""
        return self._out_of_reach

    def head(self, repo: str, path: str, revision: str | None = None) -> RemoteFile:
        """Return a file's size and commit: the quick probe before any other work.

        It takes at most `hub_timeout` seconds, whatever hangs: name resolution, connection or response. Raises
        SourceUnreachableError if the hub does not answer or does not have the file.
        """

        def ask() -> HfFileMetadata:
            from huggingface_hub import get_hf_file_metadata, hf_hub_url

            return get_hf_file_metadata(
                hf_hub_url(repo, path, revision=revision, endpoint=transport.endpoint()),
                token=False if self._anonymous else None,
                timeout=self._timeout,
                endpoint=transport.endpoint(),
                library_name=transport.LIBRARY,
                library_version=__version__,
            )

        found = self._ask(lambda: transport.translated(ask, repo), repo, self._timeout)
        if found.size is not None and not 0 <= found.size <= MOST_FILE_BYTES:
            raise transport.Refusal(f"{path} would have {found.size} bytes; check that HF_ENDPOINT is a model hub")
        commit = found.commit_hash if COMMIT.fullmatch(found.commit_hash or "") else revision
        return RemoteFile(repo, path, commit, found.size, etag=found.etag, anonymous=self._anonymous)

    def listing(self, repo: str, revision: str | None = None) -> RepositoryListing:
        """Return the content of a repository, with sizes and checksums. Raises SourceUnreachableError."""
        seconds = _LISTING_TIME * self._timeout

        def ask() -> bytes:
            from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # public, but for its own __all__

            transport.translated(lambda: validate_repo_id(repo), repo)
            at = f"/revision/{quote(revision, safe='')}" if revision else ""
            url = f"{transport.endpoint()}/api/models/{repo}{at}?blobs=true"
            return transport.read(url, repo, MOST_LISTING_BYTES, seconds, anonymous=self._anonymous)

        return read_listing(repo, self._ask(ask, repo, seconds), anonymous=self._anonymous)

    def beginning(self, remote: RemoteFile, most_bytes: int) -> bytes:
        """Return the first bytes of a file, or all of a smaller one. Raises SourceUnreachableError."""
        seconds = _LISTING_TIME * self._timeout

        def ask() -> bytes:
            return transport.read(remote.url, remote.repo, most_bytes, seconds, anonymous=self._anonymous, beginning=True)

        return self._ask(ask, remote.repo, seconds)

    def fetch(self, remote: RemoteFile, folder: Path) -> tuple[Path, str]:
        """Download one file below `folder`, resuming a partial one, and return its path and SHA-256.

        Raises SourceUnreachableError, ChecksumError, or HubError if there is not enough disk space.
        """
        [fetched] = self._fetch([remote], folder, remote.name, 0)
        return fetched

    def fetch_parts(self, remotes: list[RemoteFile], folder: Path, what: str) -> list[Path]:
        """Download the parts of a model below `folder`, with room to join them, and return their paths.

        Raises the errors of `fetch`.
        """
        room = sum(remote.size_bytes or 0 for remote in remotes)
        return [path for path, _ in self._fetch(remotes, folder, what, room)]

    def checkpoint(
        self, listing: RepositoryListing, folder: Path, inspect: Callable[[Path], object] | None = None, room: int = 0
    ) -> Path:
        """Download a checkpoint below `folder`, resuming a partial one, and return `folder`.

        inspect: called before the weights are downloaded, so that an unsupported model is refused before gigabytes are.
        room: additional disk space in bytes that the conversion needs. Raises the errors of `fetch` and of `inspect`.
        """
        weights = listing.weights
        small = listing.checkpoint[: -len(weights)] if weights else []
        if not weights:
            raise HubError(f"{listing.repo} contains no weights to convert: neither safetensors nor pytorch_model.bin")
        if len(small) + len(weights) > _MOST_FILES:
            raise HubError(f"{listing.repo} has {len(listing.checkpoint)} files to convert; expected at most {_MOST_FILES}")
        self._fetch(small, folder, f"{listing.repo}, configuration", 0)
        if inspect is not None:
            try:
                inspect(folder)
            except ConversionError:
                remove_tree(folder)
                raise
        self._fetch(weights, folder, listing.repo, room)
        return folder

    def _fetch(self, files: list[RemoteFile], folder: Path, what: str, room: int) -> list[tuple[Path, str]]:
        folder.mkdir(parents=True, exist_ok=True)
        targets = [folder.joinpath(*file.path.split("/")) for file in files]
        missing = sum(missing_bytes(file, target) for file, target in zip(files, targets, strict=True))
        total = sum(file.size_bytes or 0 for file in files)
        require_space(folder, missing + room)
        if missing < total:
            self._report(f"{what}: resuming, {human_size(total - missing)} of {human_size(total)} are on the disk")
        fetched: list[tuple[Path, str]] = []
        before = 0
        with Progress(self._report, what) as progress:
            if total:
                progress.begin(total - missing, total)
            try:
                for file, target in zip(files, targets, strict=True):
                    watcher = DownloadWatcher(_Counter(progress, before, total), progress.say)
                    fetched.append((target, download(file, target, watcher)))
                    before += file.size_bytes or target.stat().st_size
            except KeyboardInterrupt:
                progress.say(f"{what}: interrupted; run the same command again to resume")
                raise
        return fetched

    def _ask(self, request: Callable[[], T], repo: str, seconds: float) -> T:
        if self._offline:
            raise HubError("offline is set, so the network is not used")
        if self._out_of_reach is None:
            # One-time work of the client, such as reading certificates, must not count towards the timeout.
            transport.headers()
            try:
                return self._ask_with_or_without_token(request, repo, seconds)
            except Interrupted as error:
                self._out_of_reach = _state_of_hub(error)
        raise SourceUnreachableError(self._out_of_reach)

    def _ask_with_or_without_token(self, ask: Callable[[], T], repo: str, seconds: float) -> T:
        """Ask again without the user's token where the hub refuses it: most repositories are public."""
        try:
            return _in_time(ask, seconds, self._report)
        except transport.Denied as denied:
            if self._anonymous or not transport.has_token():
                raise
            self._anonymous = True
            try:
                found = _in_time(ask, seconds, self._report)
            except SourceUnreachableError:
                self._anonymous = False
                raise denied from None
        self._report(f"{repo}: the hub refuses your token (HF_TOKEN), which may have expired; continuing without it")
        return found


@dataclass
class _Counter:
    """Updates a progress bar for several files from the bytes of the current one."""

    progress: Progress
    before: int
    total: int

    def __call__(self, here: int) -> None:
        if self.total:
            self.progress.update(self.before + here, max(self.total, self.before + here))


@contextlib.contextmanager
def checkpoint_of(
    name: str, settings: Settings, report: ReportLine, beside: Path, adapter: str | None = None
) -> Iterator[tuple[Path, str, str]]:
    """Download the checkpoint of OWNER/NAME or OWNER/NAME@REVISION into a temporary folder in `beside`.

    adapter: the one that will be merged, as in `ConversionOptions`.

    Yields the folder, the repository and the commit. After an error the downloaded files stay, and the next call resumes.
    Raises HubError for another name, SourceUnreachableError.
    """
    hub, repo, revision = _open_repository(name, settings, report)
    try:
        hub.head(repo, "config.json", revision)
    except SourceUnreachableError:
        if hub.out_of_reach:
            raise
        # The listing shows whether there is a repository, and its files what it is instead, such as an adapter.
    with _temporary_checkpoint(hub, repo, revision, report, beside, inspection(repo, adapter)) as found:
        yield found


@contextlib.contextmanager
def adapter_of(name: str, settings: Settings, report: ReportLine, beside: Path) -> Iterator[Path]:
    """Download the adapter of OWNER/NAME or OWNER/NAME@REVISION as `checkpoint_of` does; yields its folder."""
    hub, repo, revision = _open_repository(name, settings, report)
    hub.head(repo, "adapter_config.json", revision)
    with _temporary_checkpoint(hub, repo, revision, report, beside, None) as (folder, _, _):
        yield folder


def is_repository(name: str) -> bool:
    """Return whether a name is of the form OWNER/NAME or OWNER/NAME@REVISION, and no folder is."""
    return _REPOSITORY.fullmatch(name) is not None and not Path(name).exists()


def _open_repository(name: str, settings: Settings, report: ReportLine) -> tuple[HubClient, str, str | None]:
    found = _REPOSITORY.fullmatch(name)
    if found is None:
        raise UnknownModelError(f"{name!r} is neither a folder nor a repository of the model hub (OWNER/NAME)")
    return HubClient(settings, report), found[1], found[2]


@contextlib.contextmanager
def _temporary_checkpoint(
    hub: HubClient,
    repo: str,
    revision: str | None,
    report: ReportLine,
    beside: Path,
    inspect: Callable[[Path], object] | None,
) -> Iterator[tuple[Path, str, str]]:
    listing = hub.listing(repo, revision)
    partials = Partials(beside / f".edgeembed-{repo.replace('/', '--').lower()}")
    try:
        with hold(partials.root / LOCK, lambda: report(f"{repo}: another process is downloading it; waiting")):
            folder = partials.folder(repo, listing.commit) / repo.partition("/")[2]
            yield hub.checkpoint(listing, folder, inspect), repo, listing.commit
            partials.clear()
    finally:
        if size := partials.size():
            kept = f"{human_size(size)} of {repo} are kept in {partials.root}"
            report(f"{kept}; run the same command again to resume, or remove the folder")
        partials.remove_if_empty()


def inspection(repo: str, adapter: str | None) -> Callable[[Path], object]:
    """Return a function for `HubClient.checkpoint`: it raises ConversionError if a checkpoint is of no supported family.

    adapter: the one that will be merged, as in `ConversionOptions`.
    """

    def inspect(folder: Path) -> None:
        from edgeembed_convert.checkpoint import open_checkpoint
        from edgeembed_convert.families import find_family

        find_family(open_checkpoint(folder, adapter=adapter, source=repo))

    return inspect


def _in_time(ask: Callable[[], T], seconds: float, report: ReportLine) -> T:
    """Return the result of `ask`, retried after network errors.

    Where the hub is busy and says for how long, it is asked once more after that. Raises Interrupted if there is no result
    in time.
    """
    try:
        return _attempt_in_time(ask, seconds)
    except Interrupted as error:
        if not error.retry_after or error.retry_after > _LONGEST_WAIT:
            raise
        report(f"{_state_of_hub(error)}; retrying then")
        time.sleep(error.retry_after)
    return _attempt_in_time(ask, seconds)


def _attempt_in_time(ask: Callable[[], T], seconds: float) -> T:
    backoff = Backoff(first=seconds / 15, longest=seconds)
    answers: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        for attempt in range(_PROBES):
            time.sleep(backoff.pause(attempt))
            try:
                answers.append(ask())
                return
            except Exception as error:  # raised below, in the caller's thread
                errors.append(error)
                if not isinstance(error, Interrupted) or error.retry_after:
                    return

    # In a thread, because getaddrinfo() has no timeout.
    thread = threading.Thread(target=run, name="hub-probe", daemon=True)
    thread.start()
    thread.join(seconds)
    if answers:
        return answers[0]
    raise errors[-1] if errors else Interrupted(f"no answer within {seconds:g} s")


def _state_of_hub(error: Interrupted) -> str:
    """Return why the hub does not serve a request, for messages."""
    state = f"is busy ({error})" if error.answered else f"cannot be reached ({error})"
    wait = f" and asks to wait {error.retry_after:.0f} s" if error.retry_after else ""
    return f"{transport.hub_host()} {state}{wait}"
