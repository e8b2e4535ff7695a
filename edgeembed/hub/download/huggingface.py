"""The model hub: whether it answers, what a repository holds, and files from it."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgeembed import __version__
from edgeembed.common.progress import Progress, ReportLine, human_size
from edgeembed.config.settings import Settings
from edgeembed.errors import ConversionError, HubError, SourceUnreachableError, UnknownModelError
from edgeembed.hub.download import transport
from edgeembed.hub.download.checks import require_space
from edgeembed.hub.download.partials import LOCK, Partials, hold, remove_tree
from edgeembed.hub.download.transfer import DownloadWatcher, RemoteFile, download, missing_bytes
from edgeembed.hub.download.transport import Interrupted

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata
    from huggingface_hub.hf_api import ModelInfo

T = TypeVar("T")

# What a checkpoint is made of; the same repositories also hold ONNX, OpenVINO and pickled copies of the weights.
_CHECKPOINT_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "*.jinja", "README.md"]
_NOT_CHECKPOINT = ["onnx/*", "openvino/*"]
_REPOSITORY = re.compile(r"(?:hf:)?([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?", re.ASCII)
_HARMLESS_PATH = re.compile(r"(?!/)(?!(?:.*/)?\.{1,2}(?:/|$))[^\\:\x00-\x1f\x7f]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
CHECK_THE_LINE = "Check the connection and the proxy settings (HTTPS_PROXY; HF_ENDPOINT for a mirror of the hub)"
_PROBES = 3
"""Times that the first question is put within `hub_timeout`: one reset connection does not mean that the hub is gone."""
_LISTING_TIME = 5
"""A listing is worked out by the hub, and takes longer than a probe: as many times `hub_timeout`."""


@dataclass(frozen=True)
class RepositoryListing:
    """What a repository holds at one commit."""

    repo: str
    commit: str
    files: dict[str, RemoteFile]
    """By path."""
    license: str | None
    """That the model card names, as the hub spells it."""

    @property
    def checkpoint(self) -> list[RemoteFile]:
        """The files that a safetensors checkpoint is made of, small ones first."""
        wanted = [
            file
            for path, file in self.files.items()
            if any(fnmatchcase(path, pattern) for pattern in _CHECKPOINT_FILES)
            and not any(fnmatchcase(path, pattern) for pattern in _NOT_CHECKPOINT)
        ]
        return sorted(wanted, key=lambda file: (file.name.endswith(".safetensors"), file.path))


class HuggingFace:
    """One conversation with the hub. That it is out of reach is found out once and then remembered."""

    def __init__(self, settings: Settings, report: ReportLine) -> None:
        self._offline = settings.offline
        self._timeout = settings.hub_timeout
        self._report = report
        self._out_of_reach: str | None = None

    @property
    def out_of_reach(self) -> str | None:
        """Why the hub as a whole cannot be reached; None as long as that was not seen."""
        return self._out_of_reach

    def head(self, repo: str, path: str, revision: str | None = None) -> RemoteFile:
        """Ask for one file's size and commit: the quick probe before any other work.

        It takes `hub_timeout` seconds at most, whatever hangs: name resolution, connection or answer. Raises
        SourceUnreachableError when the hub does not answer or does not have the file.
        """
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        url = hf_hub_url(repo, path, revision=revision, endpoint=transport.endpoint())

        def ask() -> HfFileMetadata:
            return get_hf_file_metadata(
                url,
                timeout=self._timeout,
                endpoint=transport.endpoint(),
                library_name=transport.LIBRARY,
                library_version=__version__,
            )

        found = self._ask(ask, repo, self._timeout)
        return RemoteFile(repo, path, found.commit_hash or revision, found.size, etag=found.etag)

    def listing(self, repo: str, revision: str | None = None) -> RepositoryListing:
        """Ask what a repository holds: every file's size and checksum. Raises SourceUnreachableError."""
        from huggingface_hub import HfApi

        def ask() -> ModelInfo:
            api = HfApi(endpoint=transport.endpoint(), library_name=transport.LIBRARY, library_version=__version__)
            return api.model_info(repo, revision=revision, files_metadata=True, timeout=_LISTING_TIME * self._timeout)

        return _listing(repo, self._ask(ask, repo, _LISTING_TIME * self._timeout))

    def fetch(self, remote: RemoteFile, folder: Path) -> tuple[Path, str]:
        """Bring one file below `folder`, resuming what is there of it, and give its path and SHA-256.

        Raises SourceUnreachableError, ChecksumError, or HubError when the disk has no room for what is missing.
        """
        [fetched] = self._fetch([remote], folder, remote.name, 0)
        return fetched

    def checkpoint(
        self, listing: RepositoryListing, folder: Path, look: Callable[[Path], object] | None = None, room: int = 0
    ) -> Path:
        """Bring the weights, tokenizer and configuration of a repository below `folder`, resuming, and give `folder`.

        `look` is called when all but the weights is there, so that what cannot be used is refused before gigabytes were
        fetched. `room` are the bytes that the disk needs besides, for what is made of it. Raises as `fetch`, and what
        `look` raises.
        """
        small = [file for file in listing.checkpoint if not file.name.endswith(".safetensors")]
        weights = [file for file in listing.checkpoint if file.name.endswith(".safetensors")]
        if not weights:
            raise HubError(f"{listing.repo} holds no safetensors file to convert")
        self._fetch(small, folder, f"{listing.repo}, configuration", 0)
        if look is not None:
            try:
                look(folder)
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
            self._report(f"{what}: {human_size(total - missing)} of {human_size(total)} are here already")
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
                progress.say(f"{what}: what has arrived stays; the same command goes on from there")
                raise
        return fetched

    def _ask(self, question: Callable[[], T], repo: str, seconds: float) -> T:
        if self._offline:
            raise HubError("the network is not used: offline is set")
        if self._out_of_reach is None:
            # What the client does once, such as reading certificates, is not the hub's time.
            transport.headers()
            try:
                return _in_time(lambda: transport.translated(question, repo), seconds)
            except _Silence as silence:
                self._out_of_reach = f"{transport.hub_host()}{silence}"
        raise SourceUnreachableError(self._out_of_reach)


@dataclass
class _Counter:
    """Tells a bar of several files what is here of the one that is on its way."""

    progress: Progress
    before: int
    total: int

    def __call__(self, here: int) -> None:
        if self.total:
            self.progress.update(self.before + here, max(self.total, self.before + here))


@contextlib.contextmanager
def checkpoint_of(name: str, settings: Settings, report: ReportLine, beside: Path) -> Iterator[tuple[Path, str, str]]:
    """Fetch the checkpoint of a repository, OWNER/NAME or OWNER/NAME@REVISION, into a folder that goes away again.

    Gives the folder, the repository and the commit. The folder lies in `beside`, on the disk that the user chose for the
    result. When something fails, what was fetched stays there, and the next call goes on from it. Raises HubError for
    another name, SourceUnreachableError.
    """
    found = _REPOSITORY.fullmatch(name)
    if found is None:
        raise UnknownModelError(f"{name!r} is neither a folder nor a repository of the model hub (OWNER/NAME)")
    repo, revision = found[1], found[2]
    hub = HuggingFace(settings, report)
    hub.head(repo, "config.json", revision)
    listing = hub.listing(repo, revision)
    partials = Partials(beside / f".edgeembed-{repo.replace('/', '--').lower()}")
    try:
        with hold(partials.root / LOCK, lambda: report(f"{repo}: another process is fetching it; waiting")):
            folder = partials.folder(repo, listing.commit) / repo.partition("/")[2]
            yield hub.checkpoint(listing, folder, convertible), repo, listing.commit
            partials.clear()
    finally:
        if size := partials.size():
            report(f"{human_size(size)} of {repo} stay in {partials.root} for the next try; remove it if there is none")
        partials.vanish()


def convertible(folder: Path) -> None:
    """Raise ConversionError when config.json in a checkpoint's folder is of no family that can be converted."""
    from edgeembed_convert.checkpoint import open_checkpoint
    from edgeembed_convert.families import find_family

    find_family(open_checkpoint(folder))


def _listing(repo: str, info: ModelInfo) -> RepositoryListing:
    """Take from the hub's answer what is needed. Raises Refusal for one that makes no sense."""
    if not info.sha or not _COMMIT.fullmatch(info.sha):
        raise transport.Refusal(f"the listing of {repo} names no commit; is HF_ENDPOINT a model hub?")
    files = {
        sibling.rfilename: RemoteFile(
            repo,
            sibling.rfilename,
            info.sha,
            size_bytes=sibling.size,
            sha256=sibling.lfs.sha256 if sibling.lfs else None,
            git_sha1=sibling.blob_id if not sibling.lfs and _COMMIT.fullmatch(sibling.blob_id or "") else None,
        )
        for sibling in info.siblings or []
        # The name becomes a path here.
        if _HARMLESS_PATH.fullmatch(sibling.rfilename)
    }
    card: Any = info.card_data  # its fields are whatever people write
    license_ = card.get("license") if card else None
    if license_ == "other":
        license_ = card.get("license_name") or license_
    if isinstance(license_, list):
        license_ = " AND ".join(map(str, license_))
    return RepositoryListing(repo, info.sha, files, transport.plain(str(license_)) if license_ else None)


class _Silence(Exception):
    """The hub as a whole is out of reach. The text goes behind its name."""


def _in_time(ask: Callable[[], T], seconds: float) -> T:
    """Ask, a few times if the line breaks, and give the answer. Raises _Silence when there is none in time."""
    answers: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        for attempt in range(_PROBES):
            time.sleep(seconds / 30 * 2**attempt if attempt else 0)
            try:
                answers.append(ask())
                return
            except Interrupted as error:
                errors.append(error)
            except Exception as error:  # handed to the caller, who raises it
                errors.append(error)
                return

    # In a thread of its own, because getaddrinfo() knows no deadline.
    thread = threading.Thread(target=run, name="hub-probe", daemon=True)
    thread.start()
    thread.join(seconds)
    if answers:
        return answers[0]
    if not errors:
        raise _Silence(f" did not answer within {seconds:g} s")
    if isinstance(errors[-1], Interrupted):
        raise _Silence(f": {errors[-1]}")
    raise errors[-1]
