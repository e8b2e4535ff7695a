"""Entries of a menu, by label."""

from __future__ import annotations

from collections.abc import Iterable

from edgeembed.tray.menu import MenuEntry


def flat(entries: Iterable[MenuEntry]) -> list[MenuEntry]:
    return [each for entry in entries for each in (entry, *flat(entry.submenu))]


def find(entries: Iterable[MenuEntry], label: str) -> MenuEntry:
    (found,) = (entry for entry in flat(entries) if entry.label == label)
    return found
