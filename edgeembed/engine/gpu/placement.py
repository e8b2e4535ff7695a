"""The graphics cards that the settings allow: the modes that they put on a model's ladder, and what goes where.

Each model goes to the card with most room, so several models spread over several cards; one that no card holds alone is
split over all of them. What a model that still loads is about to take counts as taken.
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
    NoGpu,
    NoGpuCause,
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
"""Tokens of a forward pass where neither a setting nor a profile says otherwise: a card is idle with fewer."""
PART = 0.75
"""Of the layers, at most, on the mode below the whole model: it fell although it should have fitted."""
LOADING_SECONDS = 300.0
"""How long what a model is about to take counts, when nothing more is heard of it."""
ALL_LAYERS = "auto"
_ENDLESS = 2**62

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
"""Why a mode on a card is unavailable, by why no card can be used; of several reasons the first in this order decides."""


@dataclass
class _Place:
    plan: GpuPlan
    at: float
    ready: bool = False


class Gpus:
    """What there is of graphics cards, and who has what of them. All methods may be called from any thread."""

    def __init__(
        self,
        device: str = "auto",
        gpu_layers: str = ALL_LAYERS,
        utilization: float = 0.9,
        *,
        look: Callable[[], Inventory] = take_inventory,
        libraries: Sequence[Path] | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """Prepare; nothing is looked at yet. device, gpu_layers, utilization: the settings of these names.

        libraries: of backends for cards; those of the installed build unless given.
        """
        self.device = device
        self._layers = None if gpu_layers == ALL_LAYERS else int(gpu_layers)
        self._utilization = utilization
        self._look = look
        self._libraries = gpu_libraries(library_folder(environ)) if libraries is None else list(libraries)
        self._environ = environ
        self._lock = threading.Lock()
        self._inventory: Inventory | None = None
        self._looked_at: float | None = None
        self._places: dict[str, _Place] = {}

    @property
    def possible(self) -> bool:
        """Whether a card may be used at all, as far as that is known without looking for one."""
        return self.device != "cpu" and self._layers != 0 and (bool(self._libraries) or self.device != "auto")

    def inventory(self, *, fresh: bool = False) -> Inventory:
        """Give what a look found; the last one's, unless `fresh`. Without a backend for cards nothing is looked at."""
        if self._inventory is None and not self._libraries and not fresh:
            return Inventory(backends=("CPU",), nvidia=nvidia.NvidiaFacts(cards=nvidia.cards()))
        if self._inventory is None or fresh:
            self._inventory = self._look()
            self._looked_at = time.time()
        return self._inventory

    def why_none(self) -> list[NoGpu]:
        """Say why no card is used; nothing when one can be."""
        return why_no_gpu(self.inventory(), self.device, libraries=self._libraries, environ=self._environ)

    def modes(self, sizes: Sizes, options: WorkerOptions) -> tuple[ExecutionMode, ...]:
        """Give the modes for cards, best first, that this model's ladder has.

        options: as for `place`. A model that is larger than the cards has no mode for the whole of it. Where the setting
        asks for a card by name and there is none, the mode is there to fall from, and to be tried again.
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
        """Decide what of a model goes where, by what is free now, and give the options that say so.

        key: of the model. options: with batches and lanes for a card. Raises ModeUnavailableError with the reason.
        """
        with self._lock:
            devices, rooms = self._room(key, own=False)
            plan = self._plan(mode, sizes, options, devices, rooms)
            self._places[key] = _Place(plan, time.monotonic())
        log.info("%s: %s", mode.name, plan)
        return msgspec.structs.replace(
            options, device=",".join(plan.devices), gpu_layers=plan.gpu_layers, tensor_split=plan.tensor_split
        )

    def require_room(self, mode: ExecutionMode, key: str, sizes: Sizes, options: WorkerOptions) -> None:
        """Raise ModeUnavailableError when a model cannot be loaded in a mode now; its own share of a card counts as free."""
        if mode.gpu == "none":
            return
        with self._lock:
            devices, rooms = self._room(key, own=True)
            self._plan(mode, sizes, options, devices, rooms)

    def loaded(self, key: str) -> None:
        """Hear that a model is loaded: what it takes is seen in what is free."""
        if place := self._places.get(key):
            place.ready = True

    def left(self, key: str) -> None:
        """Hear that a model is on no card any more."""
        self._places.pop(key, None)

    def preview(self, sizes: Sizes, options: WorkerOptions) -> GpuPlan:
        """Say what would go where if a model were loaded now. Raises ModeUnavailableError."""
        with self._lock:
            devices, rooms = self._room("", own=False)
            try:
                return self._plan(GPU_FULL, sizes, options, devices, rooms)
            except ModeUnavailableError:
                return self._plan(GPU_PARTIAL, sizes, options, devices, rooms)

    def weights_on_cards(self, sizes: Sizes, options: WorkerOptions) -> int:
        """Estimate the bytes of a model's layers that cards would take off the machine's memory, were it loaded now.

        The output layer is left out: where it is the embeddings' matrix, that stays in the machine's memory too.
        """
        if not self.possible or not chosen_gpus(self.inventory(), self.device):
            return 0
        try:
            layers = self.preview(sizes, options).gpu_layers - 1
        except ModeUnavailableError:
            return 0
        return sum(sizes[0].layers[-layers:]) if layers > 0 else 0

    def describe(self) -> dict[str, Any]:
        """Give all that is known, for status and `edgeembed devices`; `inventory(fresh=True)` looks anew."""
        inventory = self.inventory()
        return {
            "setting": self.device,
            "looked_at": self._looked_at,
            "gpu_memory_utilization": self._utilization,
            "backends": list(inventory.backends),
            "devices": [msgspec.to_builtins(device) for device in inventory.devices],
            "modules": [msgspec.to_builtins(module) for module in inventory.modules],
            "nvidia": msgspec.to_builtins(inventory.nvidia),
            "used": [device.name for device in chosen_gpus(inventory, self.device)],
            "why_no_gpu": [msgspec.to_builtins(reason) for reason in self.why_none()],
        }

    # --- room ---------------------------------------------------------------------------------------------------------

    def _room(self, key: str, *, own: bool) -> tuple[tuple[Device, ...], list[int]]:
        """Look, and give the devices with what may be taken of each. own: count what this model has as free."""
        devices = chosen_gpus(self.inventory(fresh=True), self.device)
        if not devices:
            raise self._no_device()
        rooms = []
        for device in devices:
            mine = self._taken(device, lambda other, place: other == key and place.ready) if own else 0
            coming = self._taken(
                device, lambda other, place: other != key and not place.ready and _age(place) < LOADING_SECONDS
            )
            rooms.append(max(0, room_on(device, self._utilization, mine) - coming))
        return devices, rooms

    def _no_device(self) -> ModeUnavailableError:
        inventory, reasons = self.inventory(), self.why_none()
        text = "; ".join(reason.text for reason in reasons) or "llama.cpp finds no GPU"
        if inventory.problem:
            return ModeUnavailableError(text, inventory.problem_cause)
        found = {reason.cause for reason in reasons}
        return ModeUnavailableError(text, next((cause for name, cause in _CAUSES.items() if name in found), "no_device"))

    def _taken(self, device: Device, counts: Callable[[str, _Place], bool]) -> int:
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
        if self._layers is not None:  # who gives a number knows better than the estimate
            return plan_gpu(*sizes, options, devices[:1], [_ENDLESS], layers=self._layers)
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
    """Give options as a card wants them: large batches, one context, nothing that is about a processor's kernels.

    batch_tokens: what settings or a profile say.
    """
    return msgspec.structs.replace(
        options, batch_tokens=batch_tokens or BATCH_TOKENS, bulk_lanes=0, pad_from_tokens=0, autotune=False
    )


def _age(place: _Place) -> float:
    return time.monotonic() - place.at
