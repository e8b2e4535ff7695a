"""The engine on real llama.cpp, with tiny real GGUF files."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from edgeembed.common.files import FileIdentity
from edgeembed.engine import canary
from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.llama.library import ComputeError, ModelLoadError
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.outputs import unpack
from edgeembed.engine.reading import Reading
from edgeembed.engine.worker_options import WorkerOptions
from tests.convert.tiny_bert import make_tiny_bert
from tests.convert.without_proof import convert_checkpoint
from tests.engine.tiny_qwen3 import CONTEXT, DIMENSIONS, END_OF_TEXT, make_tiny_qwen3
from tests.overwriting import WRITES

pytestmark = pytest.mark.model

TEXTS = ["hello", "hello world", "the quick brown fox", "a" * 40, "search embedding world hello the fox"]


def options(path: Path, **changes: object) -> WorkerOptions:
    base: dict[str, object] = {
        "path": str(path), "threads": 2, "context_tokens": 4096, "batch_tokens": 128, "mode": "cpu", "extra_buffers": True,
    }  # fmt: skip
    return WorkerOptions(**(base | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_qwen3(tmp_path_factory.mktemp("qwen3") / "tiny-qwen3.gguf")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    convert_checkpoint(make_tiny_bert(folder / "checkpoint"), folder / "tiny-bert.gguf", quantization="F32")
    return folder / "tiny-bert.gguf"


def test_info_of_a_causal_model(qwen3: Path) -> None:
    info = LlamaModel(options(qwen3)).info
    assert (info.architecture, info.dimensions, info.context_tokens, info.pooling) == ("qwen3", DIMENSIONS, CONTEXT, "last")


def test_a_text_ends_with_the_special_token_and_names_of_special_tokens_are_text(qwen3: Path) -> None:
    model = LlamaModel(options(qwen3))
    end = model.tokenize("").tolist()
    assert len(end) == 1
    assert model.tokenize("hello").tolist()[-1:] == end
    assert len(model.tokenize("hello")) == 4  # he ll o end
    assert len(model.tokenize(END_OF_TEXT)) == len(END_OF_TEXT) + 1
    assert model.tokenize("a\0b").tolist()[1] == 0


@pytest.mark.parametrize("file", ["qwen3", "bert"])
@pytest.mark.parametrize("extra_buffers", [True, False])
def test_rows_of_a_batch_equal_rows_computed_alone(file: str, extra_buffers: bool, request: pytest.FixtureRequest) -> None:
    model = LlamaModel(options(request.getfixturevalue(file), extra_buffers=extra_buffers))
    tokens = [model.tokenize(text) for text in TEXTS]
    together = model.embed(tokens)
    for text, row in zip(tokens, together, strict=True):
        (alone,) = model.embed([text])
        assert canary.cosine(alone, row) > 0.99999
    # Each text has its own row: no two are alike.
    assert max(canary.cosine(a, b) for i, a in enumerate(together) for b in together[:i]) < 0.999


def test_a_text_longer_than_the_batch_buffer_is_computed_in_pieces(qwen3: Path) -> None:
    text = "the quick brown fox jumps over the lazy dog " * 10
    whole, pieces = LlamaModel(options(qwen3, batch_tokens=512)), LlamaModel(options(qwen3, batch_tokens=64))
    tokens = whole.tokenize(text)
    assert len(tokens) > 400
    (expected,), (row,) = whole.embed([tokens]), pieces.embed([tokens])
    assert canary.cosine(expected, row) > 0.99999
    # The cache of one text does not leak into the next.
    (again,) = pieces.embed([pieces.tokenize("hello")])
    assert canary.cosine(whole.embed([whole.tokenize("hello")])[0], again) > 0.99999


def test_the_setting_limits_the_length_of_texts(qwen3: Path) -> None:
    assert LlamaModel(options(qwen3, context_tokens=100)).info.context_tokens == 100


def test_a_longest_text_is_computed_by_a_non_causal_model(bert: Path) -> None:
    model = LlamaModel(options(bert, batch_tokens=1))
    limit = model.info.context_tokens
    tokens = model.tokenize("hello world " * limit)[:limit]
    (row,) = model.embed([tokens])
    assert np.isfinite(row).all()


@pytest.mark.parametrize(
    ("pooling", "words"), [(None, "pooling_type"), (gguf.PoolingType.RANK, "reranker"), (gguf.PoolingType.NONE, "no vector")]
)
def test_a_file_without_vectors_is_a_fatal_error(pooling: gguf.PoolingType | None, words: str, tmp_path: Path) -> None:
    path = make_tiny_qwen3(tmp_path / "model.gguf", pooling=pooling)
    with pytest.raises(ModelLoadError, match=words) as caught:
        LlamaModel(options(path))
    assert caught.value.fatal


@pytest.mark.skipif(os.name == "nt", reason="Windows has no change time")
@pytest.mark.parametrize("extra_buffers", [True, False])
@pytest.mark.parametrize("write", WRITES)
def test_rows_are_those_of_the_file_that_was_loaded_whatever_happens_to_it(
    write: str, extra_buffers: bool, tmp_path: Path
) -> None:
    file, other = make_tiny_qwen3(tmp_path / "model.gguf"), make_tiny_qwen3(tmp_path / "other.gguf", seed=1)
    model = LlamaModel(options(file, extra_buffers=extra_buffers, file=FileIdentity.of(file)))
    tokens = model.tokenize("a text")
    (before,) = model.embed([tokens])
    WRITES[write](other, file)
    (after,) = model.embed([tokens])
    bulk = model.new_bulk_context()
    (in_bulk,) = bulk.compute([Reading(tokens)])
    bulk.close()
    assert np.array_equal(before, after)
    assert canary.cosine(before, in_bulk) > 0.99999
    assert model.tokenize("a text").tolist() == tokens.tolist()


@pytest.mark.parametrize("model_file", ["bert", "qwen3"])
def test_the_dense_row_of_hidden_states_is_the_pooled_one(model_file: str, request: pytest.FixtureRequest) -> None:
    """One forward pass for several outputs yields the row that other requests get, for texts in pieces, too."""
    model = LlamaModel(options(request.getfixturevalue(model_file)))
    texts = [model.read(text) for text in (*TEXTS, *(["the quick brown fox " * 40] if model_file == "qwen3" else []))]
    context = model.new_states_context()
    try:
        states = context.compute_states(texts)
        alone = [context.compute_states([text])[0] for text in texts]
    finally:
        context.close()
    for text, of_text, by_itself, row in zip(texts, states, alone, model.wide.compute(texts), strict=True):
        assert of_text.shape == (len(text.tokens), model.file.width)
        assert np.allclose(of_text, by_itself, atol=2e-3)
        found = unpack(model.packed_row(of_text, text, ("dense", "tokens"), ""), ("dense", "tokens"))
        assert canary.likeness(found["dense"][0], row, scores=False) > 0.99999
        assert np.array_equal(found["tokens"], of_text)


def test_a_model_without_a_head_for_an_output_says_so(bert: Path) -> None:
    model = LlamaModel(options(bert))
    with pytest.raises(ComputeError, match="no output 'sparse'"):
        model.packed_row(np.ones((2, model.file.width), np.float32), model.read("a"), ("sparse",), "")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes back pages of a block")
def test_no_memory_is_kept_for_logits_that_an_encoder_does_not_have(minilm: Callable[[str], Path]) -> None:
    model = LlamaModel(options(minilm("Q8_0")))
    vocabulary = model.vocabulary.size
    for tokens in (1, 8, model.info.context_tokens):  # the block grows with the largest pass so far
        model.embed([np.ones(tokens, dtype=np.int32)])
        logits = ctypes.cast(lib.llama_get_logits(model.wide._context), ctypes.c_void_p).value
        assert logits is not None
        first, end = -(-logits // mmap.PAGESIZE), (logits + 4 * vocabulary * tokens) // mmap.PAGESIZE
        pages = (ctypes.c_ubyte * max(0, end - first))()
        assert ctypes.CDLL(None).mincore(ctypes.c_void_p(first * mmap.PAGESIZE), len(pages) * mmap.PAGESIZE, pages) == 0
        assert not any(page & 1 for page in pages)
    assert len(pages) * mmap.PAGESIZE > 50 * 2**20
