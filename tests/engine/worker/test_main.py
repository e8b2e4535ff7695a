"""The worker's end of the pipe, and how a worker exits."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeembed.engine.canary import cosine
from edgeembed.engine.interface import BULK, INTERACTIVE, Prompted, Text
from edgeembed.engine.ipc.messages import (
    LENGTH_BYTES,
    ComputedRows,
    Embed,
    EmbedItem,
    Failed,
    FromWorker,
    RowItem,
    Stage,
    frame,
    frame_length,
    from_worker_decoder,
)
from edgeembed.engine.ipc.pipe import Pipe
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.supervisor.process import WORKER_COMMAND
from edgeembed_convert import ConversionOptions, convert_checkpoint
from tests.convert.tiny_bert import make_tiny_bert
from tests.engine.tiny_qwen3 import make_tiny_qwen3
from tests.engine.worker.worker_process import answers, start, wait_until_ready, worker_options

pytestmark = pytest.mark.model


def messages(raw: bytes) -> Iterator[FromWorker]:
    at = 0
    while at < len(raw):
        end = at + LENGTH_BYTES + frame_length(raw[at : at + LENGTH_BYTES])
        yield from_worker_decoder.decode(raw[at + LENGTH_BYTES : end])
        at = end


def test_messages_arrive_in_the_order_in_which_they_were_sent() -> None:
    sink = io.BytesIO()
    pipe = Pipe(io.BytesIO(), sink)
    for number in range(500):
        pipe.send_now(Stage(str(number)))
        pipe.send(ComputedRows([]))
    pipe.finish()
    assert [type(message) for message in messages(sink.getvalue())] == [Stage, ComputedRows] * 500


def test_an_incomplete_message_ends_the_stream() -> None:
    whole = frame(Embed([EmbedItem(1, "text", BULK, False)]))
    (message,) = Pipe(io.BytesIO(whole), io.BytesIO()).read()
    assert isinstance(message, Embed)
    for length in range(len(whole)):
        assert Pipe(io.BytesIO(whole[:length]), io.BytesIO()).read() == []


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    return make_tiny_qwen3(tmp_path / "tiny.gguf")


@pytest.fixture
def worker(model_file: Path) -> Iterator[subprocess.Popen[bytes]]:
    with start(model_file) as process:
        yield process


@pytest.mark.parametrize("given", [True, False])
def test_a_worker_has_a_reference_from_its_file_or_from_when_it_loaded_it(given: bool, tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    file = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", ConversionOptions(quantization="F32", proof=given)).path
    with start(file) as process:
        reference = wait_until_ready(process).reference
        assert reference is not None and reference.given is given
        answer = answers(process, [EmbedItem(1, reference.text, INTERACTIVE, False)])[0][1]
    assert isinstance(answer, RowItem)
    row, expected = (np.frombuffer(one, dtype=np.float32) for one in (answer.vector, reference.row))
    assert cosine(row, expected) > 0.9999 > reference.least


WITHOUT_MEMORY_FOR_LANES = """
import sys
from edgeembed.engine.worker import main as worker
from edgeembed.engine.llama.library import ModelLoadError
from edgeembed.engine.llama.model import LlamaModel
def refuse(self):
    raise ModelLoadError("no memory", fatal=False)
LlamaModel.new_bulk_context = refuse
worker.main(sys.argv)
"""


@pytest.mark.parametrize("memory", [True, False])
def test_every_text_gets_its_own_row_whichever_lane_computes_it(model_file: Path, memory: bool) -> None:
    """Queries, prompted queries, bulk texts and texts in pieces at the same time."""
    texts: list[Text] = []
    for number in range(60):
        texts += [f"text {number}", Prompted("Instruct: find it\nQuery:", f"{number}"), "long " * (number % 7 * 13)]
    items = [EmbedItem(id_, text, (INTERACTIVE, BULK)[id_ // 3 % 2], False) for id_, text in enumerate(texts)]
    items += [EmbedItem(1000, "x" * 600, BULK, False), EmbedItem(1001, "alone", INTERACTIVE, True)]
    command = WORKER_COMMAND if memory else (sys.executable, "-c", WITHOUT_MEMORY_FOR_LANES)
    with start(model_file, command) as process:
        wait_until_ready(process)
        found, _ = answers(process, items)
    too_long = found.pop(1000)
    assert isinstance(too_long, Failed) and (too_long.kind, too_long.tokens, too_long.limit) == ("too_long", 601, 512)
    model = LlamaModel(worker_options(model_file))
    for item in items:
        if item.id in found:
            row = found[item.id]
            assert isinstance(row, RowItem), row
            text = item.text.prefix + item.text.text if isinstance(item.text, Prompted) else item.text
            assert isinstance(text, str)
            tokens = model.tokenize(text)
            assert row.tokens == len(tokens)
            assert cosine(np.frombuffer(row.vector, dtype=np.float32), model.embed([tokens])[0]) > 0.9999
    assert len(found) == len(items) - 1


def test_bulk_texts_share_batches(worker: subprocess.Popen[bytes]) -> None:
    wait_until_ready(worker)
    _, batches = answers(worker, [EmbedItem(id_, f"text {id_}", BULK, False) for id_ in range(300)])
    assert batches < 300 * 9 / 64 * 2, "texts of about 9 tokens, 64 in a batch"


def test_a_daemon_that_dies_in_the_middle_of_a_message_leaves_no_worker(worker: subprocess.Popen[bytes]) -> None:
    wait_until_ready(worker)
    assert worker.stdin is not None
    worker.stdin.write(frame(Embed([EmbedItem(1, "text " * 1000, BULK, False)]))[:-100])
    worker.stdin.close()
    assert worker.wait(10) == 0


def test_a_worker_that_cannot_decode_a_message_exits_with_the_reason(worker: subprocess.Popen[bytes]) -> None:
    wait_until_ready(worker)
    assert worker.stdin is not None and worker.stderr is not None
    worker.stdin.write(b"\x03\0\0\0\xc1\xc1\xc1")
    worker.stdin.flush()
    assert worker.wait(10) == 1
    assert b"DecodeError" in worker.stderr.read()


@pytest.mark.parametrize("splitter", ["gpt-4o", "granite-embed-multi-97m", "qwen2"])
def test_no_run_of_characters_is_too_long_for_a_tokenizer(splitter: str, tmp_path: Path) -> None:
    """Some of llama.cpp's pre-tokenizers recurse for each character of a run: 60,000 letters ended the process."""
    with start(make_tiny_qwen3(tmp_path / "tiny.gguf", splitter=splitter)) as process:
        context = wait_until_ready(process).context_tokens
        texts = [letter * 60_000 for letter in ("a", "A", "!", " ", "\n", "中", "1")]
        items = [EmbedItem(id_, text, BULK, False) for id_, text in enumerate([*texts, "hello"])]
        found, _ = answers(process, items)
    assert isinstance(found[len(texts)], RowItem)
    for id_ in range(len(texts)):
        failed = found[id_]
        assert isinstance(failed, Failed) and failed.kind == "too_long" and failed.tokens > context
