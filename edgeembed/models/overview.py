"""All models, those of the catalogue and installed ones, by type, with the memory that they take and whether they fit."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeembed.common.progress import human_size
from edgeembed.config.settings import Settings
from edgeembed.errors import HubError
from edgeembed.hub.catalogue import CatalogueEntry, catalogue
from edgeembed.hub.file_sizes import size_of
from edgeembed.hub.offered import offered_types
from edgeembed.hub.store import InstalledModel
from edgeembed.models import memory
from edgeembed.models.profiles import DEFAULT_BATCH_TOKENS, longest_text

Fit = Literal["yes", "partly", "no"]


@dataclass(frozen=True)
class TypeOverview:
    """One type of a model. Sizes in bytes; None if they are not known."""

    type: str
    file_bytes: int | None
    memory_bytes: int | None
    installed: InstalledModel | None = None


@dataclass(frozen=True, eq=False)
class ModelOverview:
    """A model and its types: those that are offered, and others that are installed.

    One of which nothing is installed is the same object each time, as long as the settings are the same.
    """

    name: str
    entry: CatalogueEntry | None
    types: tuple[TypeOverview, ...]

    @property
    def installed(self) -> InstalledModel | None:
        """One of its installed types."""
        return next((each.installed for each in self.types if each.installed), None)


@dataclass(frozen=True)
class Room:
    """Memory for models in bytes: main memory for all of them together, and that of the graphics cards in use."""

    main: int
    cards: int = 0
    card_names: str = ""

    @classmethod
    def of(cls, budget_bytes: int, devices: dict[str, Any]) -> Room:
        """Return the room on this machine. devices: from `Gpus.describe`.

        A card without memory of its own, inside the processor, adds none.
        """
        used = [
            device
            for device in devices.get("devices", ())
            if device["name"] in devices.get("used", ()) and device["kind"] == "gpu"
        ]
        share = devices.get("gpu_memory_utilization", 1.0)
        return cls(
            budget_bytes,
            int(sum(device["memory_total"] for device in used) * share),
            ", ".join(device["name"] for device in used),
        )

    def fit(self, memory_bytes: int | None) -> tuple[Fit | None, str]:
        """Return whether a model fits if it is alone, and why; None for one of unknown size."""
        if memory_bytes is None:
            return None, "its size is not known"
        needed = f"about {human_size(memory_bytes)}"
        if self.cards and memory_bytes <= self.cards:
            return "yes", f"{needed}, all on {self.card_names}"
        if self.cards and memory_bytes - self.cards <= self.main:
            return (
                "partly",
                f"{needed}: a part on {self.card_names}, which has {human_size(self.cards)}, the rest in main memory",
            )
        if memory_bytes <= self.main:
            return "yes", f"{needed} of the {human_size(self.main)} for loaded models"
        return "no", f"{needed}, more than the {human_size(self.main)} for loaded models (memory_budget_mib)"


def overview(installed: Iterable[InstalledModel], settings: Settings) -> list[ModelOverview]:
    """Return all models of the catalogue and all installed ones, by name."""
    there: dict[str, list[InstalledModel]] = {}
    for model in installed:
        there.setdefault(model.name, []).append(model)
    sizes = (settings.context_tokens, settings.batch_tokens)
    return [
        _overview(name, there[name], settings) if name in there else _offered(name, *sizes)
        for name in sorted({*catalogue(), *there})
    ]


def memory_of(entry: CatalogueEntry, kind: str, settings: Settings) -> int | None:
    """Return an estimate of the memory that a model of the catalogue takes, in bytes; None if its shape is not known."""
    longest = longest_text(settings.context_tokens, entry.max_seq_length)
    return memory.estimate_entry(entry, kind, longest, settings.batch_tokens or DEFAULT_BATCH_TOKENS)


def memory_of_installed(model: InstalledModel, settings: Settings) -> int | None:
    """Return an estimate of the memory that an installed model takes, in bytes; None if its file cannot be read."""
    longest = longest_text(settings.context_tokens, model.max_seq_length)
    try:
        return _estimate_file(model.path, model.digest, longest, settings.batch_tokens or DEFAULT_BATCH_TOKENS)
    except (HubError, OSError):
        return None


def memory_of_file(path: Path, max_seq_length: int | None, settings: Settings) -> int:
    """Return an estimate of the memory that the model in a GGUF file takes, in bytes. Raises HubError."""
    longest = longest_text(settings.context_tokens, max_seq_length)
    return memory.estimate(path, longest, settings.batch_tokens or DEFAULT_BATCH_TOKENS)


@functools.lru_cache(maxsize=512)  # reads the file's header, with its vocabulary
def _estimate_file(path: Path, _digest: str, longest: int, batch: int) -> int:
    return memory.estimate(path, longest, batch)


@functools.lru_cache(maxsize=512)  # sums over all tensors of all types
def _offered(name: str, context_tokens: int, batch_tokens: int) -> ModelOverview:
    """Return a model of which nothing is installed. context_tokens, batch_tokens: the settings."""
    return _overview(name, [], Settings(context_tokens=context_tokens, batch_tokens=batch_tokens))


def _overview(name: str, installed: list[InstalledModel], settings: Settings) -> ModelOverview:
    entry, there = catalogue().get(name), {model.type: model for model in installed}
    offered = offered_types(entry) if entry else []
    if entry:  # the one that is meant without a type comes first
        offered.sort(key=lambda kind: kind != entry.default_type)
    types = []
    for kind in dict.fromkeys((*offered, *there)):
        if model := there.get(kind):
            needed = None if model.damage else memory_of_installed(model, settings)
            types.append(TypeOverview(kind, model.size_bytes, needed, model))
        elif entry:
            types.append(TypeOverview(kind, size_of(entry, kind), memory_of(entry, kind, settings)))
    return ModelOverview(name, entry, tuple(types))
