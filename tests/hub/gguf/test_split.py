"""Models in several files: joined, they are the model that llama.cpp loads from its parts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.errors import HubError
from edgeembed.hub.gguf.check import check_gguf
from edgeembed.hub.gguf.split import join_parts, parts_beside, parts_of, whole_name
from tests.convert.tiny_bert import make_tiny_bert
from tests.convert.without_proof import convert_checkpoint
from tests.hub.gguf.parts import STRING, read, write
from tests.hub.gguf.splitting import split


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return convert_checkpoint(make_tiny_bert(tmp_path / "tiny"), tmp_path / "m-Q8_0.gguf", quantization="Q8_0").path


def ignore(_done: int, _total: int) -> None:
    pass


def row(path: Path) -> np.ndarray:
    options = WorkerOptions(
        path=str(path), threads=1, context_tokens=64, batch_tokens=64, mode="cpu", extra_buffers=True
    )  # fmt: skip
    model = LlamaModel(options)
    try:
        return model.embed([model.tokenize("hello")])[0]
    finally:
        model.close()


@pytest.mark.model
@pytest.mark.parametrize(("count", "empty_first"), [(1, False), (3, False), (2, True)])
def test_the_joined_file_is_the_model_of_the_parts(tmp_path: Path, whole: Path, count: int, empty_first: bool) -> None:
    parts = split(whole, count, empty_first=empty_first)
    seen: list[tuple[int, int]] = []
    digest = join_parts(parts, tmp_path / "joined.gguf", lambda *step: seen.append(step))
    joined = (tmp_path / "joined.gguf").read_bytes()
    assert digest == hashlib.sha256(joined).hexdigest()
    assert joined == whole.read_bytes()
    assert seen[-1][0] == seen[-1][1] > 0
    check_gguf(tmp_path / "joined.gguf")
    if not empty_first:
        assert np.array_equal(row(tmp_path / "joined.gguf"), row(parts[0]))


def test_a_part_alone_is_refused_with_the_command(whole: Path) -> None:
    parts = split(whole, 2)
    with pytest.raises(HubError, match=r"one of 2 parts of a model\. Install them as one file: edgeembed pull"):
        check_gguf(parts[0])


def test_a_missing_part_is_named(whole: Path) -> None:
    parts = split(whole, 3)
    parts[1].unlink()
    with pytest.raises(HubError, match=r"one of 3 parts of a model, of which .* lacks m-Q8_0-00002-of-00003\.gguf"):
        parts_beside(parts[2])


def truncate(parts: list[Path]) -> None:
    parts[1].write_bytes(parts[1].read_bytes()[:-64])


def swap(parts: list[Path]) -> None:
    first, second = (part.read_bytes() for part in parts[1:])
    parts[1].write_bytes(second)
    parts[2].write_bytes(first)


def repeat(parts: list[Path]) -> None:
    file, again = read(parts[1].read_bytes()), read(parts[2].read_bytes())
    again.tensors = file.tensors
    parts[2].write_bytes(write(again))


def lie(parts: list[Path]) -> None:
    file = read(parts[0].read_bytes())
    file.put("split.count", STRING, b"three")
    parts[0].write_bytes(write(file))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (truncate, "damaged or incomplete"),
        (swap, "says that it is part 2 of 3, expected 1 of 3"),
        (repeat, "tensors, but .* are expected"),
        (lie, "says that it is part 0 of 'three'"),
    ],
)
def test_parts_that_do_not_belong_together(
    tmp_path: Path, whole: Path, change: Callable[[list[Path]], None], message: str
) -> None:
    parts = split(whole, 3)
    change(parts)
    with pytest.raises(HubError, match=message):
        join_parts(parts, tmp_path / "joined.gguf", ignore)


@pytest.mark.parametrize(
    ("name", "count", "without"),
    [
        ("m-00001-of-00003.gguf", 3, "m.gguf"),
        ("a/m-Q8_0-00002-of-00002.GGUF", 2, "a/m-Q8_0.gguf"),
        ("m.gguf", 0, "m.gguf"),
        ("m-00001-of-00000.gguf", 0, "m.gguf"),
        ("m-00001-of-99999.gguf", 0, "m.gguf"),
    ],
)
def test_names_of_parts(name: str, count: int, without: str) -> None:
    assert len(parts_of(name)) == count
    assert whole_name(name) == without
