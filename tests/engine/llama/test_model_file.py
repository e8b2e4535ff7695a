"""A model file that llama.cpp has loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from edgeembed.common.files import FileIdentity
from edgeembed.engine.llama.library import ModelLoadError
from edgeembed.engine.llama.model import load_libraries
from edgeembed.engine.llama.model_file import ModelFile
from edgeembed.engine.worker_options import WorkerOptions
from tests.engine.tiny_qwen3 import CONTEXT, DIMENSIONS, make_tiny_qwen3
from tests.overwriting import WRITES
from tests.waiting import until

pytestmark = pytest.mark.model


def load(path: Path, **changes: Any) -> ModelFile:
    base: dict[str, Any] = {
        "path": str(path), "threads": 2, "context_tokens": 4096, "batch_tokens": 128, "mode": "cpu", "extra_buffers": True,
    }  # fmt: skip
    options = WorkerOptions(**(base | changes))
    load_libraries(options)
    return ModelFile(options)


def test_metadata_of_the_options_is_used_instead_of_the_files(tmp_path: Path) -> None:
    path = make_tiny_qwen3(tmp_path / "model.gguf")
    file = load(path, metadata={"general.name": "x" * 100, "qwen3.attention.causal": False})
    assert (file.metadata("general.name"), file.metadata("qwen3.attention.causal")) == ("x" * 100, "false")
    assert (file.metadata("general.architecture"), file.metadata("no.such.key")) == ("qwen3", None)
    assert not file.facts("last", 10, own_attention=False).pieces, "only texts of causal models are computed in pieces"
    file.close()
    file = load(path)
    facts = file.facts("last", 10, own_attention=True)
    assert (facts.pieces, facts.trained_tokens, facts.width, facts.vocabulary) == (True, CONTEXT, DIMENSIONS, 10)
    assert (file.type, file.width, file.row_width) == ("all F32", DIMENSIONS, DIMENSIONS)
    file.close()


def test_a_file_that_is_no_model_cannot_be_loaded(tmp_path: Path) -> None:
    path = tmp_path / "junk.gguf"
    path.write_bytes(b"junk" * 100)
    with pytest.raises(ModelLoadError, match="cannot load"):
        load(path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no change time")
@pytest.mark.parametrize("write", WRITES)
def test_a_file_that_was_written_to_since_its_digest_was_taken_is_not_used(write: str, tmp_path: Path) -> None:
    file, other = make_tiny_qwen3(tmp_path / "model.gguf"), make_tiny_qwen3(tmp_path / "other.gguf", seed=1)
    until(lambda: not FileIdentity.of(file).unsettled_seconds)  # before that a write might not show
    hashed = FileIdentity.of(file)
    WRITES[write](other, file)
    with pytest.raises(ModelLoadError, match="written to or replaced") as caught:
        load(file, file=hashed)
    assert (caught.value.cause, caught.value.fatal) == ("replaced", False)
