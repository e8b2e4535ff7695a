"""What every system's start at login has in common: the interface, the program that is started, the user's choice."""

from __future__ import annotations

import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import msgspec

from edgeembed.common.files import write_json
from edgeembed.common.logs import LOG_FILE
from edgeembed.config.paths import HOME_VARIABLE, Paths
from edgeembed.errors import ConfigError

log = logging.getLogger(__name__)

NAME = "edgeembed"
CHOICE_FILE = "autostart.json"
MARK = "Written by `edgeembed autostart enable`; `edgeembed autostart disable` removes it."
"""A line of every text file that is written, so that one which the user wrote is never replaced or removed."""

Choice = Literal["on", "off"]


@dataclass(frozen=True)
class Program:
    """What is started at login."""

    command: tuple[str, ...]
    """An absolute path, and its arguments."""
    environment: Mapping[str, str]
    """Variables that it needs on top of those of a login."""
    log_file: Path
    """For systems that keep no log of what they start."""

    @classmethod
    def this(cls, environ: Mapping[str, str] | None = None) -> Program:
        """Return the daemon of this very installation.

        Of the variables only EDGEEMBED_HOME goes along, without which another config.toml would count. Others may be
        secret, such as an API key, and what starts at login can be read by backups and other tools.
        """
        environ = os.environ if environ is None else environ
        frozen = getattr(sys, "frozen", False)
        python = Path(sys.executable).absolute()  # not resolved: the link is what makes it a virtual environment's
        # Windows opens a console window for any program but these; the installer lays the latter beside the first.
        silent = python.with_name(f"{NAME}w.exe" if frozen else "pythonw.exe")
        if sys.platform == "win32" and silent.exists():
            python = silent
        # -P: a login starts in the user's home, whose files must not be taken for Python's modules.
        module = () if frozen else ("-P", "-m", NAME)
        home = environ.get(HOME_VARIABLE)
        return cls(
            command=(str(python), *module, "serve"),
            environment={HOME_VARIABLE: str(Path(home).expanduser().absolute())} if home else {},
            log_file=Paths.resolve(environ).logs / LOG_FILE,
        )


@dataclass(frozen=True)
class Entry:
    """What the system has been told to start at login."""

    place: str
    """A path, or a key of the registry."""
    active: bool
    """Whether it counts: desktops and administrators can switch an entry off without removing it."""
    current: bool
    """Whether it is what `enable` would write now; it is not after this installation has moved, or of another one."""


class Autostart(ABC):
    """Start at login, for this user, without administrator's rights."""

    system: ClassVar[str]
    """The mechanism's name, for people."""
    hint: ClassVar[str]
    """What a user of this mechanism should know, in one line."""

    def __init__(self, program: Program, choice_file: Path, others: Sequence[Autostart] = ()) -> None:
        """Take what to start, where the choice is kept, and other mechanisms of this system that may have been used."""
        self.program = program
        self._choice_file = choice_file
        self._others = tuple(others)

    # --- what each system does ---

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the entry is, or would be."""

    @abstractmethod
    def entry(self) -> Entry | None:
        """Read the entry; None when there is none of ours. Raises ConfigError."""

    @abstractmethod
    def _write(self) -> None:
        """Make the entry, so that it counts. Raises ConfigError, OSError."""

    @abstractmethod
    def _remove(self) -> None:
        """Remove the entry, if there is one. Raises ConfigError, OSError."""

    # --- what all do ---

    def status(self) -> bool:
        """Return whether the daemon starts at login. Raises ConfigError."""
        found = self.found()
        return found is not None and found.active

    def found(self) -> Entry | None:
        """Return the entry in force, of this mechanism or another of this system; None when there is none."""
        entries = [entry for each in (self, *self._others) if (entry := each.entry()) is not None]
        return next((entry for entry in entries if entry.active), entries[0] if entries else None)

    def enable(self) -> None:
        """Start the daemon at every login from the next one on, and remember that the user wants it.

        Raises ConfigError.
        """
        try:
            self._write()
            for other in self._others:
                other._remove()
            self._remember("on")
        except OSError as error:
            raise ConfigError(f"cannot write {error.filename or self.place}: {error.strerror or error}") from error

    def enable_unless_off(self) -> bool:
        """Do what an installer or an upgrade may do: enable it, or bring the entry up to date, unless the user said no.

        "No" is `disable`, an entry that was switched off by the system's own means, and one that was there and is gone.
        Says whether it is enabled now. Raises ConfigError.
        """
        found, choice = self.found(), self.choice
        if choice == "off" or (found is not None and not found.active) or (choice == "on" and found is None):
            return False
        self.enable()
        return True

    def disable(self, *, forget: bool = False) -> None:
        """Start nothing at login, and remember that the user wants it so; a running daemon goes on.

        forget: for an uninstaller, whose removal of the entry is no word of the user. A remembered "off" stays.
        Raises ConfigError.
        """
        try:
            for each in (self, *self._others):
                each._remove()
            if not forget:
                self._remember("off")
            elif self.choice == "on":
                self._choice_file.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot change {error.filename or self.place}: {error.strerror or error}") from error

    @property
    def choice(self) -> Choice | None:
        """What the user said last; None: nothing yet."""
        try:
            return msgspec.json.decode(self._choice_file.read_bytes(), type=_Remembered).choice
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            # Not knowing must not switch on what the user may have switched off.
            log.warning("%s cannot be read, and counts as off: %s", self._choice_file, error)
            return "off"

    def _remember(self, choice: Choice) -> None:
        write_json(self._choice_file, _Remembered(choice))


class _Remembered(msgspec.Struct, frozen=True):
    choice: Choice


def config_home(environ: Mapping[str, str]) -> Path:
    """Return $XDG_CONFIG_HOME, or ~/.config where that is not set or not absolute (XDG Base Directory Specification)."""
    folder = Path(environ.get("XDG_CONFIG_HOME", ""))
    return folder if folder.is_absolute() else Path.home() / ".config"


def read_own(path: Path) -> str | None:
    """Return the text of a file of ours, None when there is none. Raises ConfigError when it is somebody else's."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if MARK not in text:
        raise ConfigError(f"{path} was not written by edgeembed; rename or remove it if edgeembed is to start at login")
    return text
