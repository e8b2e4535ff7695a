"""Installs models in the store of a test's home."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path

from edgeembed.config.paths import Paths
from edgeembed.hub.digests import sha256_of
from edgeembed.hub.manifest import ModelManifest
from edgeembed.hub.store import Store


def install(home: Path, name: str, type_: str, file: Path) -> None:
    store = Store(Paths.resolve({"EDGEEMBED_HOME": str(home)}))
    target = store.file(name, type_)
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(shutil.copy(file, target.with_suffix(".staged")))
    status = staged.stat()
    store.add(
        staged,
        ModelManifest(
            name=name,
            type=type_,
            sha256=sha256_of(staged),
            size_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            source="a test",
            installed_at=datetime.datetime.now(datetime.UTC).isoformat(),
        ),
    )
