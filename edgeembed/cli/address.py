"""The address of the daemon that a command asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgeembed.config.resolution import Resolved


def resolve_address(flags: Mapping[str, Any]) -> Resolved:
    """Return the settings in effect, without a configured Unix socket where the command line names host or port."""
    import msgspec

    from edgeembed.config.resolution import resolve

    resolved = resolve(flags)
    if "flag" in (resolved.origins["host"], resolved.origins["port"]) and resolved.origins["uds"] != "flag":
        return replace(resolved, settings=msgspec.structs.replace(resolved.settings, uds=None))
    return resolved
