"""Start at login by the desktop, where systemd manages no user sessions: ~/.config/autostart/edgeembed.desktop.

Reference: Desktop Application Autostart Specification 0.5, Desktop Entry Specification 1.5 (Exec key, string values).
"""

from __future__ import annotations

import configparser
from collections.abc import Sequence
from pathlib import Path

from edgeembed.autostart.base import MARK, NAME, Autostart, AutostartEntry, Program, read_own
from edgeembed.common.files import write_bytes
from edgeembed.errors import ConfigError

_GROUP = "Desktop Entry"


class XdgAutostart(Autostart):
    """A desktop entry that is started with the session."""

    system = "XDG autostart"
    hint = "your desktop starts it; logins without a desktop, such as over ssh, do not"

    def __init__(self, program: Program, choice_file: Path, config_home: Path, *, others: Sequence[Autostart] = ()) -> None:
        super().__init__(program, choice_file, others)
        self._file = config_home / "autostart" / f"{NAME}.desktop"

    @property
    def place(self) -> str:
        return str(self._file)

    def entry(self) -> AutostartEntry | None:
        text = read_own(self._file)
        if text is None:
            return None
        parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
        try:
            parser.read_string(text)
        except configparser.Error as error:
            raise ConfigError(f"{self._file} is damaged: {error}") from error
        # Desktop settings write one of these instead of removing the file.
        off = parser.get(_GROUP, "Hidden", fallback="false") == "true"
        off = off or parser.get(_GROUP, "X-GNOME-Autostart-enabled", fallback="true") == "false"
        return AutostartEntry(self.place, active=not off, current=text == self._text())

    def _write(self) -> None:
        read_own(self._file)  # never replace a user's own entry
        write_bytes(self._file, self._text().encode())

    def _remove(self) -> None:
        if read_own(self._file) is not None:
            self._file.unlink()

    def _text(self) -> str:
        command = self.program.command
        if "=" in command[0]:
            raise ConfigError(f"{command[0]}: a desktop entry cannot start a program with = in its path")
        if self.program.environment:
            command = ("env", *(f"{name}={value}" for name, value in self.program.environment.items()), *command)
        lines = [
            f"[{_GROUP}]",
            f"# {MARK}",
            "Type=Application",
            "Version=1.0",
            f"Name={NAME}",
            "Comment=A private embedding server",
            f"Exec={as_string(' '.join(quote(word) for word in command))}",
            # If edgeembed was removed, the entry is ignored instead of causing an error at every login.
            f"TryExec={as_string(self.program.command[0])}",
            "Terminal=false",
            "X-GNOME-Autostart-enabled=true",
        ]
        return "\n".join(lines) + "\n"


def quote(word: str) -> str:
    """Return an argument quoted for the Exec key: in double quotes, `\\`, `"`, backtick and $ escaped, % doubled."""
    return '"' + "".join(f"\\{sign}" if sign in '\\"`$' else sign for sign in word).replace("%", "%%") + '"'


def as_string(value: str) -> str:
    """Return a value escaped as a string of the file format, in addition to the quoting of the Exec key."""
    for sign, escape in (("\\", "\\\\"), ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r")):
        value = value.replace(sign, escape)
    # A leading space would be read as the optional space after the =.
    return f"\\s{value[1:]}" if value.startswith(" ") else value
