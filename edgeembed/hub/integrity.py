"""What is wrong with a model file whose bytes are not those that were installed, and how to get them back."""

from __future__ import annotations

from pathlib import Path

from edgeembed.errors import DamagedModelError
from edgeembed.hub.catalogue import catalogue
from edgeembed.hub.manifest import ModelManifest


def damaged(path: Path, expected: str, found: str | None, manifest: ModelManifest | None) -> DamagedModelError:
    """Return the error about a file.

    expected: the SHA-256 that it had. found: the one that it has; None if its size alone shows that it is damaged.
    manifest: of an installed file.
    """
    if found is None and manifest is not None:
        differs = f"it has {path.stat().st_size:,} bytes, not {manifest.size_bytes:,} as when it was installed"
    else:
        since = "when it was installed" if manifest is not None else "when it was first read"
        differs = f"its SHA-256 begins with {(found or '')[:12]}, not with {expected[:12]} as {since}"
    return DamagedModelError(f"{path} is damaged: {differs}", _advice(path, manifest))


def _advice(path: Path, manifest: ModelManifest | None) -> str:
    if manifest is None:
        return f"The disk may be failing. Copy {path.name} again from where you got it"
    if manifest.name in catalogue() or manifest.repo is not None:
        return f"Download it again: edgeembed pull {manifest.name}:{manifest.type}"
    return f"It was {manifest.source}: install that again with edgeembed pull FILE --name {manifest.name}"
