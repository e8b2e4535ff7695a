"""The files and folders of edgeembed on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

from edgeembed.common.files import expanded
from edgeembed.errors import ConfigError

HOME_VARIABLE = "EDGEEMBED_HOME"
CACHE_VARIABLE = "EDGEEMBED_CACHE_HOME"
"""The cache's folder alone, for daemons that share models and settings but not their rows."""
_NO_HOME = "the system knows no home folder of this user; set HOME"


@dataclass(frozen=True)
class Paths:
    """Files and folders. EDGEEMBED_HOME moves all of them under one folder, EDGEEMBED_CACHE_HOME only the cache."""

    config_file: Path
    models: Path
    cache: Path
    state: Path
    logs: Path

    @classmethod
    def resolve(cls, environ: Mapping[str, str] | None = None) -> Paths:
        """Return the paths of the current user; nothing is created. Raises ConfigError if the user has no home folder."""
        environ = os.environ if environ is None else environ
        found = cls._resolve(environ)
        cache = environ.get(CACHE_VARIABLE)
        return replace(found, cache=expanded(cache)) if cache else found

    @classmethod
    def _resolve(cls, environ: Mapping[str, str]) -> Paths:
        if home := environ.get(HOME_VARIABLE):
            root = expanded(home)
            return cls(root / "config.toml", root / "models", root / "cache", root / "state", root / "logs")
        dirs = platformdirs.PlatformDirs("edgeembed", appauthor=False)
        try:
            return cls(
                config_file=dirs.user_config_path / "config.toml",
                models=dirs.user_data_path / "models",
                cache=dirs.user_cache_path,
                state=dirs.user_state_path / "state",
                logs=dirs.user_log_path,
            )
        except RuntimeError as error:  # without HOME, and of a user without an entry in /etc/passwd, as in a container
            raise ConfigError(f"{_NO_HOME}, or {HOME_VARIABLE} to the folder for edgeembed's files") from error


def home_folder() -> Path:
    """Return the home folder of the current user. Raises ConfigError if there is none."""
    try:
        return Path.home()
    except RuntimeError as error:
        raise ConfigError(_NO_HOME) from error
