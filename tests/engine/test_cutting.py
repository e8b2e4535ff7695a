"""Truncation with real tokenizers: an embedder with byte-level BPE, and rerankers of both families."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from edgeembed.engine.canary import cosine
from edgeembed.engine.interface import BULK, Limits, Pair, Prompted, Side
from edgeembed.engine.ipc.messages import EmbedItem, Failed, RowItem
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.reading import common
from edgeembed.engine.text_sizes import tokens_at_most
from edgeembed.engine.worker.reader import CutReading, TextReader
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed_convert import ConversionOptions, convert_checkpoint
from tests.convert.tiny_encoders import make_tiny_cross_encoder, make_tiny_xlm_roberta_reranker
from tests.convert.tiny_qwen3_checkpoint import make_qwen3_checkpoint
from tests.engine.tiny_qwen3 import make_tiny_qwen3
from tests.engine.worker.worker_process import answers, start, wait_until_ready, worker_options

pytestmark = pytest.mark.model

PREFIX = "Instruct: find it\nQuery:"
TEXT = "hello, hell is full of hellish shells; " * 30
"""Holds the two pairs of letters that the tiny vocabulary has tokens for."""


def test_a_truncated_text_has_the_row_of_its_remaining_tokens(tmp_path: Path) -> None:
    path = make_tiny_qwen3(tmp_path / "tiny.gguf")
    model = LlamaModel(worker_options(path))
    limits = [Limits(most, side) for most in (0, 100) for side in ("end", "start")]
    items = [EmbedItem(id_, Prompted(PREFIX, TEXT, "", each), BULK, False) for id_, each in enumerate(limits)]
    items.append(EmbedItem(100, Prompted(PREFIX, "", "", ids=model.tokenize("hello").tobytes()), BULK, False))
    items.append(EmbedItem(101, Prompted("", "", "", ids=np.array([5000], dtype=np.int32).tobytes()), BULK, False))
    items.append(EmbedItem(102, Prompted(PREFIX, TEXT, "", Limits(10, "end")), BULK, False))
    with start(path) as process:
        wait_until_ready(process)
        found, _ = answers(process, items)
    full = len(model.tokenize(PREFIX + TEXT))
    prompt, text = model.tokenize(PREFIX)[:-1], model.tokenize(TEXT)
    for id_, each in enumerate(limits):
        most = each.most or model.info.context_tokens
        room = most - len(prompt) - 1
        own = text[:-1][:room] if each.cut == "end" else text[:-1][-room:]
        row = found[id_]
        assert isinstance(row, RowItem)
        assert (row.tokens, row.full) == (most, full)
        (by_hand,) = model.embed([np.concatenate([prompt, own, text[-1:]])])
        assert cosine(np.frombuffer(row.vector, dtype=np.float32), by_hand) > 0.9999
    row = found[100]
    assert isinstance(row, RowItem) and row.full == 0
    (by_hand,) = model.embed([model.tokenize(PREFIX + "hello")])
    assert cosine(np.frombuffer(row.vector, dtype=np.float32), by_hand) > 0.9999
    for id_, kind in ((101, "bad_ids"), (102, "no_room")):
        failed = found[id_]
        assert isinstance(failed, Failed) and failed.kind == kind


RERANKERS = {
    "cross_encoder": make_tiny_cross_encoder,
    "xlm_roberta": make_tiny_xlm_roberta_reranker,
    "qwen3": partial(make_qwen3_checkpoint, kind="rerank"),
}


@pytest.mark.parametrize("name", RERANKERS)
@pytest.mark.parametrize("side", ["end", "start"])
def test_a_pair_keeps_its_query_and_its_template(name: str, side: Side, tmp_path: Path) -> None:
    model = reranker(name, tmp_path)
    reader = TextReader(model, context_tokens=model.info.context_tokens, vocabulary=model.vocabulary.size)
    pair = Pair("what is rain", "a b c d " * 20)
    whole, scaffold = model.read(pair).tokens, model.read(Pair("what is rain", "")).tokens
    most = len(scaffold) + 20
    reading = reader.read_within(Pair(pair.query, pair.document, None, Limits(most, side)))
    assert isinstance(reading, CutReading)
    assert (len(reading.tokens), reading.full) == (most, len(whole))
    first = int(np.flatnonzero(scaffold != whole[: len(scaffold)])[0])
    last = len(scaffold) - first
    assert scaffold[first:].tolist() == whole[-last:].tolist()
    assert reading.tokens[:first].tolist() == whole[:first].tolist()
    assert reading.tokens[-last:].tolist() == whole[-last:].tolist()
    kept = reading.tokens[first:-last]
    own = whole[first:-last]
    assert kept.tolist() == (own[: len(kept)] if side == "end" else own[-len(kept) :]).tolist()
    short = reader.read_within(Pair(pair.query, pair.document, None, Limits(5, side, own=True)))
    assert len(short.tokens) - first - last == 5


ROOM = 40
"""Tokens for query and document together."""
SHARES = [((120, 800), (20, 20)), ((800, 120), (20, 20)), ((12, 800), (12, 28)), ((800, 12), (28, 12)), ((38, 6), (34, 6))]
"""Tokens of a query and of its document, and how many of them are left of each."""


@pytest.mark.parametrize("name", RERANKERS)
@pytest.mark.parametrize("side", ["end", "start"])
def test_the_longer_one_of_a_pair_is_truncated_first(name: str, side: Side, tmp_path: Path) -> None:
    model = reranker(name, tmp_path)
    reader = TextReader(model, context_tokens=model.info.context_tokens, vocabulary=model.vocabulary.size)
    empty = model.read(Pair("", "")).tokens
    before, behind = (
        common(empty[::step], model.read(pair).tokens[::step]) for step, pair in ((1, Pair("a", "")), (-1, Pair("", "a")))
    )
    between = empty[before : len(empty) - behind]
    for (query_tokens, document_tokens), (of_query, of_document) in SHARES:
        query, document = _letters("a b ", model, query_tokens), _letters("e f ", model, document_tokens)
        whole = model.read(Pair(query, document)).tokens
        parts = [before, query_tokens, len(between), document_tokens, behind]
        assert len(whole) == sum(parts)
        head, own, middle, text, tail = np.split(whole, np.cumsum(parts)[:-1])
        kept = [own[:of_query], text[:of_document]] if side == "end" else [own[-of_query:], text[-of_document:]]
        limits = Limits(len(empty) + ROOM, side, query=True)
        reading = reader.read_within(Pair(query, document, None, limits))
        assert isinstance(reading, CutReading)
        assert reading.full == len(whole)
        assert reading.tokens.tolist() == np.concatenate([head, kept[0], middle, kept[1], tail]).tolist()


def _letters(two: str, model: LlamaModel, tokens: int) -> str:
    """Return a text of so many tokens."""
    text = two * tokens
    while len(model.read(Pair("", text)).tokens) - len(model.read(Pair("", "")).tokens) > tokens:
        text = text[:-1]
    return text


HARD_TO_GUESS = [
    "ﷺ" * 50,
    "한글" * 50,
    "İstanbul" * 20,
    "e\u0301" * 100,
    "🙂👍🏽" * 30,
    "漢字かな" * 50,
    " " * 100,
    "a-b.c" * 40,
    "½㎏" * 50,
]


@pytest.mark.parametrize("name", RERANKERS)
def test_the_upper_bound_of_tokens_holds(name: str, tmp_path: Path) -> None:
    model = reranker(name, tmp_path)
    for text in [*HARD_TO_GUESS, "ﷺ" * 5000]:
        assert len(model.tokenize(text)) <= tokens_at_most(text)
        pair = Pair("what is rain", text)
        assert len(model.tokenize_pair(pair)) <= tokens_at_most(pair)


def reranker(name: str, folder: Path) -> LlamaModel:
    checkpoint = RERANKERS[name](folder / "tiny")
    path = convert_checkpoint(
        checkpoint, folder / "tiny.gguf", ConversionOptions(quantization="F32", proof=False, task="rerank")
    ).path
    return LlamaModel(
        WorkerOptions(
            path=str(path), threads=1, context_tokens=4096, batch_tokens=64, mode="cpu", extra_buffers=True, task="rerank"
        )
    )
