"""One-time migration of the state files of earlier versions.

Up to 0.1 the state folder held `ladder.json` (failed execution modes, now `execution-modes.json`), `profiles.json` (the best
run profile of each model, now `run-profiles.json`) and `upstream.json` (upstream's identities, now
`upstream-identities.json`), with other names for some of their keys.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeembed.common.files import read_json, write_json

log = logging.getLogger(__name__)


def migrate_state(state: Path) -> None:
    """Rewrite the files of earlier versions in the folder `state`, if there are any.

    A file that cannot be read or written is left alone, with a warning: its content is only found out again.
    """
    for old, new, convert in _RENAMED:
        if not (state / old).exists():
            continue
        try:
            if not (state / new).exists():
                write_json(state / new, convert(read_json(state / old, object)))
            (state / old).unlink(missing_ok=True)
        except (OSError, ValueError, RecursionError, TypeError, AttributeError) as error:
            log.warning("cannot migrate %s to %s: %s", state / old, new, error)


def _with_modes(content: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {key: [_renamed(entry, {"rung": "mode"}) for entry in entries] for key, entries in content.items()}


def _with_profiles(content: dict[str, dict[str, Any]]) -> dict[str, Any]:
    names = {"way": "profile", "rung": "mode"}
    migrated = {key: _renamed(entry, names) for key, entry in content.items()}
    for entry in migrated.values():
        entry["measured"] = [_renamed(each, names) for each in entry.get("measured", [])]
    return migrated


def _with_identities(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [_renamed(entry, {}) for entry in content]


def _renamed(entry: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in entry.items()}


_RENAMED: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("ladder.json", "execution-modes.json", _with_modes),
    ("profiles.json", "run-profiles.json", _with_profiles),
    ("upstream.json", "upstream-identities.json", _with_identities),
)
