"""Vulkan on Mesa's driver that computes on the processor: what takes too long for CI. MiniLM, more faults, the daemon.

Run it by its name: `pytest -n 0 tests/engine/gpu/slow_vulkan.py`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeembed.engine.execution_modes import CPU_BEST, GPU_FULL
from edgeembed.engine.interface import BULK
from tests.e2e.daemon import cosines, running
from tests.engine.gpu.llvmpipe import (
    COMPILING,
    DEVICE,
    LEAST_COSINE,
    MODULE,
    driver,
    is_demoted_and_promoted,
    on_card,
    rows_of_processor,
    use,
)
from tests.engine.supervisor.real_workers import BROKEN, LIMITED, TEXTS, python, rows_are_right, until

pytestmark = [pytest.mark.slow, pytest.mark.model]


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", ["auto", "3"])
async def test_minilms_rows_are_the_processors_with_all_layers_and_with_a_part(
    vulkan_libraries: Path, minilm: Callable[[str], Path], layers: str
) -> None:
    file = minilm("Q8_0")
    expected = await rows_of_processor(file)
    async with on_card(file, layers=layers) as made:
        assert made.status.mode == ("gpu-full" if layers == "auto" else "gpu-partial")
        await rows_are_right(made, expected, LEAST_COSINE)
        assert made.status.demotions == []


# --- demotion and promotion -------------------------------------------------------------------------------------------


async def test_a_module_that_is_removed_and_put_back(
    vulkan_libraries: Path, decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await rows_of_processor(decoder)
    shutil.copytree(vulkan_libraries, tmp_path / "lib")
    use(monkeypatch, tmp_path / "lib", driver())
    (tmp_path / "lib" / MODULE).rename(tmp_path / MODULE)
    async with on_card(decoder, modes=(GPU_FULL, CPU_BEST)) as made:
        back = tmp_path / "lib" / MODULE
        reason = await is_demoted_and_promoted(made, expected, "no_driver", lambda: (tmp_path / MODULE).rename(back))
        assert "no kernels for Vulkan" in reason


@pytest.mark.parametrize("layers", ["auto", "3"])
async def test_memory_that_does_not_suffice_in_the_plan_and_in_the_driver(
    vulkan_libraries: Path, decoder: Path, tmp_path: Path, layers: str
) -> None:
    """The plan refuses such batches by the memory that the driver reports. A number of layers is not checked, so the worker
    asks the driver for more than what the operating system lets it have."""
    expected = await rows_of_processor(decoder)
    command = python(LIMITED.format(cured=str(tmp_path / "never"), room=700 * 2**20))
    async with on_card(decoder, layers=layers, command=command, batch=16_384, modes=(GPU_FULL, CPU_BEST)) as made:
        await rows_are_right(made, expected, LEAST_COSINE)
        (demotion,) = made.status.demotions
        assert (made.status.mode, demotion.mode, demotion.cause) == ("cpu", "gpu-full", "out_of_memory"), demotion.reason
        assert ("before loading" in demotion.reason) == (layers == "auto")


async def test_a_worker_that_is_frozen_while_it_computes_loses_no_text(vulkan_libraries: Path, decoder: Path) -> None:
    expected = await rows_of_processor(decoder)
    async with on_card(decoder, modes=(GPU_FULL, CPU_BEST), hang_seconds=20.0) as made:
        await rows_are_right(made, expected, LEAST_COSINE)  # shaders are compiled now
        load = made.submit(TEXTS, BULK)
        computed = made.status.texts_computed
        await until(lambda: made.status.texts_computed > computed, COMPILING)
        os.kill(made.status.worker_pid or 0, signal.SIGSTOP)
        await is_demoted_and_promoted(made, expected, "hang", lambda: None)
        for text, row in zip(TEXTS, await asyncio.gather(*load), strict=True):
            assert float(row.vector @ expected[text]) > LEAST_COSINE


async def test_rows_that_become_wrong(vulkan_libraries: Path, decoder: Path, tmp_path: Path) -> None:
    expected = await rows_of_processor(decoder)
    broken = tmp_path / "broken"
    command = python(BROKEN.format(broken=str(broken), deed="rows[:] = float('nan')"))
    async with on_card(decoder, command=command, modes=(GPU_FULL, CPU_BEST)) as made:
        await rows_are_right(made, expected, LEAST_COSINE)
        assert made.status.mode == "gpu-full"
        broken.touch()
        await is_demoted_and_promoted(made, expected, "wrong_vectors", broken.unlink)


# --- the daemon -------------------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_the_daemon_serves_from_the_device_and_reports_it(vulkan_libraries: Path, decoder: Path, tmp_path: Path) -> None:
    flags = ("--model", str(decoder), "--offline", "--no-cache")
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
