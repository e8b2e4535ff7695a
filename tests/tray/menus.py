"""Entries of a menu, by label."""

from __future__ import annotations

from collections.abc import Iterable

from edgeembed.tray.menu import Entry


def flat(entries: Iterable[Entry]) -> list[Entry]:
    return [each for entry in entries for each in (entry, *flat(entry.inner))]


def find(entries: Iterable[Entry], label: str) -> Entry:
    (found,) = (entry for entry in flat(entries) if entry.label == label)
    return found
