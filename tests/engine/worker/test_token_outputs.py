"""Texts with other outputs than a dense row: their context is freed when idle, and failures hit nobody else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeembed.engine.interface import BULK, DENSE, INTERACTIVE, Float32Matrix, Output
from edgeembed.engine.ipc.messages import Embed, EmbedItem, Failed, ModeFailed, RowItem, frame
from edgeembed.engine.outputs import unpack
from edgeembed_convert import ConversionOptions, convert_checkpoint
from tests.convert.zoo.sparse import make_bert
from tests.engine.tiny_qwen3 import make_tiny_qwen3
from tests.engine.worker.worker_process import answers, receive, start, wait_until_ready

pytestmark = pytest.mark.model

TOKENS: tuple[Output, ...] = ("tokens",)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_qwen3(tmp_path_factory.mktemp("model") / "tiny.gguf")


def item(number: int, text: str, outputs: tuple[Output, ...] = TOKENS, *, alone: bool = False) -> EmbedItem:
    return EmbedItem(number, text, (BULK, INTERACTIVE)[number % 2], alone, outputs=outputs)


def states_of(answer: RowItem | Failed) -> Float32Matrix:
    assert isinstance(answer, RowItem), answer
    return unpack(np.frombuffer(answer.vector, dtype=np.float32), TOKENS)["tokens"]


def script(body: str) -> tuple[str, ...]:
    """Return the command of a worker in which `body` has changed something."""
    return (
        sys.executable,
        "-c",
        f"""
import sys
from edgeembed.engine.llama.library import ComputeError, ModelLoadError
from edgeembed.engine.llama.masked_lm import MaskedLm
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.llama.token_states import StatesContext
from edgeembed.engine.worker import lanes, main as worker
{body}
sys.exit(worker.main(sys.argv))
""",
    )


SOON_IDLE = script("""
lanes.IDLE_SECONDS = 0.01
make, close = LlamaModel.new_states_context, StatesContext.close
def new_states_context(self, **more):
    print("a context is made", file=sys.stderr, flush=True)
    return make(self, **more)
def freed(self):
    close(self)
    print("a context is freed", file=sys.stderr, flush=True)
LlamaModel.new_states_context, StatesContext.close = new_states_context, freed
free_head = MaskedLm.close
def head_freed(self):
    free_head(self)
    print("a head is freed", file=sys.stderr, flush=True)
MaskedLm.close = head_freed
""")


def test_the_context_is_made_for_the_first_text_and_freed_when_idle(model_file: Path) -> None:
    with start(model_file, SOON_IDLE) as process:
        wait_until_ready(process)
        answers(process, [item(1, "dense rows need no such context", DENSE)])
        before = states_of(answers(process, [item(2, "a text")])[0][2])
        assert next_change(process) == "a context is made"
        assert next_change(process) == "a context is freed"
        after = states_of(answers(process, [item(3, "a text")])[0][3])
        assert next_change(process) == "a context is made"
    assert len(before) and np.allclose(before, after, atol=1e-5)


def next_change(process: subprocess.Popen[bytes]) -> str:
    """Wait for the next line about contexts and heads."""
    assert process.stderr is not None
    for line in iter(process.stderr.readline, b""):
        if line.startswith((b"a context", b"a head")):
            return line.decode().strip()
    raise AssertionError("the worker has ended")


def test_the_head_of_a_masked_language_model_is_freed_with_the_context_and_made_again(tmp_path: Path) -> None:
    file = convert_checkpoint(make_bert(tmp_path / "splade"), tmp_path / "splade.gguf", ConversionOptions("F32")).path
    outputs: tuple[Output, ...] = ("sparse",)
    with start(file, SOON_IDLE) as process:
        wait_until_ready(process)
        rows = []
        for number in (1, 2):
            answer = answers(process, [item(number, "hello world", outputs)])[0][number]
            assert isinstance(answer, RowItem)
            rows.append(np.frombuffer(answer.vector, dtype=np.float32))
            lines = [next_change(process) for _ in range(3)]
            assert lines == ["a context is made", "a context is freed", "a head is freed"]
    assert len(rows[0]) > 2 and np.array_equal(*rows)


def test_texts_with_outputs_have_the_same_rows_beside_others_and_alone(model_file: Path) -> None:
    texts = [f"{number} " * (number % 9 + 1) for number in range(40)]
    mixed = [item(number, text, DENSE if number % 3 == 0 else TOKENS) for number, text in enumerate(texts)]
    with start(model_file) as process:
        wait_until_ready(process)
        found, _ = answers(process, mixed)
        alone, _ = answers(process, [item(100 + each.id, each.text, alone=True) for each in mixed if each.outputs == TOKENS])
    for number, answer in alone.items():
        states = states_of(answer)
        assert isinstance(answer, RowItem) and len(states) == answer.tokens
        assert np.allclose(states, states_of(found[number - 100]), atol=1e-4)


POISONED = script("""
compute = StatesContext.compute_states
def poisoned(self, texts):
    if any(len(text.tokens) > 20 for text in texts):
        raise ComputeError("this text is poison")
    return compute(self, texts)
StatesContext.compute_states = poisoned
""")


def test_a_text_that_cannot_be_computed_fails_alone(model_file: Path) -> None:
    items = [item(number, f"text {number}") for number in range(6)]
    items.append(item(6, "poison " * 20))
    with start(model_file, POISONED) as process:
        wait_until_ready(process)
        found, _ = answers(process, items)
        failed = found.pop(6)
        assert isinstance(failed, Failed) and (failed.kind, failed.message) == ("engine", "this text is poison")
        assert all(len(states_of(answer)) for answer in found.values())


WITHOUT_MEMORY = script("""
def refuse(self, **more):
    raise ModelLoadError("no memory", fatal=False, cause="out_of_memory")
LlamaModel.new_states_context = refuse
""")


WITHOUT_MEMORY_OF_NUMPY = script("""
def refuse(self, texts):
    raise MemoryError
StatesContext.compute_states = refuse
""")


@pytest.mark.parametrize("without_memory", [WITHOUT_MEMORY, WITHOUT_MEMORY_OF_NUMPY], ids=["llama.cpp", "NumPy"])
def test_a_worker_without_memory_for_outputs_is_replaced_by_a_smaller_one(
    model_file: Path, without_memory: tuple[str, ...]
) -> None:
    with start(model_file, without_memory) as process:
        wait_until_ready(process)
        found, _ = answers(process, [item(1, "dense rows need no such context", DENSE)])
        assert isinstance(found[1], RowItem)
        assert process.stdin is not None
        process.stdin.write(frame(Embed([item(2, "a text")])))
        process.stdin.flush()
        message = receive(process)
        assert isinstance(message, ModeFailed) and message.cause == "out_of_memory", message
        assert process.wait(30) == 1
