"""The value of one setting: text or TOML in, a checked value out.

The type of a field in Settings decides the conversion: a tuple is a list, a dict a table. `extra` in its Meta adds to that:
    kind: "duration" or "base URL", checked here (for a table, each of its values); "API key" and "cache URL", secrets, which
        no message shows; "file", a path. A key or path must not be empty: a daemon would be less protected than its user
        believes
    expected: what the error message says instead of msgspec's words, where those would show a regular expression
    numbers: True where a text setting may be a number in config.toml
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from urllib.parse import parse_qs, urlsplit

import msgspec

from edgeembed.config.durations import seconds_of
from edgeembed.config.secrets import ENV_PREFIX, SECRET_KINDS, check_key, kind_of
from edgeembed.config.settings import Settings
from edgeembed.errors import ConfigError

_CACHE_OPTIONS = {"db"}
_TLS_OPTIONS = {"ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname", "ssl_cert_reqs"}
"""Of redis-py, in the URL of the cache; the others are not for its user to choose."""

Origin = Literal["flag", "environment", "config.toml", "default"]


def field_names() -> list[str]:
    """Return the names of all settings, in the order of their definition."""
    return [field.name for field in msgspec.structs.fields(Settings)]


def is_table(key: str) -> bool:
    """Return whether a setting is a table, such as `aliases`."""
    return any(field.name == key and field.default_factory is dict for field in msgspec.structs.fields(Settings))


def is_list(key: str) -> bool:
    """Return whether a setting is a list, such as `pin`."""
    return any(field.name == key and isinstance(field.default, tuple) for field in msgspec.structs.fields(Settings))


def choices(key: str) -> tuple[str, ...]:
    """Return the values that a setting may have, if they are few; booleans are true and false."""
    type_ = next((get_args(field.type)[0] for field in msgspec.structs.fields(Settings) if field.name == key), None)
    if type_ is bool:
        return ("true", "false")
    return get_args(type_) if get_origin(type_) is Literal else ()


def may_be_empty(key: str) -> bool:
    """Return whether an empty variable counts as unset; for the other settings it is an error."""
    return next(kind_of(field) for field in msgspec.structs.fields(Settings) if field.name == key) not in ("API key", "file")


def check_value(key: str, raw: Any, origin: Origin, config_file: Path) -> Any:
    """Return the checked value of a setting. Flags and variables hold numbers and booleans as text; TOML has types.

    Raises ConfigError that names the flag, the variable, or the file and key.
    """
    field = next(field for field in msgspec.structs.fields(Settings) if field.name == key)
    meta: msgspec.Meta = get_args(field.type)[1]
    extra = meta.extra or {}
    is_list, is_table = isinstance(field.default, tuple), field.default_factory is dict
    try:
        given = _parts_of(raw, table=is_table) if is_list or is_table else raw
        if extra.get("numbers") and isinstance(raw, int) and not isinstance(raw, bool):
            given = str(raw)
        value = msgspec.convert(given, field.type, strict=origin == "config.toml" and not isinstance(given, str))
        checked = value if value is None else _check_kind(value, extra.get("kind"))
        if extra.get("kind") == "cache URL" and origin == "flag" and checked and urlsplit(checked).password:
            raise ValueError("other users of this machine can see a password in a flag (with ps); put it into the variable")
        return checked
    except ValueError as error:  # msgspec.ValidationError is one
        where = {
            "flag": f"--{key.replace('_', '-')}",
            "environment": f"{ENV_PREFIX}{key.upper()}",
            "config.toml": f"{config_file}: {key}",
            "default": key,
        }[origin]
        if extra.get("kind") in SECRET_KINDS:
            raise ConfigError(f"{where}: {error}") from None  # neither the message nor a traceback shows the key
        if "expected" in extra:
            raise ConfigError(f"{where} = {raw!r}: expected {extra['expected']}") from error
        choices = get_args(get_args(field.type)[0]) if isinstance(field.default, str) else ()
        one_of = f"; expected one of {', '.join(choices)}" if choices else ""
        raise ConfigError(f"{where} = {raw!r}: {error}{one_of}") from error


def _check_kind(value: Any, kind: str | None) -> Any:
    """Return the value in its canonical form. Raises ValueError."""
    if kind == "duration":
        for duration in value.values() if isinstance(value, dict) else [value]:
            seconds_of(duration)
    if kind == "API key":
        return check_key(value)
    if kind == "file" and not value.strip():
        raise ValueError("expected a path; leave this unset if you do not need it")
    if kind == "cache URL":
        return cache_url(value)
    return base_url(value) if kind == "base URL" else value


def _parts_of(raw: Any, *, table: bool) -> Any:
    """Split a list or a table that came as text: comma-separated, or as a repeated flag. Raises ValueError."""
    if not isinstance(raw, str | list | tuple):
        return raw
    words = [word.strip() for part in ([raw] if isinstance(raw, str) else raw) for word in str(part).split(",")]
    words = [word for word in words if word]
    if not table:
        return words
    pairs = [word.partition("=") for word in words]
    if wrong := next((word for word, (name, _, value) in zip(words, pairs, strict=True) if not name or not value), None):
        raise ValueError(f"expected NAME=VALUE, not {wrong!r}")
    return {name.strip(): value.strip() for name, _, value in pairs}


def base_url(value: str) -> str:
    """Return the base URL of another server without a trailing slash. Raises ValueError."""
    parts = urlsplit(value)
    _ = parts.port  # raises for a port that is not a number
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("expected a base URL such as http://gpu-box:8000/v1")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL is logged and must not contain a user name or password; use the setting for the API key")
    return value.rstrip("/")


def cache_url(value: str) -> str:
    """Return the URL of a Redis or Valkey server unchanged. Raises ValueError, whose message does not show it."""
    forms = "redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///SOCKET, with USER:PASSWORD@ if needed"
    wrong = ValueError(f"expected {forms}")
    try:
        parts = urlsplit(value)
        _ = parts.port  # raises for a port that is not a number
    except ValueError:
        raise wrong from None
    if any(sign.isspace() or not sign.isprintable() for sign in value) or parts.fragment:
        raise wrong
    if parts.scheme not in ("redis", "rediss", "unix") or not (parts.path if parts.scheme == "unix" else parts.hostname):
        raise wrong
    database = parts.path.strip("/")
    if parts.scheme != "unix" and database and not (database.isascii() and database.isdigit()):
        raise ValueError("expected the number of a database behind the port, or nothing")
    options = _CACHE_OPTIONS | _TLS_OPTIONS if parts.scheme == "rediss" else _CACHE_OPTIONS
    if parse_qs(parts.query, keep_blank_values=True).keys() - options:
        raise ValueError(f"expected no options in a {parts.scheme}:// URL but {', '.join(sorted(options))}")
    return value


def did_you_mean(word: str, candidates: list[str]) -> str:
    near = difflib.get_close_matches(word, candidates, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
