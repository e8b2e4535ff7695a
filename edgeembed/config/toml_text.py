"""Settings as text of config.toml."""

from __future__ import annotations

from typing import Any


def toml_value(value: Any) -> str:
    """Return a value of a setting as TOML writes it; a table on one line."""
    import tomlkit  # takes as long as the rest of a command to import

    if isinstance(value, dict):
        table = tomlkit.inline_table()
        table.update(value)
        return table.as_string()
    return str(tomlkit.item(list(value) if isinstance(value, tuple) else value).as_string())
