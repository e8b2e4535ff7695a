"""The graphics cards that the settings allow: the execution modes that they add, and which layers go to which card.

Each model goes to the card with the most free memory, so several models spread over several cards; a model that fits on no
single card is split over all of them. Memory that a loading model is about to use counts as used.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgeembed.engine.causes import Cause
from edgeembed.engine.context_plan import ModelFacts
from edgeembed.engine.execution_modes import GPU_FULL, GPU_PARTIAL, ExecutionMode, ModeUnavailableError
from edgeembed.engine.gpu import nvidia
from edgeembed.engine.gpu.inventory import (
    Device,
    Inventory,
    NoGpuCause,
    NoGpuReason,
    chosen_gpus,
    gpu_libraries,
    library_folder,
    take_inventory,
    why_no_gpu,
)
from edgeembed.engine.gpu.plan import DoesNotFitError, GpuPlan, ModelWeights, plan_gpu, room_on
from edgeembed.engine.worker_options import WorkerOptions

log = logging.getLogger(__name__)

BATCH_TOKENS = 2048
"""Tokens of a forward pass unless a setting or a run profile differs: fewer do not keep a card busy."""
PART = 0.75
"""The most of the layers that gpu-partial puts on a card: gpu-full failed although it should have fitted."""
LOADING_SECONDS = 300.0
"""How long the memory that a loading model is about to use counts, if it never reports that it is loaded."""
ALL_LAYERS = "auto"
_UNLIMITED = 2**62

Sizes = tuple[ModelWeights, ModelFacts]

_CAUSES: dict[NoGpuCause, Cause] = {
    "driver_too_old": "driver_too_old",
    "no_driver": "no_driver",
    "broken_module": "no_driver",
    "no_build": "no_driver",
    "driver_fails": "no_driver",
    "no_card": "no_device",
    "hidden": "no_device",
    "no_such_device": "no_device",
    "device_is_cpu": "no_device",
}
"""Cause of a mode's failure, by the reason why no card can be used. Of several reasons the first in this order counts."""


@dataclass
class _Placement:
    """A model's share of the cards. at: when it began to load. ready: it is loaded."""

    plan: GpuPlan
    at: float
    ready: bool = False


class Gpus:
    """The graphics cards and the shares of them that models use. All methods may be called from any thread."""

    def __init__(
        self,
        device: str = "auto",
        gpu_layers: str = ALL_LAYERS,
        utilization: float = 0.9,
        *,
        inspect: Callable[[], Inventory] = take_inventory,
        libraries: Sequence[Path] | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """Inspect nothing yet. device, gpu_layers, utilization: the settings of these names.

        inspect: lists the devices. libraries: of backends for cards; by default those of the installed build.
        """
        self.device = device
        self._layers = None if gpu_layers == ALL_LAYERS else int(gpu_layers)
        self._utilization = utilization
        self._inspect = inspect
        self._libraries = gpu_libraries(library_folder(environ)) if libraries is None else list(libraries)
        self._environ = environ
        self._lock = threading.Lock()
        self._inventory: Inventory | None = None
        self._inspected_at: float | None = None
        self._places: dict[str, _Placement] = {}

    @property
    def possible(self) -> bool:
        """Whether a card may be used at all, as far as settings and the build's files show."""
        return self.device != "cpu" and self._layers != 0 and (bool(self._libraries) or self.device != "auto")

    def inventory(self, *, fresh: bool = False) -> Inventory:
        """Return the latest inventory, or a new one. Without a backend for cards nothing is inspected unless `fresh`."""
        if self._inventory is None and not self._libraries and not fresh:
            return Inventory(backends=("CPU",), nvidia=nvidia.NvidiaFacts(cards=nvidia.cards()))
        if self._inventory is None or fresh:
            self._inventory = self._inspect()
            self._inspected_at = time.time()
        return self._inventory

    def why_none(self) -> list[NoGpuReason]:
        """Return why no card can be used; nothing when one can."""
        return why_no_gpu(self.inventory(), self.device, libraries=self._libraries, environ=self._environ)

    def modes(self, sizes: Sizes, options: WorkerOptions) -> tuple[ExecutionMode, ...]:
        """Return this model's execution modes for cards, best first.

        options: as for `place`. A model that is larger than the cards has no gpu-full. Where the setting names a card that
        is missing, the mode is listed anyway, so that it is reported as failed and tried again later.
        """
        if not self.possible:
            return ()
        devices = chosen_gpus(self.inventory(), self.device)
        named = self.device != "auto"
        if not devices:
            return (GPU_FULL,) if named else ()
        if self._layers is not None:
            return (GPU_FULL,) if self._layers >= sizes[0].count else (GPU_PARTIAL,)
        empty = [msgspec.structs.replace(device, memory_free=device.memory_total) for device in devices]
        try:
            plan = plan_gpu(*sizes, options, empty, [room_on(device, self._utilization) for device in empty])
        except DoesNotFitError as error:
            log.info("no graphics card is large enough: %s", error)
            return (GPU_PARTIAL,) if named else ()
        return (GPU_FULL, GPU_PARTIAL) if plan.whole else (GPU_PARTIAL,)

    def place(self, mode: ExecutionMode, key: str, sizes: Sizes, options: WorkerOptions) -> WorkerOptions:
        """Choose which layers go where, by the memory that is free now, and return the options with this choice.

        key: of the model. options: with batches and lanes for a card. Raises ModeUnavailableError with the reason.
        """
        with self._lock:
            devices, rooms = self._room(key, own=False)
            plan = self._plan(mode, sizes, options, devices, rooms)
            self._places[key] = _Placement(plan, time.monotonic())
        log.info("%s: %s", mode.name, plan)
        return msgspec.structs.replace(
            options, device=",".join(plan.devices), gpu_layers=plan.gpu_layers, tensor_split=plan.tensor_split
        )

    def require_room(self, mode: ExecutionMode, key: str, sizes: Sizes, options: WorkerOptions) -> None:
        """Raise ModeUnavailableError if a model cannot be loaded in a mode now; its own share of a card counts as free."""
        if mode.gpu == "none":
            return
        with self._lock:
            devices, rooms = self._room(key, own=True)
            self._plan(mode, sizes, options, devices, rooms)

    def loaded(self, key: str) -> None:
        """Note that a model is loaded: from now on the memory that it uses shows in the free memory."""
        if place := self._places.get(key):
            place.ready = True

    def unloaded(self, key: str) -> None:
        """Note that a model no longer uses any card."""
        self._places.pop(key, None)

    def preview(self, sizes: Sizes, options: WorkerOptions) -> GpuPlan:
        """Return which layers would go where if a model were loaded now. Raises ModeUnavailableError."""
        with self._lock:
            devices, rooms = self._room("", own=False)
            try:
                return self._plan(GPU_FULL, sizes, options, devices, rooms)
            except ModeUnavailableError:
                return self._plan(GPU_PARTIAL, sizes, options, devices, rooms)

    def weights_on_cards(self, sizes: Sizes, options: WorkerOptions) -> int:
        """Return the estimated bytes of a model's layers that cards would hold in place of main memory, if loaded now.

        None on a card inside the processor: its memory is main memory. The output layer is not counted: where it is the
        matrix of the token embeddings, main memory holds it too.
        """
        if not self.possible or not chosen_gpus(self.inventory(), self.device):
            return 0
        try:
            plan = self.preview(sizes, options)
        except ModeUnavailableError:
            return 0
        if any(device.name in plan.devices and not device.has_memory for device in self.inventory().devices):
            return 0
        layers = plan.gpu_layers - 1
        return sum(sizes[0].layers[-layers:]) if layers > 0 else 0

    def describe(self) -> dict[str, Any]:
        """Return settings, devices and reasons of the latest inventory as JSON, for the status and `edgeembed devices`."""
        inventory = self.inventory()
        return {
            "setting": self.device,
            "inspected_at": self._inspected_at,
            "gpu_memory_utilization": self._utilization,
            "backends": list(inventory.backends),
            "devices": [msgspec.to_builtins(device) for device in inventory.devices],
            "modules": [msgspec.to_builtins(module) for module in inventory.modules],
            "nvidia": msgspec.to_builtins(inventory.nvidia),
            "vulkan": msgspec.to_builtins(inventory.vulkan),
            "used": [device.name for device in chosen_gpus(inventory, self.device)],
            "why_no_gpu": [msgspec.to_builtins(reason) for reason in self.why_none()],
        }

    # --- room ---------------------------------------------------------------------------------------------------------

    def _room(self, key: str, *, own: bool) -> tuple[tuple[Device, ...], list[int]]:
        """Return the devices and the bytes that may be used of each, now. own: count this model's own share as free."""
        devices = chosen_gpus(self.inventory(fresh=True), self.device)
        if not devices:
            raise self._no_device()
        return devices, [self._room_of(device, key, own=own) for device in devices]

    def _room_of(self, device: Device, key: str, *, own: bool) -> int:
        # Drivers without VK_EXT_memory_budget report all memory as free, whatever is loaded.
        silent = device.memory_free == device.memory_total
        mine = self._taken(device, lambda other, place: other == key and place.ready) if own else 0
        others = self._taken(device, lambda other, place: other != key and _uncounted(place, silent=silent))
        return max(0, room_on(device, self._utilization, mine) - others)

    def _no_device(self) -> ModeUnavailableError:
        inventory, reasons = self.inventory(), self.why_none()
        text = "; ".join(reason.text for reason in reasons) or "llama.cpp finds no GPU"
        if inventory.problem:
            return ModeUnavailableError(text, inventory.problem_cause)
        found = {reason.cause for reason in reasons}
        return ModeUnavailableError(text, next((cause for name, cause in _CAUSES.items() if name in found), "no_device"))

    def _taken(self, device: Device, counts: Callable[[str, _Placement], bool]) -> int:
        return sum(
            taken
            for key, place in list(self._places.items())
            if counts(key, place)
            for name, taken in zip(place.plan.devices, place.plan.bytes, strict=True)
            if name == device.name
        )

    def _plan(
        self, mode: ExecutionMode, sizes: Sizes, options: WorkerOptions, devices: Sequence[Device], rooms: Sequence[int]
    ) -> GpuPlan:
        if self._layers is not None:  # a number that the user sets overrides the estimate
            return plan_gpu(*sizes, options, devices[:1], [_UNLIMITED], layers=self._layers)
        count = sizes[0].count
        try:
            if mode.gpu == "whole":
                return plan_gpu(*sizes, options, devices, rooms, layers=count)
            part = plan_gpu(*sizes, options, devices, rooms)
            most = max(2, int(PART * count))
            return part if part.gpu_layers <= most else plan_gpu(*sizes, options, devices, rooms, layers=most)
        except DoesNotFitError as error:
            raise ModeUnavailableError(str(error), "out_of_memory") from error


def for_card(options: WorkerOptions, batch_tokens: int | None) -> WorkerOptions:
    """Return options for a card: large batches, one context, nothing that concerns a processor's kernels.

    batch_tokens: from settings or a run profile.
    """
    return msgspec.structs.replace(
        options, batch_tokens=batch_tokens or BATCH_TOKENS, bulk_lanes=0, pad_from_tokens=0, autotune=False
    )


def _uncounted(place: _Placement, *, silent: bool) -> bool:
    """Return whether the free memory that a card reports does not tell what a model takes. silent: it never does."""
    return silent if place.ready else time.monotonic() - place.at < LOADING_SECONDS
