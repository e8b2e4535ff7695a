"""Settings and folders, resolved once: flags, then EDGEEMBED_* variables, then config.toml, then defaults."""

from __future__ import annotations

import difflib
import logging
import os
import re
import stat
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import msgspec
import platformdirs

from edgeembed.errors import ConfigError
from edgeembed.settings import Settings as Settings

log = logging.getLogger(__name__)

ENV_PREFIX = "EDGEEMBED_"
HOME_VARIABLE = "EDGEEMBED_HOME"

_ENCODING = "utf-8-sig"  # editors on Windows put a mark in front of UTF-8

Origin = Literal["flag", "environment", "config.toml", "default"]


@dataclass(frozen=True)
class Paths:
    """Where things live. EDGEEMBED_HOME moves all of it under one folder."""

    config_file: Path
    models: Path
    cache: Path
    state: Path
    logs: Path

    @classmethod
    def resolve(cls, environ: Mapping[str, str] | None = None) -> Paths:
        """Give the folders of this user; nothing is created."""
        environ = os.environ if environ is None else environ
        if home := environ.get(HOME_VARIABLE):
            root = Path(home).expanduser().absolute()
            return cls(root / "config.toml", root / "models", root / "cache", root / "state", root / "logs")
        dirs = platformdirs.PlatformDirs("edgeembed", appauthor=False)
        return cls(
            config_file=dirs.user_config_path / "config.toml",
            models=dirs.user_data_path / "models",
            cache=dirs.user_cache_path,
            state=dirs.user_state_path / "state",
            logs=dirs.user_log_path,
        )


@dataclass(frozen=True)
class Resolved:
    """The settings in force, and for each field where its value came from."""

    settings: Settings
    origins: Mapping[str, Origin]
    paths: Paths


def field_names() -> list[str]:
    """Give the names of all settings, in the order of their definition."""
    return [field.name for field in msgspec.structs.fields(Settings)]


def resolve(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Resolved:
    """Resolve the settings; a flag whose value is None was not given.

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
            values[key] = _checked(key, raw, origin, paths.config_file)
            origins[key] = origin
    return Resolved(Settings(**values), origins, paths)


def read_config(path: Path) -> dict[str, Any]:
    """Read config.toml; a missing file is an empty one. Raises ConfigError when it is not TOML or has an unknown key."""
    try:
        found = tomllib.loads(path.read_text(encoding=_ENCODING))
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    known = field_names()
    for key in found:
        if key not in known:
            raise ConfigError(f"{path}: unknown key {key!r}.{_did_you_mean(key, known)}")
    return found


def write_setting(path: Path, key: str, value: Any, comment: str | None = None) -> None:
    """Set one key of config.toml, keeping the user's own lines and comments; the file is replaced atomically.

    A link stays a link, and the file keeps its mode.

    Raises ConfigError for an unknown key, a bad value, or a file that cannot be read or written.
    """
    if key not in field_names():
        raise ConfigError(f"unknown setting {key!r}.{_did_you_mean(key, field_names())}")
    import tomlkit  # takes as long to import as all else that a command needs

    checked = _checked(key, value, "config.toml", path)
    read_config(path)  # never rewrite a file that we do not understand
    try:
        text = path.read_text(encoding=_ENCODING) if path.exists() else ""
        # tomlkit would hang a new line onto a last one that is not ended.
        document = tomlkit.parse(text if text.endswith("\n") or not text else f"{text}\n")
        if comment and key not in document:
            document.add(tomlkit.comment(comment))
        document[key] = list(checked) if isinstance(checked, tuple) else checked
        _replace(path.resolve(), tomlkit.dumps(document))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error}") from error


def remove_setting(path: Path, key: str) -> bool:
    """Take one key out of config.toml, so that its default counts again; says whether it was there.

    Raises ConfigError for an unknown key, or a file that cannot be read or written.
    """
    if key not in field_names():
        raise ConfigError(f"unknown setting {key!r}.{_did_you_mean(key, field_names())}")
    if key not in read_config(path):
        return False
    import tomlkit

    try:
        document = tomlkit.parse(path.read_text(encoding=_ENCODING))
        del document[key]
        _replace(path.resolve(), tomlkit.dumps(document))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error}") from error
    return True


def _replace(path: Path, text: str) -> None:
    """Write a file in one step. Raises OSError; the old file is then untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=".config-", suffix=".tmp", delete=False
    ) as file:
        new = Path(file.name)
        try:
            file.write(text)
            file.close()
            if path.exists():
                new.chmod(stat.S_IMODE(path.stat().st_mode))
            new.replace(path)
        except OSError:
            file.close()
            new.unlink(missing_ok=True)
            raise


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Collect EDGEEMBED_* variables; an empty one counts as not set."""
    known = set(field_names())
    found = {}
    for name, value in environ.items():
        if not name.startswith(ENV_PREFIX) or name == HOME_VARIABLE or not value:
            continue
        key = name.removeprefix(ENV_PREFIX).lower()
        if key in known:
            found[key] = value
        else:
            log.warning("%s is not a setting of edgeembed and is ignored", name)
    return found


def _checked(key: str, raw: Any, origin: Origin, config_file: Path) -> Any:
    """Convert and check one value. Text from flags and variables may stand for numbers and booleans; TOML has types."""
    fields = {field.name: field for field in msgspec.structs.fields(Settings)}
    try:
        if key == "gpu_layers" and isinstance(raw, int) and not isinstance(raw, bool):
            raw = str(raw)
        if key in _LISTS or key in _TABLES:
            raw = _parts_of(raw, table=key in _TABLES)
        value = msgspec.convert(raw, fields[key].type, strict=origin == "config.toml" and not isinstance(raw, str))
        if key in ("keep_alive", "cache_ttl"):
            seconds_of(value)
        if key in _URLS and value is not None:
            value = _base_url(value)
        if key == "keep_alive_of":
            for duration in value.values():
                seconds_of(duration)
        return value
    except ValueError as error:  # msgspec.ValidationError is one
        where = {
            "flag": f"--{key.replace('_', '-')}",
            "environment": f"{ENV_PREFIX}{key.upper()}",
            "config.toml": f"{config_file}: {key}",
            "default": key,
        }[origin]
        if key in _FORMS:
            raise ConfigError(f"{where} = {raw!r}: {_FORMS[key]} is expected") from error
        choices = get_args(get_args(fields[key].type)[0]) if isinstance(fields[key].default, str) else ()
        one_of = f"; one of {', '.join(choices)}" if choices else ""
        raise ConfigError(f"{where} = {raw!r}: {error}{one_of}") from error


_FORMS = {
    "device": "auto, cpu, cuda, vulkan, metal, or one card of several such as cuda:1",
    "gpu_layers": "auto or a number",
}
_LISTS = ("preload", "pin", "allowed_hosts", "allowed_origins")
_TABLES = ("aliases", "keep_alive_of")
_URLS = ("upstream", "forward")


def _parts_of(raw: Any, *, table: bool) -> Any:
    """Take a list or a table apart where it came as text: with commas in between, or as a flag given several times.

    Raises ValueError.
    """
    if isinstance(raw, dict):
        return raw
    words = [word.strip() for part in ([raw] if isinstance(raw, str) else raw) for word in str(part).split(",")]
    words = [word for word in words if word]
    if not table:
        return words
    pairs = [word.partition("=") for word in words]
    if wrong := next((word for word, (name, _, value) in zip(words, pairs, strict=True) if not name or not value), None):
        raise ValueError(f"{wrong!r} is not NAME=VALUE")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _base_url(value: str) -> str:
    """Check the base URL of another server, and give it without a slash at its end. Raises ValueError."""
    parts = urlsplit(value)
    _ = parts.port  # raises for one that is no number
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("a base URL such as http://gpu-box:8000/v1 is expected")
    if parts.username is not None or parts.password is not None:
        raise ValueError("keys do not belong in the URL, which is logged; there is a setting for the key")
    return value.rstrip("/")


_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(duration: str) -> float | None:
    """Give the seconds of "90", "90s", "1.5m", "2h" or "1d"; None for "forever". Raises ValueError."""
    word = duration.strip().lower()
    if word == "forever":
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", word)
    if found is None:
        raise ValueError(f"{duration!r} is no duration: 0, 90s, 30m, 2h, 1d or forever is expected")
    return float(found[1]) * _UNITS[found[2]]


def _did_you_mean(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
