"""Test doubles for a GGUF file, a wheel and the converter; the model hub is in `fake_hub`."""

from __future__ import annotations

import dataclasses
import random
import struct
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edgeembed.config.paths import Paths
from edgeembed_convert import ConversionOptions
from tests.hub.fake_hub import COMMIT, FakeHub
from tests.waiting import SECONDS

__all__ = ["COMMIT", "FakeConverter", "FakeHub", "gguf_bytes", "make_wheel", "model_bytes"]


def gguf_bytes(**values: str | int | list[str]) -> bytes:
    """Return a GGUF file without tensors; keys are written with `__` for a dot."""
    body = struct.pack("<IQQ", 3, 0, len(values))
    for key, value in values.items():
        body += _string(key.replace("__", "."))
        if isinstance(value, str):
            body += struct.pack("<I", 8) + _string(value)
        elif isinstance(value, int):
            body += struct.pack("<II", 4, value)
        else:
            body += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_string(item) for item in value)
    return b"GGUF" + body


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def model_bytes(size: int = 4_000, *, pooling: int = 1, tensor: str = "position_embd.weight", **values: str | int) -> bytes:
    """Return a GGUF file of about `size` bytes that passes the check: a BERT with one layer and random weights."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    keys: dict[str, str | int | list[str]] = {
        "general__architecture": "bert",
        "general__file_type": 7,
        "bert__block_count": 1,
        "bert__context_length": 64,
        "bert__embedding_length": 8,
        "bert__feed_forward_length": 8,
        "bert__attention__head_count": 1,
        "bert__pooling_type": pooling,
        "tokenizer__ggml__model": "bert",
        "tokenizer__ggml__tokens": words,
        **{f"tokenizer__ggml__{name}_token_id": index for index, name in enumerate(("padding", "unknown", "cls"))},
        "tokenizer__ggml__bos_token_id": 2,
        "tokenizer__ggml__seperator_token_id": 3,
        "tokenizer__ggml__eos_token_id": 3,
        **values,
    }
    shapes = {"token_embd.weight": (8, len(words)), "blk.0.attn_q.weight": (8, 8)}
    if pooling == 4:
        shapes["cls.output.weight"] = (8, 1)
    known = sum(4 * rows * columns for rows, columns in shapes.values())
    shapes[tensor] = (8, max(1, (size - known - len(gguf_bytes(**keys)) - 300) // 32))
    infos, offset = b"", 0
    for name, (rows, columns) in shapes.items():
        infos += _string(name) + struct.pack("<IQQIQ", 2, rows, columns, 0, offset)
        offset += 4 * rows * columns
    head = gguf_bytes(**keys)
    head = head[:8] + struct.pack("<Q", len(shapes)) + head[16:] + infos
    return head + bytes(-len(head) % 32) + random.Random(size).randbytes(offset)


def make_wheel(folder: Path, package: str, version: str, files: dict[str, bytes]) -> Path:
    """Write a wheel that pip downloads, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{package.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    files = {
        **files,
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode(),
        f"{stem}.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{stem}.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


class FakeConverter:
    """`convert_checkpoint` without the work; records its calls."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.gate = threading.Event()
        """Cleared to let conversions hang."""
        self.gate.set()

    def __call__(
        self, source: Path, target: Path, options: ConversionOptions, progress: Callable[[int, int], None]
    ) -> SimpleNamespace:
        self.calls.append({"source": source, "target": target, **dataclasses.asdict(options)})
        assert any(source.glob("model.safetensors")) or any(source.glob("pytorch_model*.bin"))
        assert self.gate.wait(SECONDS)
        progress(1, 1)
        target.write_bytes(model_bytes(general__name=options.name or "converted"))
        return SimpleNamespace(path=target, fallbacks=["2 tensors are F16"], notes=[])


WEIGHTS = b"weights of a small model"


DEFAULT_FILE = model_bytes(40_230, general__name="Tiny default")


DEFAULT_REPO, STARTER_REPO = "acme/default-GGUF", "acme/starter"


def leftovers(paths: Paths) -> list[str]:
    """Return the names of all files below the models' folder except locks; a failed pull must leave none."""
    return [path.name for path in paths.models.rglob("*") if path.is_file() and path.suffix != ".lock"]
