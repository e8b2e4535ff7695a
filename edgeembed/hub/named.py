"""The models that a setting names: whether they exist, and whether they are installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.hub.fetched import installed_from
from edgeembed.hub.other_names import meaning
from edgeembed.hub.references import Spec, looks_like_path, parse_spec
from edgeembed.hub.store import Store

_SUFFIXES = (":query", ":document", ":cosine")
"""What a name in a request may end with, and so the value of an alias."""


def check_models(name: str, value: Any, settings: Settings, paths: Paths) -> tuple[Any, list[str]]:
    """Return the checked value of a setting, with absolute paths of files, and a line about each model to be pulled.

    settings: the others; with `upstream`, another server knows the names. Raises UnknownModelError for a model that exists
    nowhere, with names that are near.
    """
    notes: list[str] = []

    def checked(model: str) -> str:
        spec, written = _spec_of(model, paths)
        if spec.path is None and not _is_installed(spec, paths):
            notes.append(f"{spec} is not installed; to download it: edgeembed pull {spec}")
        return written

    if value is None or settings.upstream:
        return value, notes
    check: dict[str, Callable[[], Any]] = {
        "model": lambda: checked(value),
        "preload": lambda: tuple(map(checked, value)),
        "pin": lambda: tuple(map(checked, value)),
        "aliases": lambda: {alias: checked(meant) for alias, meant in value.items()},
        "keep_alive_of": lambda: {checked(model): duration for model, duration in value.items()},
    }
    return (check[name]() if name in check else value), notes


def names_file(model: str) -> bool:
    """Return whether a model in a setting may be a file of this machine: it is neither the catalogue's nor the hub's."""
    name, _ = _split(model)
    return looks_like_path(name) and name[:3].lower() != "hf:" and meaning(name) is None


def _split(model: str) -> tuple[str, str]:
    """Return a name without its suffix, and the suffix."""
    suffix = next((each for each in _SUFFIXES if model.lower().endswith(each)), "")
    end = len(model) - len(suffix)
    return model[:end], model[end:]


def _spec_of(model: str, paths: Paths) -> tuple[Spec, str]:
    """Return what a name means, and how it is written to the settings."""
    name, suffix = _split(model)
    spec = parse_spec(name, paths)
    # The daemon's folder is not the one of this command.
    written = str(Path(spec.path).absolute()) if spec.path is not None else name
    return spec, written + suffix


def _is_installed(spec: Spec, paths: Paths) -> bool:
    store = Store(paths)
    if spec.reference is not None:
        return installed_from(store, spec.reference) is not None
    return store.find(spec.name, spec.type) is not None
