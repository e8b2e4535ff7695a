"""Start at login on Windows: a value of the user's Run key, which does not require an administrator.

Reference: Microsoft's "Run and RunOnce Registry Keys". The key StartupApproved, in which Task Manager and the Settings app
store what the user disabled there, is undocumented: an odd first byte means disabled.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Any

from edgeembed.autostart.base import NAME, Autostart, AutostartEntry, Program
from edgeembed.errors import ConfigError

RUN_KEY = r"Software\Microsoft\Windows\CurrentVersion\Run"
APPROVED_KEY = r"Software\Microsoft\Windows\CurrentVersion\Explorer\StartupApproved\Run"
ENVIRONMENT_KEY = "Environment"
MAX_COMMAND = 260
"""Maximum length of a Run value in characters."""


class WindowsRun(Autostart):
    """A value of HKEY_CURRENT_USER's Run key."""

    system = "Windows Run key"
    hint = "it is also listed in Task Manager, under Startup apps"

    def __init__(self, program: Program, choice_file: Path, *, registry: Any = None) -> None:
        """Prepare. registry: the module winreg by default."""
        super().__init__(program, choice_file)
        if registry is None:
            import winreg as registry  # exists only on Windows
        self._registry = registry

    @property
    def place(self) -> str:
        return rf"HKEY_CURRENT_USER\{RUN_KEY}\{NAME}"

    def entry(self) -> AutostartEntry | None:
        command = self._read(RUN_KEY, NAME)
        if command is None:
            return None
        approved = self._read(APPROVED_KEY, NAME)
        off = isinstance(approved, bytes) and bool(approved) and approved[0] % 2 == 1
        return AutostartEntry(self.place, active=not off, current=command == self._command())

    def write(self) -> None:
        """Write the value, for another mechanism that falls back on it."""
        self._write()

    def remove(self) -> None:
        """Remove the value, if there is one."""
        self._remove()

    def _write(self) -> None:
        command = self._command()
        if len(command) > MAX_COMMAND:
            raise ConfigError(
                f"the command has {len(command)} characters, but Windows allows {MAX_COMMAND}: {command}. "
                "Install edgeembed in a folder with a shorter path"
            )
        self.check_environment()
        registry = self._registry
        with registry.CreateKeyEx(registry.HKEY_CURRENT_USER, RUN_KEY, 0, registry.KEY_SET_VALUE) as key:
            registry.SetValueEx(key, NAME, 0, registry.REG_SZ, command)
        self._delete(APPROVED_KEY)  # Task Manager's "disabled" would outlive the entry

    def _remove(self) -> None:
        self._delete(RUN_KEY)
        self._delete(APPROVED_KEY)

    def check_environment(self) -> None:
        """Raise ConfigError for variables that will not be set at login: a Run value cannot set them."""
        for name, value in self.program.environment.items():
            permanent = self._read(ENVIRONMENT_KEY, name)
            if not isinstance(permanent, str) or os.path.expandvars(permanent) != value:
                raise ConfigError(
                    f'{name} is set only in this window and would be missing at login: run `setx {name} "{value}"` first'
                )

    def _command(self) -> str:
        return subprocess.list2cmdline(self.program.command)

    def _read(self, path: str, name: str) -> Any:
        try:
            with self._registry.OpenKey(self._registry.HKEY_CURRENT_USER, path) as key:
                return self._registry.QueryValueEx(key, name)[0]
        except FileNotFoundError:
            return None

    def _delete(self, path: str) -> None:
        registry = self._registry
        with (
            contextlib.suppress(FileNotFoundError),
            registry.OpenKey(registry.HKEY_CURRENT_USER, path, 0, registry.KEY_SET_VALUE) as key,
        ):
            registry.DeleteValue(key, NAME)
