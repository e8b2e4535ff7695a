"""config.toml: read it, or change one key and keep the rest unchanged."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path
from typing import Any

from edgeembed.common.files import describe_os_error, write_text
from edgeembed.config.secrets import is_open, secret_names
from edgeembed.config.values import check_value, did_you_mean, field_names, is_table
from edgeembed.errors import ConfigError

_ENCODING = "utf-8-sig"  # editors on Windows begin UTF-8 files with a byte order mark


def read_config(path: Path) -> dict[str, Any]:
    """Return what config.toml holds, empty if it is missing. Raises ConfigError if it is not TOML or has unknown keys."""
    try:
        found = tomllib.loads(path.read_text(encoding=_ENCODING))
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    known = field_names()
    for key in found:
        if key not in known:
            raise ConfigError(f"{path}: unknown key {key!r}.{did_you_mean(key, known)}")
    return found


def write_setting(path: Path, key: str, value: Any, comment: str | None = None) -> bool:
    """Set one key of config.toml, keeping the user's lines and comments; the file is replaced atomically.

    A symbolic link stays one. The file keeps its mode, unless it holds an API key and others can read it: then it is made
    readable by its owner only, and True is returned.

    Raises ConfigError for an unknown key, a bad value, or a file that cannot be read or written.
    """
    if key not in field_names():
        raise ConfigError(f"unknown setting {key!r}.{did_you_mean(key, field_names())}")
    import tomlkit  # here: its import doubles the start-up time of a command

    checked = check_value(key, value, "config.toml", path)
    read_config(path)  # never rewrite a file that cannot be parsed
    try:
        document = tomlkit.parse(_text_of(path))
        if comment and key not in document:
            document.add(tomlkit.comment(comment))
        document[key] = list(checked) if isinstance(checked, tuple) else checked
        tightened = any(name in document for name in secret_names()) and is_open(path)
        if tightened:  # before the key is written
            real = path.resolve()
            real.chmod(stat.S_IMODE(real.stat().st_mode) & stat.S_IRWXU)
        write_text(path, tomlkit.dumps(document), private=True, follow_link=True)
    except OSError as error:
        raise ConfigError(f"cannot write {describe_os_error(error, path)}") from error
    return tightened


def write_entry(path: Path, key: str, name: str, value: str | None) -> None:
    """Set one entry of a table of config.toml, such as an alias, or remove it (None); the other entries stay as they are.

    Raises ConfigError for a bad value, or a file that cannot be read or written.
    """
    import tomlkit

    before = check_value(key, read_config(path).get(key, {}), "config.toml", path)
    if before.get(name) == value:
        return
    after = {**before, name: value} if value is not None else {each: before[each] for each in before if each != name}
    check_value(key, after, "config.toml", path)
    try:
        document = tomlkit.parse(_text_of(path))
        table = document.get(key)
        if not isinstance(table, tomlkit.items.Table | tomlkit.items.InlineTable):  # it may be text: "a=b,c=d"
            write_setting(path, key, after)
            return
        if value is None:
            del table[name]
        else:
            table[name] = value
        write_text(path, tomlkit.dumps(document), private=True, follow_link=True)
    except OSError as error:
        raise ConfigError(f"cannot write {describe_os_error(error, path)}") from error


def split_key(key: str) -> tuple[str, str | None]:
    """Return the setting that a user names, also as the flag is spelled, and the entry of a table in `aliases.NAME`.

    Raises ConfigError for an unknown setting, and for an entry of one that is no table.
    """
    name, dot, entry = key.partition(".")
    name, known = name.strip().removeprefix("--").replace("-", "_"), field_names()
    if name not in known:
        raise ConfigError(f"unknown setting {name!r}.{did_you_mean(name, known)}")
    if not dot:
        return name, None
    if not is_table(name) or not entry:
        tables = ", ".join(f"{each}.NAME" for each in known if is_table(each))
        raise ConfigError(f"{key}: expected a setting, or an entry of a table: {tables}")
    return name, entry


def remove_entry(path: Path, key: str, name: str) -> bool:
    """Remove one entry of a table of config.toml, and the table with its last one; return whether it was set.

    Raises ConfigError as `write_entry`.
    """
    before = check_value(key, read_config(path).get(key, {}), "config.toml", path)
    if name not in before:
        return False
    if len(before) == 1:
        return remove_setting(path, key)
    write_entry(path, key, name, None)
    return True


def add_to_setting(path: Path, key: str, value: Any) -> Any:
    """Add to a list or a table of config.toml, and return the whole of it; what is in it already stays.

    Raises ConfigError as `write_setting`, and for a setting with a single value.
    """
    before = read_config(path).get(key, ())
    given = check_value(key, value, "config.toml", path) if key in field_names() else ()
    if isinstance(given, tuple):
        after: Any = tuple(dict.fromkeys((*check_value(key, before, "config.toml", path), *given))) if before else given
    elif isinstance(given, dict):
        after = (check_value(key, before, "config.toml", path) if before else {}) | given
        for name, entry in given.items():
            write_entry(path, key, name, entry)
        return after
    else:
        raise ConfigError(f"{key} has a single value; `edgeembed config set {key} VALUE` replaces it")
    write_setting(path, key, after)
    return after


def remove_setting(path: Path, key: str) -> bool:
    """Remove one key from config.toml, which restores its default; return whether it was set.

    Raises ConfigError for an unknown key, or a file that cannot be read or written.
    """
    if key not in field_names():
        raise ConfigError(f"unknown setting {key!r}.{did_you_mean(key, field_names())}")
    if key not in read_config(path):
        return False
    import tomlkit

    try:
        document = tomlkit.parse(path.read_text(encoding=_ENCODING))
        del document[key]
        write_text(path, tomlkit.dumps(document), private=True, follow_link=True)
    except OSError as error:
        raise ConfigError(f"cannot write {describe_os_error(error, path)}") from error
    return True


def _text_of(path: Path) -> str:
    """Return the file's text, empty if it is missing. Raises OSError."""
    text = path.read_text(encoding=_ENCODING) if path.exists() else ""
    # tomlkit would append to a last line that lacks its line break.
    return text if text.endswith("\n") or not text else f"{text}\n"
