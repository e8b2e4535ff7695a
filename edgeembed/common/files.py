"""Small JSON files that are replaced in one step."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import msgspec


def write_atomically(path: Path, value: Any) -> None:
    """Write a value as JSON, one key a line; whoever reads sees the old file or the new one. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are for their owner alone, while models may be shared.
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        beside.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=1))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
