"""Ways in which a file gets another content, or a folder goes away, while something else reads it; a model file for it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest


def make_other(file: Path, target: Path) -> Path:
    """Write a file of the same size whose first and last layers changed places, without canary rows; return `target`."""
    content = bytearray(file.read_bytes())
    reader = gguf.GGUFReader(file)
    tensors = {tensor.name: (tensor.data_offset, tensor.n_bytes) for tensor in reader.tensors}
    last = max(int(name.split(".")[1]) for name in tensors if name.startswith("blk."))
    for name, (at, size) in tensors.items():
        if name.startswith("blk.0."):
            there, _ = tensors[name.replace("blk.0.", f"blk.{last}.")]
            content[at : at + size], content[there : there + size] = content[there : there + size], content[at : at + size]
    target.write_bytes(bytes(content).replace(b"edgeembed.canary", b"edgeembed.nanary"))
    return target


def overwrite(source: Path, target: Path) -> None:
    """As `cp source target`: the same inode, emptied and written."""
    shutil.copyfile(source, target)


def overwrite_with_its_times(source: Path, target: Path) -> None:
    """As `cp`, then `touch` with the times that the file had."""
    status = target.stat()
    shutil.copyfile(source, target)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def overwrite_in_place(source: Path, target: Path) -> None:
    """As `dd conv=notrunc`, with the times kept: neither size nor modification time changes."""
    status = target.stat()
    with target.open("r+b") as file:
        file.write(source.read_bytes())
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def overwrite_half(source: Path, target: Path) -> None:
    """The second half alone, where most weights are."""
    content = source.read_bytes()
    with target.open("r+b") as file:
        file.seek(len(content) // 2)
        file.write(content[len(content) // 2 :])


def rename_over(source: Path, target: Path) -> None:
    """As package managers and `mv` do: another inode."""
    staged = target.with_suffix(".new")
    shutil.copyfile(source, staged)
    staged.replace(target)


def truncate(_source: Path, target: Path) -> None:
    """A copy that stops halfway."""
    os.truncate(target, target.stat().st_size // 2)


WRITES: dict[str, Callable[[Path, Path], None]] = {
    write.__name__: write
    for write in (overwrite, overwrite_with_its_times, overwrite_in_place, overwrite_half, rename_over, truncate)
}

NO_MODEL = ("overwrite_half", "truncate")
"""What these leave of a file with canary rows cannot be served."""


def removed_when_listed(folder: Path, aside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another process move a folder to `aside` just before it is listed."""
    real = os.scandir

    def scandir(path: str | os.PathLike[str]) -> object:
        if Path(path) == folder and folder.exists():
            folder.rename(aside)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
