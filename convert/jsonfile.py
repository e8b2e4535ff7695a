"""Read the JSON files of a checkpoint, with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeembed.errors import ConversionError

POINTER_BYTES = 64
_POINTER = b"version https://git-lfs."


def refuse_pointer(start: bytes, file: Path) -> None:
    """Raise ConversionError if a file is one of Git LFS, which stands for the real one. start: its first POINTER_BYTES."""
    if start.startswith(_POINTER):
        raise ConversionError(
            f"{file}: not the file itself, but a pointer of Git LFS to it: run `git lfs pull` in the repository's folder"
        )


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises ConversionError if the file is missing or holds anything else."""
    value = read_json_value(file)
    if not isinstance(value, dict):
        raise ConversionError(f"{file}: expected a JSON object")
    return value


def read_json_value(file: Path) -> Any:
    """Return the JSON value in a file. Raises ConversionError if the file is missing or not JSON."""
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        raise ConversionError(f"{file}: missing") from None
    except (OSError, ValueError) as error:  # ValueError: an impossible file name
        raise ConversionError(f"{file}: cannot be read: {error}") from error
    refuse_pointer(text, file)
    return _parse(text, file)


def parse_json(text: bytes, file: Path) -> dict[str, Any]:
    """Return the JSON object that was read from `file`. Raises ConversionError for anything else."""
    value = _parse(text, file)
    if not isinstance(value, dict):
        raise ConversionError(f"{file}: expected a JSON object")
    return value


def _parse(text: bytes, file: Path) -> Any:
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique_keys)
        if b"\\u" in text:
            # An unpaired surrogate is valid JSON, but neither file names nor vocabularies can contain it.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{file}: not valid JSON: {error}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object. Raises ValueError for a duplicate key: which value was meant would be a guess."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate key {twice!r}")
    return found
