"""Models in several files, in the format of llama.cpp's llama-gguf-split."""

from __future__ import annotations

from pathlib import Path

from tests.hub.gguf.parts import Gguf, Pair, read, write

UINT16, INT32 = 2, 5


def split(file: Path, count: int, *, empty_first: bool = False) -> list[Path]:
    """Write the parts of a model beside it, and return them. empty_first: the first part has no tensors."""
    whole = read(file.read_bytes())
    tensors = list(whole.tensors)
    at = 1 if empty_first else 0
    share = -(-len(tensors) // (count - at))
    shares = [tensors[number * share : (number + 1) * share] for number in range(count - at)]
    paths = []
    for number, own in enumerate([[], *shares] if empty_first else shares):
        keys = [
            Pair(b"split.no", UINT16, number), Pair(b"split.count", UINT16, count),
            Pair(b"split.tensors.count", INT32, len(tensors)),
        ]  # fmt: skip
        pairs = [*(whole.pairs if number == 0 else []), *keys]
        path = file.with_name(f"{file.stem}-{number + 1:05}-of-{count:05}.gguf")
        path.write_bytes(write(Gguf(pairs, own, whole.version, whole.alignment)))
        paths.append(path)
    return paths
