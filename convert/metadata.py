"""The types of GGUF metadata. Format: ggml's docs/gguf.md, section "Metadata"."""

from __future__ import annotations

MetadataValue = bool | int | float | str | list[str] | list[int] | list[float] | bytes
Metadata = dict[str, MetadataValue]
"""Stored as BOOL, UINT32, FLOAT32, STRING, ARRAY (of INT32, FLOAT32 or STRING) and, for bytes, ARRAY of UINT8."""
