"""Fakes of other systems: a registry, launchctl, a program whose path has every character that needs escaping."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeembed.autostart.base import Program

NASTY = "a b'c\"d$HOME%h\\e`f;é"
"""A folder name with every character that is special in one of the formats."""


def program(folder: Path, **environment: str) -> Program:
    """Return a program with paths below a folder; nothing is created."""
    return Program((str(folder / "python"), "-P", "-m", "edgeembed", "serve"), environment, folder / "logs" / "daemon.log")


class FakeKey:
    """An open key of the registry."""

    def __init__(self, path: str, writable: bool) -> None:
        self.path = path
        self.writable = writable

    def __enter__(self) -> FakeKey:
        return self

    def __exit__(self, *_: object) -> None: ...


class FakeRegistry:
    """The part of the module winreg that is used, with HKEY_CURRENT_USER as a dictionary."""

    HKEY_CURRENT_USER = object()
    KEY_READ, KEY_SET_VALUE = 1, 2
    REG_SZ, REG_BINARY = 1, 3

    def __init__(self) -> None:
        self.keys: dict[str, dict[str, tuple[Any, int]]] = {}

    def OpenKey(self, root: object, path: str, reserved: int = 0, access: int = KEY_READ) -> FakeKey:
        assert root is self.HKEY_CURRENT_USER and reserved == 0
        if path not in self.keys:
            raise FileNotFoundError(2, "The system cannot find the file specified")
        return FakeKey(path, access == self.KEY_SET_VALUE)

    def CreateKeyEx(self, root: object, path: str, reserved: int = 0, access: int = KEY_READ) -> FakeKey:
        self.keys.setdefault(path, {})
        return self.OpenKey(root, path, reserved, access)

    def QueryValueEx(self, key: FakeKey, name: str) -> tuple[Any, int]:
        if name not in self.keys[key.path]:
            raise FileNotFoundError(2, "The system cannot find the file specified")
        return self.keys[key.path][name]

    def SetValueEx(self, key: FakeKey, name: str, reserved: int, kind: int, value: Any) -> None:
        self._may_write(key)
        self.keys[key.path][name] = (value, kind)

    def DeleteValue(self, key: FakeKey, name: str) -> None:
        self._may_write(key)
        if name not in self.keys[key.path]:
            raise FileNotFoundError(2, "The system cannot find the file specified")
        del self.keys[key.path][name]

    def _may_write(self, key: FakeKey) -> None:
        if not key.writable:
            raise PermissionError(13, "Access is denied")


class FakeLaunchctl:
    """Stores what is disabled, and prints it like launchctl."""

    def __init__(self, says: str = "disabled") -> None:
        self.disabled: set[str] = set()
        self._says = says

    def __call__(self, arguments: Sequence[str]) -> str:
        verb, target = arguments
        if verb == "print-disabled":
            assert re.fullmatch(r"gui/\d+", target)
            lines = [f'\t\t"{label}" => {self._says}' for label in sorted(self.disabled)]
            return "\n".join(["\tdisabled services = {", '\t\t"com.example.other" => enabled', *lines, "\t}"])
        assert verb == "enable"
        self.disabled.discard(target.rpartition("/")[2])
        return ""
