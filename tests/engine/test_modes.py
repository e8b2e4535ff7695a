"""A text has the same row however it is computed: with others, after a prefix, in pieces, padded, on a bulk lane."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeembed.engine.canary import cosine, likeness
from edgeembed.engine.context_plan import MOST_PREFIXES
from edgeembed.engine.interface import Pair, Prompted
from edgeembed.engine.llama.library import send_log_to
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.reading import Reading
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed_convert import ConversionOptions, convert_checkpoint
from tests.convert.tiny_qwen3_checkpoint import make_qwen3_checkpoint
from tests.engine.tiny_qwen3 import make_tiny_qwen3

pytestmark = pytest.mark.model

PREFIX = "Instruct: find what answers the question\nQuery:"
QUERIES = ["hello", " the quick brown fox", "a" * 40, "what is the capital of China?", "q"]
DOCUMENTS = ["hello", "the quick brown fox jumps over the lazy dog", "b" * 90, "", "gravity is a force"]


def open_model(path: Path, **changes: Any) -> LlamaModel:
    base: dict[str, Any] = {
        "path": str(path), "threads": 1, "context_tokens": 512, "batch_tokens": 64, "mode": "cpu", "extra_buffers": True,
    }  # fmt: skip
    return LlamaModel(WorkerOptions(**(base | changes)))


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    """llama.cpp's own log would fill a failing test's output."""
    send_log_to(lambda _line: None, verbose=False)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[..., LlamaModel]:
    """Return `open_model` without optimisations: every token is an output, and no cells are shared."""

    def open_plain(path: Path, **changes: Any) -> LlamaModel:
        with monkeypatch.context() as patch:
            patch.setattr("edgeembed.engine.llama.model.find_last_token_reader", lambda *_args, **_kwargs: None)
            model = open_model(path, **changes)
        assert model.plan.wide.prefix_cells == 0
        return model

    return open_plain


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_qwen3(tmp_path_factory.mktemp("qwen3") / "tiny-qwen3.gguf")


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reranker")
    checkpoint = make_qwen3_checkpoint(folder / "tiny", kind="rerank")
    return convert_checkpoint(
        checkpoint, folder / "tiny.gguf", ConversionOptions(quantization="F32", proof=False, task="rerank")
    ).path


def alone(model: LlamaModel, text: str) -> np.ndarray:
    return model.embed([model.tokenize(text)])[0]


# --- decoders ---------------------------------------------------------------------------------------------------------


def test_rows_read_before_the_lm_head_are_the_plain_rows(qwen3: Path, plain: Callable[..., LlamaModel]) -> None:
    short_cut, long_way = open_model(qwen3), plain(qwen3)
    assert short_cut.plan.wide.prefix_cells > 0, "the short cut is taken"
    tokens = [short_cut.tokenize(text) for text in [*QUERIES, "x" * 300]]
    for expected, row in zip(long_way.embed(tokens), short_cut.embed(tokens), strict=True):
        assert cosine(expected, row) > 0.99999
        assert np.linalg.norm(row) == pytest.approx(np.linalg.norm(expected), rel=1e-3)


def test_a_rerankers_scores_behind_its_scaffold_are_the_plain_scores(
    reranker: Path, plain: Callable[..., LlamaModel]
) -> None:
    short_cut, long_way = open_model(reranker, task="rerank"), plain(reranker, task="rerank")
    pairs = [Pair(query, document) for query in QUERIES[:3] for document in DOCUMENTS]
    readings = [short_cut.read(pair) for pair in pairs]
    assert short_cut.plan.wide.prefix_cells > 0
    assert all(reading.shared > 20 for reading in readings)
    expected = long_way.embed([long_way.tokenize_pair(pair) for pair in pairs])
    for computed in (short_cut.wide.compute(readings), short_cut.new_bulk_context().compute(readings)):
        assert min(likeness(a, b, scores=True) for a, b in zip(expected, computed, strict=True)) > 0.999
    assert np.ptp([row[0] for row in expected]) > 1e-3, "or any scores would do"


def test_a_text_behind_a_prefix_has_the_tokens_and_the_row_of_both_in_one(qwen3: Path) -> None:
    model = open_model(qwen3)
    expected = [alone(model, PREFIX + query) for query in QUERIES]
    readings = [model.read(Prompted(PREFIX, query)) for query in QUERIES]
    for query, reading in zip(QUERIES, readings, strict=True):
        assert reading.tokens.tolist() == model.tokenize(PREFIX + query).tolist()
        assert reading.shared > 30
    for _ in range(2):
        together = model.wide.compute(readings)
        one_by_one = [model.wide.compute([reading])[0] for reading in readings]
        for rows in (together, one_by_one):
            assert min(cosine(a, b) for a, b in zip(expected, rows, strict=True)) > 0.99999
    assert model.wide.kept_prefixes == 1


@pytest.mark.parametrize(
    ("prefix", "text", "suffix"), [("abcdefgh", "ello", ""), ("abcdefgh", "", "e"), ("abcdefgh", "", "")]
)
def test_a_prefix_whose_last_character_joins_the_text(qwen3: Path, prefix: str, text: str, suffix: str) -> None:
    """The tiny vocabulary has a piece for "he"."""
    model = open_model(qwen3)
    expected = alone(model, prefix + text + suffix)
    reading = model.read(Prompted(prefix, text, suffix))
    assert reading.shared == (8 if prefix + text + suffix == prefix else 7)
    for _ in range(3):
        assert cosine(expected, model.wide.compute([reading])[0]) > 0.99999


def test_a_prefix_is_kept_once_it_comes_again(qwen3: Path) -> None:
    model = open_model(qwen3)
    reading = model.read(Prompted(PREFIX, "hello"))
    model.wide.compute([reading])
    assert model.wide.kept_prefixes == 0, "most instructions are given once"
    model.wide.compute([reading])
    assert model.wide.kept_prefixes == 1
    other = model.read(Prompted("another " + PREFIX, "hello"))
    model.wide.compute([other, other])
    assert model.wide.kept_prefixes == 2, "two texts at once have it"


@pytest.mark.parametrize("seed", range(4))
def test_cells_never_run_out_and_no_text_sees_anothers(seed: int, qwen3: Path) -> None:
    """More prefixes than fit, batches larger than the buffer, long texts with queries between their pieces."""
    rng = random.Random(seed)
    model = open_model(qwen3, context_tokens=256, prefix_tokens=128)
    reference = open_model(qwen3, context_tokens=256, prefix_tokens=0)
    prefixes = ["".join(rng.choices("abcdefg ", k=rng.randint(10, 150))) for _ in range(2 * MOST_PREFIXES)]
    checked = 0

    def some(most: int, number: int) -> list[Reading]:
        readings = []
        for _ in range(number):
            prefix = rng.choice(prefixes)
            text = "".join(rng.choices("abcdefg ", k=rng.randint(1, most)))
            readings.append(model.read(Prompted(prefix, text)))
            if len(readings[-1].tokens) > 256:
                readings[-1] = model.read(text)
        return readings

    def check(readings: list[Reading], rows: np.ndarray) -> None:
        nonlocal checked
        for reading, row in zip(readings, rows, strict=True):
            assert cosine(reference.embed([reading.tokens])[0], row) > 0.9999
            checked += 1

    def between() -> None:
        queries = [reading for reading in some(20, rng.randint(1, 20)) if len(reading.tokens) <= model.wide.shape.batch]
        check(queries, model.wide.compute(queries))

    for _ in range(12):
        readings = some(100, rng.randint(1, 8))
        check(readings, model.wide.compute(readings, between))
    assert checked > 80
    assert 0 < model.wide.kept_prefixes <= MOST_PREFIXES


# --- all models -------------------------------------------------------------------------------------------------------


def test_a_bulk_lanes_rows_are_the_wide_ones(qwen3: Path) -> None:
    model = open_model(qwen3, context_tokens=256)
    bulk = model.new_bulk_context()
    tokens = [Reading(model.tokenize(text)) for text in [*QUERIES, "x" * 200]]
    for a, b in zip(model.wide.compute(tokens), bulk.compute(tokens), strict=True):
        assert cosine(a, b) > 0.99999
    bulk.close()


WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "nine", "wizards", "brew", "potent"]


@pytest.mark.slow
@pytest.mark.parametrize(("quantization", "least"), [("F32", 0.9999), ("F16", 0.9999), ("Q8_0", 0.9995), ("Q4_0", 0.9995)])
def test_the_real_minilm_gives_a_text_one_row_in_every_mode(
    quantization: str, least: float, minilm: Callable[[str], Path]
) -> None:
    rng = random.Random(0)
    path = minilm(quantization)
    plain = open_model(path, pad_from_tokens=0, extra_buffers=False)
    texts = [" ".join(rng.choices(WORDS, k=count)) for count in (3, 4, 5, 9, 14, 22, 30, 38, 45, 55, 60, 62, 100, 400)]
    tokens = [plain.tokenize(text) for text in texts]
    single = [plain.embed([text])[0] for text in tokens]
    for options in ({"pad_from_tokens": 0}, {"pad_from_tokens": 1}, {}):
        model = open_model(path, **options)
        for context in (model.wide, model.new_bulk_context()):
            one_by_one = [context.compute([Reading(text)])[0] for text in tokens]
            in_pairs = [row for at in range(0, 14, 2) for row in context.compute([Reading(t) for t in tokens[at : at + 2]])]
            together = context.compute([Reading(text) for text in tokens])
            for rows in (one_by_one, in_pairs, together):
                assert min(cosine(a, b) for a, b in zip(single, rows, strict=True)) >= least, options
            context.close()
