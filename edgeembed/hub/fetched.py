"""The last step of every pull: a new GGUF file is checked, described and moved to its final path."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path

from edgeembed.errors import HubError
from edgeembed.hub.download.partials import remove_tree
from edgeembed.hub.facts import facts_of
from edgeembed.hub.gguf.header import GgufHeader
from edgeembed.hub.manifest import ModelManifest
from edgeembed.hub.references import DEFAULT_TYPE, HubReference
from edgeembed.hub.store import InstalledModel, Store


@dataclass(frozen=True)
class FetchedModel:
    """A GGUF file that was downloaded, copied or converted, and checked, but is not installed yet."""

    path: Path
    sha256: str
    header: GgufHeader
    source: str
    license: str | None
    converted_by: str | None = None
    notes: list[str] = field(default_factory=list)
    repo: str | None = None
    revision: str | None = None
    file: str | None = None
    """Path in the repository; None for a converted checkpoint."""
    downloads: Path | None = None
    """The folder of partial files that it was downloaded to."""


def require_gguf(path: Path) -> GgufHeader:
    """Return the header of a new file. Raises HubError, and deletes the file, if it is not safe for llama.cpp."""
    from edgeembed.hub.gguf.check import check_gguf

    try:
        return check_gguf(path)
    except HubError:
        path.unlink(missing_ok=True)
        raise


def install_fetched(store: Store, fetched: FetchedModel, name: str, kind: str) -> InstalledModel:
    """Move a file to its final path and remove the rest of its download. The caller holds the model's lock."""
    status = fetched.path.stat()
    manifest = ModelManifest(
        name=name,
        type=kind,
        sha256=fetched.sha256,
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        source=fetched.source,
        license=fetched.license,
        converted_by=fetched.converted_by,
        notes=fetched.notes,
        installed_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        repo=fetched.repo,
        revision=fetched.revision,
        file=fetched.file,
        facts=facts_of(fetched.header, fetched.path),
    )
    made_here = fetched.downloads is not None and not fetched.path.is_relative_to(fetched.downloads)
    model = store.add(fetched.path, manifest, sound=True)
    if fetched.downloads is not None:
        if made_here:
            remove_tree(fetched.downloads)
        store.partials(name).finished(fetched.downloads)
    return model


def installed_from(store: Store, reference: HubReference, name: str | None = None) -> InstalledModel | None:
    """Return the model that was installed from a repository as a reference says; None if none was. name: also its name."""
    found = []
    for model in store.installed():
        manifest = store.manifest(model.path)
        if manifest is None or (manifest.repo or "").lower() != reference.repo.lower() or name not in (None, model.name):
            continue
        if reference.revision is not None and reference.revision != manifest.revision:
            continue
        if reference.file is not None and reference.file != manifest.file:
            continue
        if reference.type is not None and reference.type != model.type:
            continue
        found.append(model)
    return min(found, key=lambda model: model.type != DEFAULT_TYPE, default=None)
