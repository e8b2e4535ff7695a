"""The metadata of a GGUF file, read with the gguf package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf import GGUFReader


def fields(file: Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in GGUFReader(file).fields.items() if not key.startswith("GGUF.")}
