"""Settings and folders, resolved once: flags, then EDGEEMBED_* variables, then config.toml, then defaults."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeembed.common.files import expanded
from edgeembed.config.file import read_config
from edgeembed.config.paths import CACHE_VARIABLE, HOME_VARIABLE, Paths
from edgeembed.config.secrets import ENV_PREFIX, hub_token_file, is_open, secret_names
from edgeembed.config.settings import Settings
from edgeembed.config.values import Origin, check_value, field_names, may_be_empty

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resolved:
    """The settings in effect, and the origin of each value."""

    settings: Settings
    origins: Mapping[str, Origin]
    paths: Paths


def resolve(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Resolved:
    """Return the settings in effect; a flag whose value is None was not given.

    Raises ConfigError naming the flag, the variable or the file and key of a bad value.
    """
    environ = os.environ if environ is None else environ
    paths = Paths.resolve(environ)
    layers: list[tuple[Origin, dict[str, Any]]] = [
        ("config.toml", read_config(paths.config_file)),
        ("environment", _from_environment(environ)),
        ("flag", {key: value for key, value in (flags or {}).items() if value is not None}),
    ]
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = dict.fromkeys(field_names(), "default")
    for origin, layer in layers:
        for key, raw in layer.items():
            values[key] = check_value(key, raw, origin, paths.config_file)
            origins[key] = origin
    return Resolved(Settings(**values), origins, paths)


def files_others_can_read(resolved: Resolved) -> list[Path]:
    """Return the files with secrets that are in use here and that other users of this machine can read."""
    settings = resolved.settings
    named = [settings.api_key_file, settings.keyfile or settings.certfile]  # a certfile alone holds its key, too
    files = [expanded(name) for name in named if name] + [hub_token_file(os.environ)]
    if any(resolved.origins[name] == "config.toml" for name in secret_names()):
        files.append(resolved.paths.config_file)
    return [file for file in files if is_open(file)]


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the settings in EDGEEMBED_* variables; an empty variable counts as unset, unless it protects something."""
    known = set(field_names())
    found = {}
    for name, value in environ.items():
        if not name.startswith(ENV_PREFIX) or name in (HOME_VARIABLE, CACHE_VARIABLE):
            continue
        key = name.removeprefix(ENV_PREFIX).lower()
        if not value and (key not in known or may_be_empty(key)):
            continue
        if key in known:
            found[key] = value
        else:
            log.warning("%s is not a setting of edgeembed; ignored", name)
    return found
