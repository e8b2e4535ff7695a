"""Vulkan for real, on Mesa's driver that computes on the processor: devices, plans, rows, sandbox, demotion, promotion."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edgeembed.engine.execution_modes import CPU_BEST, GPU_FULL, ExecutionMode
from edgeembed.engine.gpu.inventory import take_inventory
from edgeembed.engine.gpu.placement import Gpus, for_card
from edgeembed.engine.gpu.vulkan import VISIBLE_VARIABLE
from edgeembed.engine.interface import BULK, Float32Row
from edgeembed.engine.supervisor.process import WORKER_COMMAND
from edgeembed.engine.supervisor.worker_engine import WorkerEngine
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.hub.gguf.weights import read_weights
from tests.e2e.daemon import cosines, running
from tests.engine.gpu.llvmpipe import MODULE, driver, use, vulkan_build
from tests.engine.supervisor.real_workers import BROKEN, LIMITED, TEXTS, engine, options, python, rows_are_right, until
from tests.engine.tiny_qwen3 import make_tiny_qwen3
from tests.sharing import once

pytestmark = [
    pytest.mark.slow,
    pytest.mark.model,
    pytest.mark.xdist_group("vulkan"),  # the driver compiles a shader once if the tests run one after the other
]

DEVICE = "vulkan:0"
LEAST_COSINE = 0.999
COMPILING = 280.0
"""Seconds for what needs new shaders: the driver takes up to 20 s of processor time for one."""


@pytest.fixture
def libraries(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the build that this process's children use, with llvmpipe as the only driver."""
    icd = driver()
    folder = vulkan_build(shared)
    use(monkeypatch, folder, icd)
    return folder


@pytest.fixture
def file(shared: Path) -> Path:
    return once(shared / "tiny-qwen3.gguf", make_tiny_qwen3)


async def rows_of_processor(file: Path) -> dict[str, Float32Row]:
    async with engine(lambda mode: options(mode, file=file), modes=(CPU_BEST,)) as made:
        await made.start()
        rows = await asyncio.gather(*made.submit(TEXTS, BULK))
        return {text: row.vector for text, row in zip(TEXTS, rows, strict=True)}


@asynccontextmanager
async def on_card(
    file: Path, *, layers: str = "auto", command: tuple[str, ...] = WORKER_COMMAND, batch: int = 64, **more: Any
) -> AsyncIterator[WorkerEngine]:
    """Run a model as the daemon does where the settings name the device. batch: tokens of a forward pass."""
    gpus = Gpus(DEVICE, layers, more.pop("utilization", 0.9))
    sizes = read_weights(file)

    def place(mode: ExecutionMode) -> WorkerOptions:
        plain = options(mode, file=file)
        return plain if mode.gpu == "none" else gpus.place(mode, "model", sizes, for_card(plain, batch))

    modes = more.pop("modes", None) or (*gpus.modes(sizes, for_card(options(GPU_FULL, file=file), batch)), CPU_BEST)
    async with engine(place, command, modes=modes, **{"hang_seconds": COMPILING} | more) as made:
        await made.start()
        yield made


# --- devices ----------------------------------------------------------------------------------------------------------


def test_the_driver_is_listed_with_its_memory_and_used_only_by_its_number(libraries: Path) -> None:
    inventory = take_inventory()
    assert inventory.problem is None
    (device,) = [device for device in inventory.devices if device.backend == "Vulkan"]
    assert (device.name, device.kind) == ("Vulkan0", "software")
    assert "llvmpipe" in device.description
    assert 0 < device.memory_free <= device.memory_total
    assert inventory.vulkan.loader is not None and len(inventory.vulkan.software) == 1
    assert [module.problem for module in inventory.modules] == [None]
    for setting in ("auto", "vulkan"):
        described = Gpus(setting, inspect=lambda: inventory).describe()
        assert described["used"] == []
        assert [reason["cause"] for reason in described["why_no_gpu"]] == ["software_only"]
    assert Gpus(DEVICE).describe()["used"] == ["Vulkan0"]


def test_the_variable_that_makes_ggml_list_it_as_a_card_does_not_make_it_one(
    libraries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE_VARIABLE, "0")
    assert [device.kind for device in take_inventory().devices if device.backend == "Vulkan"] == ["software"]
    assert Gpus("auto").describe()["used"] == []


def test_without_a_driver_there_is_no_device(libraries: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VK_ICD_FILENAMES", str(tmp_path / "none.json"))
    inventory = take_inventory()
    assert inventory.problem is None and inventory.vulkan.devices == ()
    assert [device.kind for device in inventory.devices] == ["cpu"]
    assert [reason.cause for reason in Gpus("auto").why_none()] == ["no_driver"]


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", ["auto", "2"])
async def test_a_decoders_rows_are_the_processors_with_all_layers_and_with_a_part(
    libraries: Path, file: Path, layers: str
) -> None:
    expected = await rows_of_processor(file)
    async with on_card(file, layers=layers) as made:
        assert made.status.mode == ("gpu-full" if layers == "auto" else "gpu-partial")
        assert made.status.offload == f"{3 if layers == 'auto' else 2} layers on Vulkan0"
        await rows_are_right(made, expected, LEAST_COSINE)
        assert made.status.demotions == []
        # Drivers of graphics cards run under the same sandbox.
        assert made.info is not None and "no network" in made.info.sandbox.words


@pytest.mark.parametrize("layers", ["auto", "3"])
async def test_minilms_rows_are_the_processors_with_all_layers_and_with_a_part(
    libraries: Path, minilm: Callable[[str], Path], layers: str
) -> None:
    file = minilm("Q8_0")
    expected = await rows_of_processor(file)
    async with on_card(file, layers=layers) as made:
        assert made.status.mode == ("gpu-full" if layers == "auto" else "gpu-partial")
        await rows_are_right(made, expected, LEAST_COSINE)
        assert made.status.demotions == []


# --- demotion and promotion -------------------------------------------------------------------------------------------


async def is_demoted_and_promoted(
    made: WorkerEngine, expected: dict[str, Float32Row], cause: str, cure: Callable[[], object]
) -> str:
    """Assert that the model is demoted with the cause, that no row is lost, and that the device is used again when cured.

    Return the reason of the demotion.
    """
    await rows_are_right(made, expected, LEAST_COSINE)
    (demotion,) = made.status.demotions
    assert (made.status.mode, demotion.mode, demotion.cause) == ("cpu", "gpu-full", cause), demotion.reason
    cure()
    await until(lambda: made.status.mode == "gpu-full" and made.status.state == "ready", COMPILING)
    await rows_are_right(made, expected, LEAST_COSINE)
    assert made.status.demotions == []
    return demotion.reason


async def test_a_module_that_is_removed_and_put_back(
    libraries: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await rows_of_processor(file)
    shutil.copytree(libraries, tmp_path / "lib")
    use(monkeypatch, tmp_path / "lib", driver())
    (tmp_path / "lib" / MODULE).rename(tmp_path / MODULE)
    async with on_card(file, modes=(GPU_FULL, CPU_BEST)) as made:
        back = tmp_path / "lib" / MODULE
        reason = await is_demoted_and_promoted(made, expected, "no_driver", lambda: (tmp_path / MODULE).rename(back))
        assert "no kernels for Vulkan" in reason


async def test_a_driver_that_is_missing_and_then_installed(
    libraries: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await rows_of_processor(file)
    missing = tmp_path / "icd.json"
    monkeypatch.setenv("VK_ICD_FILENAMES", str(missing))
    async with on_card(file) as made:
        reason = await is_demoted_and_promoted(made, expected, "no_driver", lambda: missing.symlink_to(driver()))
        assert "no Vulkan driver finds a card" in reason


@pytest.mark.parametrize("layers", ["auto", "3"])
async def test_memory_that_does_not_suffice_in_the_plan_and_in_the_driver(
    libraries: Path, file: Path, tmp_path: Path, layers: str
) -> None:
    """The plan refuses such batches by the memory that the driver reports. A number of layers is not checked, so the worker
    asks the driver for more than what the operating system lets it have."""
    expected = await rows_of_processor(file)
    command = python(LIMITED.format(cured=str(tmp_path / "never"), room=700 * 2**20))
    async with on_card(file, layers=layers, command=command, batch=16_384, modes=(GPU_FULL, CPU_BEST)) as made:
        await rows_are_right(made, expected, LEAST_COSINE)
        (demotion,) = made.status.demotions
        assert (made.status.mode, demotion.mode, demotion.cause) == ("cpu", "gpu-full", "out_of_memory"), demotion.reason
        assert ("before loading" in demotion.reason) == (layers == "auto")


@pytest.mark.parametrize("signal_number", [signal.SIGSTOP], ids=["frozen"])
async def test_a_worker_frozen_or_killed_while_it_computes_loses_no_text(
    signal_number: signal.Signals, libraries: Path, file: Path
) -> None:
    expected = await rows_of_processor(file)
    async with on_card(file, modes=(GPU_FULL, CPU_BEST), hang_seconds=20.0) as made:
        await rows_are_right(made, expected, LEAST_COSINE)  # shaders are compiled now
        load = made.submit(TEXTS, BULK)
        computed = made.status.texts_computed
        await until(lambda: made.status.texts_computed > computed, COMPILING)
        os.kill(made.status.worker_pid or 0, signal_number)
        if signal_number == signal.SIGSTOP:
            await is_demoted_and_promoted(made, expected, "hang", lambda: None)
        await rows_are_right(made, expected, LEAST_COSINE)
        assert made.status.mode == "gpu-full", "a kill says nothing about the card"
        for text, row in zip(TEXTS, await asyncio.gather(*load), strict=True):
            assert float(row.vector @ expected[text]) > LEAST_COSINE


async def test_rows_that_become_wrong(libraries: Path, file: Path, tmp_path: Path) -> None:
    expected = await rows_of_processor(file)
    broken = tmp_path / "broken"
    command = python(BROKEN.format(broken=str(broken), deed="rows[:] = float('nan')"))
    async with on_card(file, command=command, modes=(GPU_FULL, CPU_BEST)) as made:
        await rows_are_right(made, expected, LEAST_COSINE)
        assert made.status.mode == "gpu-full"
        broken.touch()
        await is_demoted_and_promoted(made, expected, "wrong_vectors", broken.unlink)


# --- the daemon -------------------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_the_daemon_serves_from_the_device_and_reports_it(libraries: Path, file: Path, tmp_path: Path) -> None:
    flags = ("--model", str(file), "--offline", "--no-cache")
    with running(*flags, home=tmp_path / "home") as daemon:
        expected = daemon.embed(TEXTS)
        assert daemon.get("/health")[1]["mode"].startswith("cpu")
        devices = daemon.get("/v1/status")[1]["devices"]
        assert (devices["used"], devices["why_no_gpu"][0]["cause"]) == ([], "software_only")
    with running(*flags, "--device", DEVICE, home=tmp_path / "home", ready=False) as daemon:
        daemon.wait_for("ready: ", COMPILING)
        assert cosines(daemon.embed(TEXTS), expected).min() > LEAST_COSINE
        assert daemon.get("/health")[1]["mode"] == "gpu-full"
        devices = daemon.get("/v1/status")[1]["devices"]
        (device,) = [each for each in devices["devices"] if each["name"] == "Vulkan0"]
        assert devices["used"] == ["Vulkan0"] and 0 < device["memory_free"] <= device["memory_total"]
