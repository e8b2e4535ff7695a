"""Text generators that are to embed: the pooling is asked for, and written into the installed copy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from gguf import PoolingType

from edgeembed.cli.pull import pull
from edgeembed.cli.show import show
from edgeembed.config.paths import Paths
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.errors import HubError, UnknownModelError
from edgeembed.hub.gguf.header import read_header
from edgeembed.hub.store import Store
from tests.engine.tiny_qwen3 import make_tiny_qwen3
from tests.hub.fakes import FakeHub, leftovers

REPO = "acme/Writer-GGUF"


def run(*arguments: str) -> Result:
    return CliRunner(catch_exceptions=False).invoke(pull, list(arguments))


@pytest.fixture
def generator(tmp_path: Path) -> Path:
    return make_tiny_qwen3(tmp_path / "Writer-F32.gguf", pooling=None)


def rows(path: Path) -> np.ndarray:
    model = LlamaModel(
        WorkerOptions(path=str(path), threads=1, context_tokens=64, batch_tokens=64, mode="cpu", extra_buffers=True)
    )
    try:
        return model.embed([model.tokenize("hello")])[0]
    finally:
        model.close()


@pytest.mark.parametrize(("pooling", "number"), [("last", 3), ("mean", 1)])
@pytest.mark.model
def test_a_text_generator_embeds_with_the_chosen_pooling(
    paths: Paths, tmp_path: Path, generator: Path, pooling: str, number: int
) -> None:
    result = run(str(generator), "--pooling", pooling)
    assert result.exit_code == 0
    assert "it was made for generating text" in result.stderr
    model = Store(paths).find("writer")
    assert model is not None and model.source.endswith(f"with {pooling} pooling as chosen")
    assert read_header(model.path).pooling == number
    assert f"With {pooling} pooling, chosen when it was installed" in CliRunner().invoke(show, ["writer"]).output
    (tmp_path / "other").mkdir()
    other = make_tiny_qwen3(tmp_path / "other" / "x.gguf", pooling=PoolingType(number))
    assert np.allclose(rows(model.path), rows(other), atol=1e-5)
    assert len(leftovers(paths)) == 2


def test_without_a_pooling_it_is_not_installed(paths: Paths, generator: Path) -> None:
    with pytest.raises(HubError, match=r"the model generates text, .* add --pooling last"):
        run(str(generator))
    assert not Store(paths).installed()


def test_a_repository_of_a_text_generator(paths: Paths, hub: FakeHub, generator: Path) -> None:
    hub.files[REPO] = {"Writer-F32.gguf": generator.read_bytes()}
    with pytest.raises(HubError, match="add --pooling last"):
        run(f"hf:{REPO}")
    result = run(f"hf:{REPO}", "--pooling", "mean")
    assert result.exit_code == 0
    model = Store(paths).find("writer")
    assert model is not None and read_header(model.path).pooling == 1
    assert len(leftovers(paths)) == 2
    shown = json.loads(CliRunner().invoke(show, ["writer", "--json"]).output)
    assert shown["installed"][0]["source"].endswith("with mean pooling as chosen")


def test_a_file_that_says_its_pooling_keeps_it(paths: Paths, tmp_path: Path) -> None:
    file = make_tiny_qwen3(tmp_path / "Embedder-F32.gguf")
    said = {1: "mean", 3: "last"}[read_header(file).pooling or 0]
    other = "mean" if said == "last" else "last"
    with pytest.raises(HubError, match=f"the file states {said} pooling; --pooling {other} is for files that state none"):
        run(str(file), "--pooling", other)
    assert run(str(file), "--pooling", said).exit_code == 0


def test_a_model_of_the_catalogue_has_its_own(paths: Paths) -> None:
    with pytest.raises(UnknownModelError, match="has its own pooling"):
        run("all-minilm-l6-v2", "--pooling", "mean")
