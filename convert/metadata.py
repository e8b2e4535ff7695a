"""The values of GGUF keys, as the families give them to the writer. Format: ggml's docs/gguf.md, section "Metadata"."""

from __future__ import annotations

MetadataValue = bool | int | float | str | list[str] | list[int] | list[float] | bytes
Metadata = dict[str, MetadataValue]
"""A bool becomes BOOL, an int UINT32, a float FLOAT32, a str STRING, a list an ARRAY (of INT32, FLOAT32 or STRING), bytes
an ARRAY of UINT8."""
