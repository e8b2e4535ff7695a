"""The manifest beside an installed model: what was installed, and where it came from."""

from __future__ import annotations

import msgspec

from edgeembed.hub.facts import GgufFacts


class ModelManifest(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON file beside an installed model. Keys of newer versions are ignored, so that a downgrade works."""

    name: str
    type: str
    sha256: str
    size_bytes: int
    mtime_ns: int
    source: str
    license: str | None = None
    converted_by: str | None = None
    """Program and version that converted the file; None for a file that was downloaded or copied."""
    notes: list[str] = []
    """Remarks of the converter, such as tensors that have another type."""
    installed_at: str
    """ISO 8601, UTC."""
    repo: str | None = None
    """On the model hub; None for a file from elsewhere."""
    revision: str | None = None
    """The repository's commit."""
    file: str | None = None
    """The GGUF file in the repository; None for a converted checkpoint."""
    facts: GgufFacts | None = None
    """From the file's metadata, kept here because a header with a large vocabulary takes long to read."""
