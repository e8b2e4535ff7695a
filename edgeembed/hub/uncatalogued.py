"""Models without a catalogue name: from any repository of the hub, or from a file on this machine."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from edgeembed.common.files import FileIdentity, describe_os_error
from edgeembed.common.progress import Progress, ReportLine
from edgeembed.config.settings import Settings
from edgeembed.errors import ConversionError, DamagedModelError, HubError, SourceUnreachableError, UnknownModelError
from edgeembed.hub.catalogue import HubGguf, catalogue
from edgeembed.hub.digests import sha256_of
from edgeembed.hub.download.checks import require_space
from edgeembed.hub.download.huggingface import CHECK_CONNECTION
from edgeembed.hub.download.listing import RepositoryListing
from edgeembed.hub.fetched import FetchedModel, install_fetched, installed_from, require_gguf
from edgeembed.hub.gguf.header import GgufHeader, read_header
from edgeembed.hub.gguf.split import join_parts, parts_beside, parts_of, whole_name
from edgeembed.hub.pooling import Pooling, require_pooling
from edgeembed.hub.references import (
    DEFAULT_TYPE,
    HubReference,
    canonical_type,
    choose_file,
    installed_name,
    type_in_name,
)
from edgeembed.hub.sources import ConversionPlan, Fetcher
from edgeembed.hub.store import InstalledModel, Store

_BLOCK = 4 * 2**20


@dataclass(frozen=True)
class Asked:
    """What the user wants of a model without a catalogue name."""

    name: str | None = None
    """What to call it."""
    pooling: Pooling | None = None
    """How it embeds, if its file does not say it."""


def install_reference(
    reference: HubReference,
    asked: Asked,
    *,
    store: Store,
    settings: Settings,
    fetcher: Fetcher,
    report: ReportLine,
    pulling: bool = True,
) -> InstalledModel:
    """Install a model from any repository of the hub: its GGUF file, or its converted checkpoint if it has none.

    pulling: report that it is already installed, read its file, and download that
    again if it is damaged. The hub is not asked for an installed model, unless a revision is named. Raises UnknownModelError
    if the repository has no such file, SourceUnreachableError, ChecksumError, ConversionError, or HubError.
    """
    name = asked.name
    say = report if pulling else _ignore
    if (found := installed_from(store, reference, name)) is not None:
        damage = read_installed(store, found, report) if pulling else found.damage
        if damage is None:
            say(f"{found.spec} is already installed: {found.path}")
            return found
        if not pulling:
            return found
        if settings.offline:
            raise damage
        name, reference = found.name, origin_of(store, found) or reference
    if settings.offline:
        raise HubError(f"{reference} is not installed, and offline is set. Pull it once with the network")
    try:
        listing = fetcher.hub.listing(reference.repo, reference.revision)
    except SourceUnreachableError as error:
        hint = f". {CHECK_CONNECTION}" if fetcher.hub.out_of_reach else ""
        raise SourceUnreachableError(f"{reference} could not be downloaded: {error}{hint}") from error
    path = choose_file(listing.files, reference)
    wanted = installed_name(name, reference.repo, path)
    try:
        with store.locked(wanted, lambda: report(f"{wanted}: another process is downloading it; waiting")):
            kind = (path and type_in_name(path)) or (None if path else _conversion_type(reference))
            if (there := _same(store, wanted, listing, path, kind)) is not None:
                say(f"{there.spec} is already installed: {there.path}")
                return there
            if kind is not None:
                _refuse_to_replace(store, wanted, kind, reference.repo)
            partials = store.partials(wanted)
            if path is not None and (parts := parts_of(path)):
                with store.staging(wanted) as staging:
                    joining = ConversionPlan(wanted, kind or "", staging, license=listing.license)
                    fetched = fetcher.parts([listing.files[part] for part in parts], partials, joining)
                    return _install(store, fetched, wanted, kind, reference.repo, report, asked.pooling)
            if path is not None:
                fetched = fetcher.gguf(listing.files[path], partials, wanted, listing.license)
                return _install(store, fetched, wanted, kind, reference.repo, report, asked.pooling)
            assert kind is not None
            entry = catalogue().get(wanted)
            with store.staging(wanted) as staging:
                plan = ConversionPlan(wanted, kind, staging, entry.title if entry else None)
                fetched = fetcher.checkpoint(listing, partials, plan)
                fetched = replace(fetched, license=fetched.license or listing.license)
                return _install(store, fetched, wanted, kind, reference.repo, report, asked.pooling)
    except OSError as error:
        raise HubError(f"cannot install into {store.folder(wanted)}: {describe_os_error(error)}") from error


def install_file(path: Path, asked: Asked, *, store: Store, report: ReportLine) -> InstalledModel:
    """Check a GGUF file and copy it into the store.

    Raises UnknownModelError if there is no such file, HubError if it is damaged or does not fit on the disk.
    """
    from edgeembed.hub.gguf.check import check_gguf

    if store.contains(path):
        model = store.local(path)
        if damage := read_installed(store, model, report):
            raise damage
        report(f"{model.spec} is already installed: {path}")
        return model
    if parts := parts_beside(path):
        return _install_parts(parts, asked, store, report)
    before = _identity(path)
    header = check_gguf(path)
    entry_name, entry_type = _catalogue_file(path, report)
    wanted = installed_name(asked.name, None, path.name, entry_name)
    kind = entry_type or _type_of(header, path.name)
    try:
        with store.locked(wanted, lambda: report(f"{wanted}: another process is downloading it; waiting")):
            if (there := store.find(wanted, kind)) is not None:
                with Progress(report, f"reading {path.name}") as progress:
                    same = sha256_of(path, progress.update) == there.digest
                if not same:
                    _refuse_to_replace(store, wanted, kind, None)
                elif read_installed(store, there, report) is None:
                    report(f"{there.spec} is already installed: {there.path}")
                    return there
            require_space(store.folder(wanted), path.stat().st_size)
            with store.staging(wanted) as staging:
                copy = staging / path.name
                sha256 = _copy(path, copy, report)
                if _identity(path) != before:  # name and type were chosen by the old content
                    raise HubError(f"{path} changed while it was copied; wait until it is complete and try again")
                copied = require_gguf(copy)
                fetched = FetchedModel(copy, sha256, copied, f"copied from {path}", copied.text("general.license"))
                return _install(store, fetched, wanted, kind, None, report, asked.pooling)
    except OSError as error:
        raise HubError(f"cannot install {path} into {store.folder(wanted)}: {describe_os_error(error)}") from error


def _install_parts(parts: list[Path], asked: Asked, store: Store, report: ReportLine) -> InstalledModel:
    """Join the parts of a model, check the file, and install it. Raises what `install_file` raises."""
    file = whole_name(parts[0].name)
    before = [_identity(part) for part in parts]
    wanted, kind = installed_name(asked.name, None, file), _type_of(read_header(parts[0]), file)
    try:
        with store.locked(wanted, lambda: report(f"{wanted}: another process is downloading it; waiting")):
            require_space(store.folder(wanted), sum(part.stat().st_size for part in parts))
            with store.staging(wanted) as staging:
                joined = staging / file
                with Progress(report, f"joining the parts of {file}") as progress:
                    sha256 = join_parts(parts, joined, progress.update)
                if [_identity(part) for part in parts] != before:
                    raise HubError(f"{parts[0]} or another part changed while it was copied; wait and try again")
                header = require_gguf(joined)
                if (there := store.find(wanted, kind)) is not None and there.digest == sha256:
                    if read_installed(store, there, report) is None:
                        report(f"{there.spec} is already installed: {there.path}")
                        return there
                else:
                    _refuse_to_replace(store, wanted, kind, None)
                source = f"joined from {len(parts)} parts, {parts[0]} and so on"
                fetched = FetchedModel(joined, sha256, header, source, header.text("general.license"))
                return _install(store, fetched, wanted, kind, None, report, asked.pooling)
    except OSError as error:
        raise HubError(f"cannot install {parts[0]} into {store.folder(wanted)}: {describe_os_error(error)}") from error


def read_installed(store: Store, model: InstalledModel, report: ReportLine) -> DamagedModelError | None:
    """Read the whole file of an installed model; return, and report, what is wrong with it."""
    with Progress(report, f"checking {model.path.name}") as progress:
        damage = store.damage(model, progress.update)
    if damage is not None:
        report(damage.what)
    return damage


def origin_of(store: Store, model: InstalledModel) -> HubReference | None:
    """Return where on the hub exactly this model came from; None if it came from elsewhere."""
    manifest = store.manifest(model.path)
    if manifest is None or manifest.repo is None:
        return None
    kind = None if manifest.file else manifest.type
    return HubReference(manifest.repo, manifest.revision, file=manifest.file, type=kind)


def _same(store: Store, name: str, listing: RepositoryListing, path: str | None, kind: str | None) -> InstalledModel | None:
    """Return the installed model that equals the hub's current one: another process may have installed it meanwhile."""
    for model in store.installed():
        if model.name != name or (kind is not None and model.type != kind):
            continue
        manifest = store.manifest(model.path)
        if model.damage is not None:
            continue
        if path is not None and model.digest == listing.files[path].sha256:
            return model
        # A file that was made here has no checksum on the hub.
        made_here = path is None or bool(parts_of(path))
        if made_here and manifest is not None:
            same = (manifest.repo, manifest.revision, manifest.file) == (listing.repo, listing.commit, path)
            if same:
                return model
    return None


def _refuse_to_replace(store: Store, name: str, kind: str, repo: str | None) -> None:
    """Raise HubError if the name belongs to a model from elsewhere; a newer file of the same repository may replace it."""
    there = store.find(name, kind)
    manifest = store.manifest(there.path) if there else None
    if there is None or manifest is None:
        return
    if repo is not None and ((manifest.repo or "").lower() == repo.lower() or name in catalogue()):
        return
    raise HubError(
        f"{there.spec} is already installed, from another file ({there.source}). Choose another name with --name, or "
        f"remove it first: edgeembed rm {there.spec}"
    )


def _install(
    store: Store,
    fetched: FetchedModel,
    name: str,
    kind: str | None,
    repo: str | None,
    report: ReportLine,
    pooling: Pooling | None,
) -> InstalledModel:
    fetched = require_pooling(fetched, pooling, name, report)
    entry = catalogue().get(name)
    said = (fetched.header.architecture, fetched.header.dimensions)
    if entry is not None and said != (entry.architecture, entry.dimensions):
        fetched.path.unlink(missing_ok=True)
        raise HubError(
            f"{fetched.source} is not the catalogue's {name}: it has the architecture {said[0]} and {said[1]} dimensions. "
            "Choose another name with --name"
        )
    if kind is None:
        kind = _type_of(fetched.header, fetched.file or "")
        _refuse_to_replace(store, name, kind, repo)
    model = install_fetched(store, fetched, name, kind)
    report(f"{model.spec} is installed: {model.path}")
    return model


def _conversion_type(reference: HubReference) -> str:
    from edgeembed_convert import parse_quantization

    try:
        return parse_quantization(reference.type or DEFAULT_TYPE)
    except ConversionError as error:
        raise UnknownModelError(f"{reference.repo} has no GGUF files and would have to be converted: {error}") from error


def _type_of(header: GgufHeader, file: str) -> str:
    return canonical_type(header.type if header.type != "unknown" else type_in_name(file) or header.type)


def _catalogue_file(path: Path, report: ReportLine) -> tuple[str, str] | tuple[None, None]:
    """Return the name and type that the catalogue has for a file, by its SHA-256."""
    size = path.stat().st_size
    entries = {
        source.sha256: (name, source.type)
        for name, entry in catalogue().items()
        for source in entry.sources
        if isinstance(source, HubGguf) and source.sha256 and source.size_bytes in (None, size)
    }
    if not entries:
        return None, None
    with Progress(report, f"reading {path.name}") as progress:
        return entries.get(sha256_of(path, progress.update), (None, None))


def _copy(source: Path, target: Path, report: ReportLine) -> str:
    """Copy a file and return the SHA-256 of the copied bytes."""
    total = source.stat().st_size
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer, Progress(report, f"copying {source.name}") as progress:
        while block := reader.read(_BLOCK):
            writer.write(block)
            digest.update(block)
            progress.update(writer.tell(), total)
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _identity(path: Path) -> FileIdentity | None:
    """Return the identity of a file that every later write changes; None if there is no file."""
    try:
        found = FileIdentity.of(path)
    except FileNotFoundError:
        return None
    time.sleep(found.unsettled_seconds)
    return found


def _ignore(_line: str) -> None:
    pass
