"""One setting's value: text or TOML in, a checked value out."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import msgspec

from edgeembed.config.durations import seconds_of
from edgeembed.config.settings import Settings
from edgeembed.errors import ConfigError

ENV_PREFIX = "EDGEEMBED_"


Origin = Literal["flag", "environment", "config.toml", "default"]


def field_names() -> list[str]:
    """Give the names of all settings, in the order of their definition."""
    return [field.name for field in msgspec.structs.fields(Settings)]


def check_value(key: str, raw: Any, origin: Origin, config_file: Path) -> Any:
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


def did_you_mean(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
