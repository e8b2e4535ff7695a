"""Which layers go where: arithmetic, compared with the buffer sizes that llama.cpp logs."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgeembed.engine.context_plan import ModelFacts, make_plan
from edgeembed.engine.gpu.plan import (
    MIB,
    SLACK,
    DoesNotFitError,
    GpuPlan,
    context_bytes,
    device_of_layer,
    plan_gpu,
    room_on,
)
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.hub.gguf.weights import read_weights
from tests.engine.gpu.cards import FACTS, GIB, WEIGHTS, cards, options
from tests.engine.tiny_qwen3 import make_tiny_qwen3


def planned(*gib: float, layers: int | None = None, **changes: Any) -> GpuPlan:
    devices = cards(*gib)
    rooms = [room_on(device, 0.9) for device in devices]
    return plan_gpu(WEIGHTS, FACTS, options(**changes), devices, rooms, layers=layers)


# --- room -------------------------------------------------------------------------------------------------------------


def test_room_excludes_a_share_of_the_card_and_what_others_use() -> None:
    (card,) = cards(10)
    assert room_on(card, 0.9) == pytest.approx(9 * GIB)
    half_free = msgspec.structs.replace(card, memory_free=5 * GIB)
    assert room_on(half_free, 0.9) == pytest.approx(4 * GIB)
    assert room_on(half_free, 0.9, own=2 * GIB) == pytest.approx(6 * GIB)
    assert room_on(half_free, 0.9, own=20 * GIB) == pytest.approx(9 * GIB), "no more than there is"
    assert room_on(msgspec.structs.replace(card, memory_free=0), 0.9) == 0
    silent = msgspec.structs.replace(card, memory_free=0, memory_total=0)
    assert room_on(silent, 0.9) > 2**40, "a device whose memory is unknown is tried"


# --- one card ---------------------------------------------------------------------------------------------------------


def test_a_model_that_fits_goes_to_the_card_with_the_most_room() -> None:
    plan = planned(6, 8, 7)
    assert (plan.devices, plan.gpu_layers, plan.layers, plan.whole) == (("CUDA1",), 29, 29, True)
    assert 28 * 100 * MIB < plan.bytes[0] < plan.room[0]


def test_as_many_layers_as_fit_go_to_the_card() -> None:
    counts = [planned(gib / 4, batch_tokens=64).gpu_layers for gib in range(5, 20)]
    assert counts == sorted(counts) and counts[0] < 15 and counts[-1] == 29
    plan = planned(2)
    assert not plan.whole and plan.bytes[0] <= plan.room[0]
    more = cards(2)
    with pytest.raises(DoesNotFitError, match=f"{plan.gpu_layers + 1} of 29 layers"):
        plan_gpu(WEIGHTS, FACTS, options(), more, [room_on(more[0], 0.9)], layers=plan.gpu_layers + 1)


def test_longer_contexts_and_larger_batches_leave_less_room_for_layers() -> None:
    assert planned(2.5, context_tokens=512).gpu_layers > planned(2.5, context_tokens=16_384).gpu_layers
    assert planned(2.5, batch_tokens=64).gpu_layers > planned(2.5, batch_tokens=8192).gpu_layers


def test_a_card_that_holds_only_a_few_layers_is_not_used() -> None:
    with pytest.raises(DoesNotFitError, match=r"out of memory before loading: the model would take .* CUDA0 has room for"):
        planned(0.3)
    with pytest.raises(DoesNotFitError, match="no device"):
        planned()


def test_heads_without_flash_attention_need_more_memory() -> None:
    plain = dataclasses.replace(WEIGHTS, heads=64)  # of 32 numbers
    assert WEIGHTS.flash and not plain.flash
    (card,) = cards(6)
    one, other = (plan_gpu(each, FACTS, options(), [card], [room_on(card, 0.9)]) for each in (WEIGHTS, plain))
    assert other.bytes[0] - one.bytes[0] > 64 * 4 * 512 * 4096


# --- several cards ----------------------------------------------------------------------------------------------------


def test_a_model_too_large_for_one_card_is_split_by_layers() -> None:
    plan = planned(2.3, 2.5)
    assert plan.whole and plan.devices == ("CUDA1", "CUDA0")
    assert sum(plan.tensor_split) == 29
    assert all(taken <= room for taken, room in zip(plan.bytes, plan.room, strict=True))
    where = [device_of_layer(layer, plan) for layer in range(29)]
    first = int(plan.tensor_split[0])
    assert where == ["CUDA1"] * first + ["CUDA0"] * (29 - first)


def test_layers_that_do_not_fit_on_all_cards_together_stay_with_the_processor() -> None:
    plan = planned(1.2, 1.2)
    assert 0 < plan.gpu_layers < 29 and len(plan.devices) == 2
    where = [device_of_layer(layer, plan) for layer in range(29)]
    assert where[: 29 - plan.gpu_layers] == [None] * (29 - plan.gpu_layers)
    assert None not in where[29 - plan.gpu_layers :]
    assert plan.gpu_layers > planned(1.2).gpu_layers


# --- llama.cpp's own numbers ------------------------------------------------------------------------------------------

LOAD = """
import sys
import msgspec
from edgeembed.engine.llama.bindings import lib
if sys.argv[2] == "plain":
    lib.LLAMA_FLASH_ATTN_TYPE_ENABLED = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
from edgeembed.engine.llama.library import send_log_to
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.worker_options import WorkerOptions
send_log_to(sys.stdout.write, verbose=True)
LlamaModel(msgspec.json.decode(sys.argv[1], type=WorkerOptions))
"""


def logged(options: WorkerOptions, kind: str = "flash") -> list[str]:
    """Return what llama.cpp logs while it loads. kind: of attention, "flash" or "plain"."""
    command = [sys.executable, "-c", LOAD, msgspec.json.encode(options).decode(), kind]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()


def last_mib(lines: list[str], what: str) -> float:
    """Return the size of the buffer that was made last: those of `row_probe` come before."""
    return float([line for line in lines if what in line and "expectation" not in line][-1].split("=")[1].split()[0])


def attention(lines: list[str]) -> set[str]:
    return {line.split("=")[1].strip() for line in lines if "flash_attn " in line and "=" in line}


@pytest.mark.model
@pytest.mark.parametrize(
    ("context", "batch", "kind"),
    [(512, 64, "flash"), (512, 2048, "flash"), (256, 4096, "flash"), (512, 512, "plain"), (512, 2048, "plain")],
)
def test_estimated_buffers_match_those_of_llama_cpp(tmp_path: Path, context: int, batch: int, kind: str) -> None:
    file = make_tiny_qwen3(tmp_path / "tiny.gguf")
    weights, facts = read_weights(file)
    worker = options(str(file), context_tokens=context, batch_tokens=batch)
    lines = logged(worker, kind)
    shape = make_plan(facts, worker, last_only=True).wide
    kv, compute = context_bytes(weights, facts, shape, flash=kind == "flash")
    assert kv * len(weights.layers) / MIB == pytest.approx(last_mib(lines, "KV buffer size"), abs=0.01)
    measured = last_mib(lines, "CPU compute buffer size")
    assert measured <= SLACK * compute / MIB + 0.5
    assert compute / MIB <= 2 * measured + 0.5


def test_all_parts_of_the_file_are_counted(tmp_path: Path) -> None:
    file = make_tiny_qwen3(tmp_path / "tiny.gguf")
    weights, facts = read_weights(file)
    assert weights.count == 3 and weights.layers[0] > 2 * 64 * 128 * 4
    assert weights.output > 259 * 64 * 4, "the output layer uses the matrix of the embeddings, and gets a copy"
    assert weights.largest_matrix == 64 * 128 and weights.feed_forward == 256 and weights.heads_width == 64
    assert not weights.flash, "heads of 16 numbers"
    assert facts == ModelFacts(pieces=True, trained_tokens=512, width=64, vocabulary=259, cell_bytes=2 * 2 * 32 * 2)


@pytest.mark.model
def test_llama_cpp_uses_the_given_devices_layers_and_split(tmp_path: Path) -> None:
    """The processor takes the place of two cards."""
    file = make_tiny_qwen3(tmp_path / "tiny.gguf")
    split = options(str(file), batch_tokens=64, device="CPU,CPU", gpu_layers=3, tensor_split=(2.0, 1.0))
    lines = logged(split)
    assert sum("using device CPU" in line for line in lines) == 2
    assert attention(lines) == {"auto"}, "a card may have no kernel for heads of this width"
    lines = logged(options(str(file), batch_tokens=64))
    assert not any("using device" in line for line in lines)
    assert attention(lines) == {"enabled"}
    with pytest.raises(subprocess.CalledProcessError) as caught:
        logged(options(str(file), batch_tokens=64, device="CUDA7", gpu_layers=3))
    assert "finds no device CUDA7" in caught.value.stderr
