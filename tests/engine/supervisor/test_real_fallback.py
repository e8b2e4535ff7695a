"""Real workers that fail: a build with a broken CUDA module, limits of the operating system, workers that are frozen and
killed while they load and while they compute."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest

from edgeembed.engine.execution_modes import CPU_BEST, GPU_FULL, GPU_PARTIAL, ExecutionMode
from edgeembed.engine.gpu.inventory import LIBRARY_VARIABLE
from edgeembed.engine.gpu.placement import Gpus
from edgeembed.engine.interface import BULK, INTERACTIVE, Float32Row
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.errors import WorkerCrashedError
from edgeembed.hub.gguf.weights import read_weights
from tests.engine.gpu.broken_cuda import build_with_broken_cuda
from tests.engine.supervisor.real_workers import (
    BROKEN,
    LIMITED,
    STRUCK,
    TEXTS,
    engine,
    options,
    python,
    rows_are_right,
    until,
)
from tests.engine.tiny_qwen3 import make_tiny_qwen3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.model,
    pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX"),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return make_tiny_qwen3(tmp_path / "tiny.gguf")


@pytest.fixture
def expected(file: Path) -> dict[str, Float32Row]:
    model = LlamaModel(options(CPU_BEST, file=file))
    try:
        return {text: model.embed([model.tokenize(text)])[0] for text in TEXTS}
    finally:
        model.close()


@pytest.mark.parametrize("content", [b"", b"no library"])
async def test_a_build_whose_cuda_module_cannot_be_loaded_serves_from_the_processor(
    content: bytes, file: Path, expected: dict[str, Float32Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(build_with_broken_cuda(tmp_path, content)))
    cards, sizes = Gpus("cuda"), read_weights(file)
    modes = cards.modes(sizes, options(GPU_FULL, file=file))
    assert [mode.name for mode in modes] == ["gpu-full"]

    def placed(mode: ExecutionMode) -> WorkerOptions:
        plain = options(mode, file=file)
        return plain if mode.gpu == "none" else cards.place(mode, "model", sizes, plain)

    async with engine(placed, modes=(*modes, CPU_BEST)) as made:
        await made.start()
        await rows_are_right(made, expected)
        (demotion,) = made.status.demotions
        assert (made.status.mode, demotion.mode, demotion.cause) == ("cpu", "gpu-full", "no_driver")
        assert "cannot be loaded" in demotion.reason
    # With "auto" there is no GPU mode to be demoted from.
    assert Gpus("auto").modes(sizes, options(GPU_FULL, file=file)) == ()


async def test_a_worker_on_a_device_that_does_not_exist_is_demoted(file: Path, expected: dict[str, Float32Row]) -> None:
    def asked(mode: ExecutionMode) -> WorkerOptions:
        more: dict[str, Any] = {} if mode is CPU_BEST else {"device": "CUDA0", "gpu_layers": 3}
        return options(mode, file=file, **more)

    async with engine(asked) as made:
        await made.start()
        await rows_are_right(made, expected)
        assert [demotion.cause for demotion in made.status.demotions] == ["no_device"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
async def test_out_of_memory_while_loading_is_a_demotion_until_there_is_memory_again(
    file: Path, expected: dict[str, Float32Row], tmp_path: Path
) -> None:
    cured = tmp_path / "cured"

    def greedy(mode: ExecutionMode) -> WorkerOptions:
        # The buffers of such batches take hundreds of MB.
        return options(mode, file=file, batch_tokens=16_384 if mode is GPU_FULL else 64)

    code = LIMITED.format(cured=str(cured), room=200 * 2**20)
    async with engine(greedy, python(code), modes=(GPU_FULL, GPU_PARTIAL)) as made:
        await made.start()
        await rows_are_right(made, expected)
        (demotion,) = made.status.demotions
        assert (made.status.mode, demotion.cause) == ("gpu-partial", "out_of_memory"), demotion.reason
        cured.touch()
        await until(lambda: made.status.mode == "gpu-full" and made.status.state == "ready")
        await rows_are_right(made, expected)
        assert made.status.demotions == []


@pytest.mark.parametrize(("signal_name", "cause"), [("SIGSTOP", "hang"), ("SIGKILL", "killed"), ("SIGSEGV", "crash")])
async def test_a_worker_stopped_or_killed_while_it_loads_is_replaced(
    signal_name: str, cause: str, file: Path, expected: dict[str, Float32Row], tmp_path: Path
) -> None:
    cured = tmp_path / "cured"
    command = python(STRUCK.format(cured=str(cured), signal=signal_name))
    async with engine(partial(options, file=file), command, load_timeout=8.0) as made:
        starting = asyncio.create_task(made.start())
        await rows_are_right(made, expected)  # asked before anything is loaded
        await starting
        (demotion,) = made.status.demotions
        assert (made.status.mode, demotion.cause) == ("cpu", cause)
        assert "loading the model" in demotion.reason
        cured.touch()
        await until(lambda: made.status.mode == "gpu-full" and made.status.state == "ready")
        await rows_are_right(made, expected)


@pytest.mark.parametrize("signal_number", [signal.SIGSTOP, signal.SIGKILL])
async def test_a_worker_stopped_or_killed_while_it_computes_loses_no_text(
    signal_number: signal.Signals, file: Path, expected: dict[str, Float32Row]
) -> None:
    async with engine(partial(options, file=file), hang_seconds=2.0, cool_down=600) as made:
        await made.start()
        pid = made.status.worker_pid or 0
        load = made.submit([f"{number} " * 100 for number in range(200)], BULK)
        await until(lambda: made.status.texts_computed > 5)
        os.kill(pid, signal_number)
        await rows_are_right(made, expected)
        rows = await asyncio.gather(*load)
        assert all(np.isfinite(row.vector).all() and row.vector.any() for row in rows)
        assert not psutil.pid_exists(pid)
        # A kill says nothing about the card.
        frozen = signal_number == signal.SIGSTOP
        assert [demotion.cause for demotion in made.status.demotions] == (["hang"] if frozen else [])
        assert made.status.mode == ("cpu" if frozen else "gpu-full")


@pytest.mark.parametrize(
    ("deed", "cause"),
    [
        ("rows[:] = float('nan')", "wrong_vectors"),
        ("raise ComputeError('no memory', 'out_of_memory')", "out_of_memory"),
    ],
)
async def test_a_card_that_computes_wrong_rows_is_left_and_the_text_is_computed_elsewhere(
    deed: str, cause: str, file: Path, expected: dict[str, Float32Row], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"

    def on_card(mode: ExecutionMode) -> WorkerOptions:
        # The processor stands for the card.
        more: dict[str, Any] = {} if mode is CPU_BEST else {"device": "CPU", "gpu_layers": 3, "bulk_lanes": 0}
        return options(mode, file=file, **more)

    async with engine(on_card, python(BROKEN.format(broken=str(broken), deed=deed)), cool_down=600) as made:
        await made.start()
        await rows_are_right(made, expected)
        assert made.status.mode == "gpu-full"
        broken.touch()
        await rows_are_right(made, expected)
        assert made.status.mode == "cpu"
        assert [demotion.cause for demotion in made.status.demotions] == [cause]


# A worker with a bug: while a file exists, each computation of a text raises an exception that quotes what it works on.
QUOTING = """
import sys, warnings
from pathlib import Path
from edgeembed.engine.llama import context
from edgeembed.engine.worker import main as worker
compute = context.Context.compute
def is_for_a_text():
    # Not for a canary text, without which no model is loaded.
    frame = sys._getframe()
    while frame and not (frame.f_code.co_name == "_compute" and frame.f_code.co_filename.endswith("lanes.py")):
        frame = frame.f_back
    return frame is not None
def wrong(self, *arguments, **more):
    if Path({broken!r}).exists() and is_for_a_text():
        warnings.warn("sec" + "ret")
        raise ValueError("sec" + "ret", arguments) from RuntimeError("sec" + "ret")
    return compute(self, *arguments, **more)
context.Context.compute = wrong
sys.exit(worker.main(sys.argv))
"""


async def test_the_last_words_of_a_worker_do_not_quote_a_text(
    file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They are logged, and shown in /health, /v1/status and notifications."""
    caplog.set_level("DEBUG", "edgeembed")
    broken = tmp_path / "broken"
    command = python(QUOTING.format(broken=str(broken)))
    async with engine(partial(options, file=file, verbose=True), command, modes=(CPU_BEST,)) as made:
        await made.start()
        broken.touch()
        (future,) = made.submit(["one text"], INTERACTIVE)
        with pytest.raises(WorkerCrashedError) as caught:
            await future
        shown = f"{caught.value.message} {msgspec.json.encode(made.status).decode()} {caplog.text}"
    assert "while computing: ValueError" in shown, "what and where is said"
    assert "secret" not in shown
