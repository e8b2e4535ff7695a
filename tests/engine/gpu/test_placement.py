"""Execution modes for graphics cards, and which model gets which share of a card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgeembed.engine.execution_modes import CPU_BEST, GPU_FULL, GPU_PARTIAL, ModeUnavailableError
from edgeembed.engine.gpu.inventory import Device, Inventory
from edgeembed.engine.gpu.nvidia import NvidiaFacts
from edgeembed.engine.gpu.placement import Gpus, for_card
from tests.engine.gpu.cards import FACTS, GIB, WEIGHTS, cards, options

SIZES = (WEIGHTS, FACTS)
LIBRARIES = [Path("libggml-cuda.so")]


class Machine:
    """Cards whose free memory a test changes."""

    def __init__(self, *gib: float) -> None:
        self.devices = cards(*gib)
        self.inspections = 0

    def take(self, number: int, gib: float) -> None:
        device = self.devices[number]
        self.devices[number] = msgspec.structs.replace(device, memory_free=int(device.memory_free - gib * GIB))

    def inspect(self) -> Inventory:
        self.inspections += 1
        cpu = Device(name="CPU", description="", backend="CPU", kind="cpu")
        return Inventory(backends=("CPU", "CUDA"), devices=(*self.devices, cpu))


def gpus(machine: Machine, device: str = "auto", layers: str = "auto", **more: Any) -> Gpus:
    return Gpus(device, layers, inspect=machine.inspect, libraries=more.pop("libraries", LIBRARIES), environ={}, **more)


def modes(made: Gpus) -> list[str]:
    return [mode.name for mode in made.modes(SIZES, options())]


def test_modes_depend_on_what_empty_cards_could_hold() -> None:
    assert modes(gpus(Machine(8))) == ["gpu-full", "gpu-partial"]
    assert modes(gpus(Machine(2))) == ["gpu-partial"], "no failed attempt with a card that is too small"
    assert modes(gpus(Machine(0.3))) == []
    assert modes(gpus(Machine())) == []
    busy = Machine(8)
    busy.take(0, 7.9)
    assert modes(gpus(busy)) == ["gpu-full", "gpu-partial"], "other programs may free their memory"


def test_layers_on_cards_do_not_count_as_main_memory() -> None:
    layers = sum(WEIGHTS.layers)
    assert gpus(Machine(8)).weights_on_cards(SIZES, options()) == layers
    assert 0 < gpus(Machine(2)).weights_on_cards(SIZES, options()) < layers
    assert gpus(Machine(8), layers="12").weights_on_cards(SIZES, options()) == sum(WEIGHTS.layers[-11:])
    for without in (gpus(Machine(0.3)), gpus(Machine()), gpus(Machine(), "cuda"), gpus(Machine(8), "cpu")):
        assert without.weights_on_cards(SIZES, options()) == 0
    inside = Machine(8)
    inside.devices = [msgspec.structs.replace(device, kind="igpu") for device in inside.devices]
    assert modes(gpus(inside)) == ["gpu-full", "gpu-partial"]
    assert gpus(inside).weights_on_cards(SIZES, options()) == 0, "the memory of a card inside the processor is main memory"


def test_settings_determine_the_modes() -> None:
    assert modes(gpus(Machine(8), "cpu")) == []
    assert modes(gpus(Machine(8), layers="0")) == []
    assert modes(gpus(Machine(0.3), layers="99")) == ["gpu-full"]
    assert modes(gpus(Machine(8), layers="12")) == ["gpu-partial"]
    assert modes(gpus(Machine(), "cuda")) == ["gpu-full"], "a card that the setting names is reported when it is missing"
    assert modes(gpus(Machine(8), "cuda:1")) == ["gpu-full"]
    assert modes(gpus(Machine(3.2), utilization=0.5)) == ["gpu-partial"]


def test_a_build_without_gpu_backends_inspects_nothing() -> None:
    machine = Machine(8)
    made = gpus(machine, libraries=[])
    assert modes(made) == [] and not made.possible
    assert made.describe()["why_no_gpu"][0]["cause"] == "no_build"
    assert machine.inspections == 0


def test_models_spread_over_the_cards_while_loading_and_afterwards() -> None:
    machine = Machine(8, 8, 8)
    made = gpus(machine)
    first = made.place(GPU_FULL, "one", SIZES, options())
    second = made.place(GPU_FULL, "two", SIZES, options())  # the first one still loads
    assert {first.device, second.device} == {"CUDA0", "CUDA1"}
    machine.take(0, 4)
    machine.take(1, 4)
    made.loaded("one")
    made.loaded("two")
    assert made.place(GPU_FULL, "three", SIZES, options()).device == "CUDA2"
    assert (first.gpu_layers, first.tensor_split, first.mode) == (29, (), "x")


def test_models_count_on_a_card_whose_driver_reports_all_memory_as_free() -> None:
    made = gpus(Machine(10))
    for model in ("one", "two"):
        made.place(GPU_FULL, model, SIZES, options())
        made.loaded(model)
        made.require_room(GPU_FULL, model, SIZES, options())
        if model == "one":
            continue
        with pytest.raises(ModeUnavailableError, match="out of memory"):
            made.place(GPU_FULL, "three", SIZES, options())
    made.unloaded("one")
    made.place(GPU_FULL, "three", SIZES, options())


def test_a_mode_without_room_is_refused_with_the_numbers_and_the_next_one_uses_less() -> None:
    machine = Machine(8)
    machine.take(0, 6)
    made = gpus(machine)
    with pytest.raises(ModeUnavailableError, match=r"out of memory before loading.*CUDA0 has room for 1,2\d\d MiB"):
        made.place(GPU_FULL, "model", SIZES, options())
    assert 0 < made.place(GPU_PARTIAL, "model", SIZES, options()).gpu_layers < 20
    # After gpu-full has failed, gpu-partial never uses all layers, whatever the room.
    assert gpus(Machine(80)).place(GPU_PARTIAL, "model", SIZES, options()).gpu_layers == 21


def test_a_number_of_layers_from_the_user_is_not_checked() -> None:
    placed = gpus(Machine(0.1), layers="12").place(GPU_PARTIAL, "model", SIZES, options())
    assert (placed.gpu_layers, placed.device) == (12, "CUDA0")


def test_a_models_own_share_counts_as_free_when_it_is_promoted() -> None:
    machine = Machine(5)
    machine.take(0, 2)
    made = gpus(machine)
    part = made.place(GPU_PARTIAL, "model", SIZES, options())
    made.loaded("model")
    machine.take(0, 2.2)
    assert part.gpu_layers < 29
    with pytest.raises(ModeUnavailableError, match="out of memory") as caught:
        made.require_room(GPU_FULL, "model", SIZES, options())
    assert caught.value.cause == "out_of_memory"
    machine.take(0, -2)  # the other program has ended
    made.require_room(GPU_FULL, "model", SIZES, options())
    with pytest.raises(ModeUnavailableError):
        made.require_room(GPU_FULL, "another", SIZES, options())
    made.unloaded("model")
    with pytest.raises(ModeUnavailableError):
        made.require_room(GPU_FULL, "model", SIZES, options())
    made.require_room(CPU_BEST, "model", SIZES, options())


def test_a_missing_card_is_named_in_the_error() -> None:
    with pytest.raises(ModeUnavailableError, match="finds no cuda") as caught:
        gpus(Machine(8), "cuda:3").place(GPU_FULL, "model", SIZES, options())
    assert caught.value.cause == "no_device"


@pytest.mark.parametrize(
    ("inventory", "cause"),
    [
        (Inventory(nvidia=NvidiaFacts(cards=1)), "no_driver"),
        (Inventory(nvidia=NvidiaFacts(cards=0)), "no_device"),
        (Inventory(nvidia=NvidiaFacts(cards=1, cuda="13.0", driver="580.1", init_error=803)), "no_driver"),
        (
            Inventory(
                nvidia=NvidiaFacts(cards=1, cuda="11.4", driver="470.1"),
                messages=("CUDA driver version is insufficient for CUDA runtime version",),
            ),
            "driver_too_old",
        ),
        (Inventory(problem="no answer", problem_cause="hang"), "hang"),
    ],
)
def test_a_machine_without_a_usable_card_has_a_cause(inventory: Inventory, cause: str) -> None:
    made = Gpus("cuda", inspect=lambda: inventory, libraries=[Path("libggml-cuda.so")], environ={})
    with pytest.raises(ModeUnavailableError) as caught:
        made.place(GPU_FULL, "model", SIZES, options())
    assert caught.value.cause == cause


def test_a_card_gets_large_batches_and_one_context() -> None:
    given = for_card(options(batch_tokens=128, bulk_lanes=None), None)
    assert (given.batch_tokens, given.bulk_lanes, given.pad_from_tokens) == (2048, 0, 0)
    assert for_card(given, 512).batch_tokens == 512
