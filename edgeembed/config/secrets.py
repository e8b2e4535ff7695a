"""Secrets: which settings are secret, what an API key may be, how a file of keys is read, who may read such files."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import msgspec

from edgeembed.common.files import describe_os_error, expanded, write_text
from edgeembed.config.settings import Settings
from edgeembed.errors import ConfigError

ENV_PREFIX = "EDGEEMBED_"

SECRET_KINDS = ("API key", "cache URL")
"""Kinds of settings whose values are never shown: a URL of a cache may have a password in it."""

HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""Variables with the token of the model hub."""


def kind_of(field: msgspec.structs.FieldInfo) -> str | None:
    """Return the kind of a setting; see `edgeembed.config.values`."""
    meta: msgspec.Meta = get_args(field.type)[1]
    kind: str | None = (meta.extra or {}).get("kind")
    return kind


def secret_names() -> list[str]:
    """Return the names of the settings that are secret."""
    return [field.name for field in msgspec.structs.fields(Settings) if kind_of(field) in SECRET_KINDS]


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """Return variables without the keys of edgeembed's settings and the hub's token, for other programs."""
    hidden = {*(f"{ENV_PREFIX}{name.upper()}" for name in secret_names()), *HUB_TOKENS}
    return {name: value for name, value in environ.items() if name.upper() not in hidden}


def hide_secrets() -> dict[str, str]:
    """Remove the secrets from this process's variables, which the programs that it starts inherit; return them as they were.

    For programs that are started by libraries; elsewhere `without_secrets` is passed on.
    """
    before = dict(os.environ)
    for name in before.keys() - without_secrets(before):
        del os.environ[name]
    return before


def check_key(key: str) -> str:
    """Return an API key unchanged. Raises ValueError, whose message does not show the key."""
    if not key:
        raise ValueError("the API key is empty, which would protect nothing; set a key, or leave this unset")
    if any(sign.isspace() or not sign.isprintable() for sign in key):
        raise ValueError("the API key contains a space, a line break or a control character; remove it")
    return key


def read_key_file(file: str) -> list[tuple[str, str]]:
    """Return name and key of each line of a key file: KEY, or NAME: KEY with a space after the first colon.

    Empty lines, lines that begin with #, and spaces around names and keys do not count. A key without a name is called by
    its place. Raises ConfigError, whose message shows no part of a key.
    """
    path = expanded(file)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read the API keys in {path}: it is not UTF-8") from error
    except OSError as error:
        raise ConfigError(f"cannot read the API keys in {describe_os_error(error, path)}") from error
    found: list[tuple[str, str]] = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        name, colon, secret = line.partition(":")
        if colon and secret and not secret[0].isspace():
            raise ConfigError(
                f"{path}, line {number}: a colon without a space after it can be part of a key or the end of a name; write "
                "NAME: KEY, with a space; the KEY may contain colons"
            )
        try:
            found.append((name.strip(), check_key(secret.strip())) if colon else (f"key {len(found) + 1}", check_key(line)))
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from error
    if not found:
        raise ConfigError(f"{path} has no API keys; expected one per line, as KEY or NAME: KEY")
    return found


def add_key(file: str, name: str, secret: str) -> None:
    """Add a key with a name to a key file, a new one that only its owner can read if there is none.

    Raises ConfigError for a file that cannot be read or written.
    """
    path = expanded(file)
    try:
        before = (
            path.read_text(encoding="utf-8-sig") if path.exists() else "# API keys of edgeembed, one per line: NAME: KEY\n"
        )
        write_text(path, f"{before.rstrip()}\n{name}: {check_key(secret)}\n", private=True, follow_link=True)
    except (OSError, UnicodeDecodeError) as error:
        raise _not_written(path, error) from error


def remove_key(file: str, name: str) -> None:
    """Remove a key from a key file; all other lines stay. The key must be there.

    Raises ConfigError for a file that cannot be read or written.
    """
    path, count, kept = expanded(file), 0, []
    try:
        for line in path.read_text(encoding="utf-8-sig").split("\n"):
            holds_key = bool(line.strip()) and not line.strip().startswith("#")
            count += holds_key
            own, colon, _ = line.strip().partition(":")
            if not holds_key or (own.strip() if colon else f"key {count}") != name:
                kept.append(line)
        write_text(path, "\n".join(kept), private=True, follow_link=True)
    except (OSError, UnicodeDecodeError) as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError | UnicodeDecodeError) -> ConfigError:
    why = describe_os_error(error, path) if isinstance(error, OSError) else f"{path}: it is not UTF-8"
    return ConfigError(f"cannot change the API keys in {why}")


def is_open(path: Path) -> bool:
    """Return whether users who have no business with a secret can read its file: everybody or, for a file of the current
    user, the group. A file that another user, such as root, shares with our group is meant to be read by it.
    """
    if os.name != "posix":
        return False
    try:
        found = path.stat()
    except OSError:
        return False
    ours = found.st_uid == os.geteuid()
    return bool(found.st_mode & (stat.S_IRWXO | (stat.S_IRWXG if ours else 0)))


def hub_token_file(environ: Mapping[str, str]) -> Path:
    """Return where huggingface_hub keeps the token of `hf auth login`."""
    if named := environ.get("HF_TOKEN_PATH"):
        return expanded(named)
    cache = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(environ.get("HF_HOME") or f"{cache}/huggingface") / "token"
