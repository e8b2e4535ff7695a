"""Read the JSON files of a checkpoint, with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeembed.errors import ConversionError


def read_json(file: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object. Raises ConversionError when it is missing or is anything else."""
    value = read_json_value(file)
    if not isinstance(value, dict):
        raise ConversionError(f"{file}: a JSON object was expected")
    return value


def read_json_value(file: Path) -> Any:
    """Read a file that holds any JSON value. Raises ConversionError when it is missing or not JSON."""
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        raise ConversionError(f"{file}: missing") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise ConversionError(f"{file}: cannot be read: {error}") from error
    return _parse(text, file)


def parse_json(text: bytes, file: Path) -> dict[str, Any]:
    """Parse a JSON object that came from `file`. Raises ConversionError when it is anything else."""
    value = _parse(text, file)
    if not isinstance(value, dict):
        raise ConversionError(f"{file}: a JSON object was expected")
    return value


def _parse(text: bytes, file: Path) -> Any:
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique_keys)
        if b"\\u" in text:
            # Half a surrogate pair is valid JSON, but neither a file name nor a vocabulary can hold it.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{file}: not valid JSON: {error}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that names one key twice: which value holds would be a guess."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} stands there twice")
    return found
