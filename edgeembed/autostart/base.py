"""The common part of all mechanisms: the interface, the program to start, the user's choice."""

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

from edgeembed.common.files import describe_os_error, expanded, read_json, write_json
from edgeembed.common.logs import LOG_FILE
from edgeembed.config.paths import HOME_VARIABLE, Paths, home_folder
from edgeembed.errors import ConfigError

log = logging.getLogger(__name__)

NAME = "edgeembed"
CHOICE_FILE = "autostart.json"
MARK = "Written by `edgeembed autostart enable`; `edgeembed autostart disable` removes it."
"""A line in every text file that we write. Other files are the user's: never replaced, never removed."""

Choice = Literal["on", "off"]


@dataclass(frozen=True)
class Program:
    """The program to start at login."""

    command: tuple[str, ...]
    """An absolute path, and its arguments."""
    environment: Mapping[str, str]
    """Variables to set in addition to those of a login."""
    log_file: Path
    """For systems that do not log the output of programs."""

    @classmethod
    def this(cls, environ: Mapping[str, str] | None = None) -> Program:
        """Return the daemon of this installation.

        EDGEEMBED_HOME is the only variable that is kept, because it determines config.toml. Others may be secrets, such as
        an API key, and backups and other tools can read the entry.
        """
        environ = os.environ if environ is None else environ
        frozen = getattr(sys, "frozen", False)
        python = Path(sys.executable).absolute()  # not resolved: in a virtual environment it is a link
        # The variants that open no console window on Windows; the installer puts the former next to edgeembed.exe.
        silent = python.with_name(f"{NAME}w.exe" if frozen else "pythonw.exe")
        if sys.platform == "win32" and silent.exists():
            python = silent
        # -P: the working directory is the user's home, whose files must not be imported as modules.
        module = () if frozen else ("-P", "-m", NAME)
        home = environ.get(HOME_VARIABLE)
        return cls(
            command=(str(python), *module, "serve"),
            environment={HOME_VARIABLE: str(expanded(home))} if home else {},
            log_file=Paths.resolve(environ).logs / LOG_FILE,
        )


@dataclass(frozen=True)
class Managed:
    """The daemon as the service manager sees it."""

    state: Literal["starting", "running", "restarting", "failed", "stopped"]
    """restarting: it ended by itself, and is started again after a pause."""
    pid: int | None = None
    """Its process; None if there is none now."""


class ServiceManager(ABC):
    """What starts and stops the daemon of an entry now, instead of at the next login."""

    name: ClassVar[str]
    """For messages."""

    @abstractmethod
    def inspect(self) -> Managed | None:
        """Return the state of the daemon; None if the manager does not know it, or does not answer."""

    @abstractmethod
    def start(self) -> None:
        """Have it started, without waiting until it is ready. Raises ConfigError."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it, and wait for that. Raises ConfigError."""

    def log_command(self, lines: int, *, follow: bool) -> list[str] | None:
        """Return the command that prints the last lines of its log; None if the log is the file `Program.log_file`."""
        return None


@dataclass(frozen=True)
class AutostartEntry:
    """An entry that starts a program at login."""

    place: str
    """A path, or a key of the registry."""
    active: bool
    """Whether it is in effect: desktops and administrators can disable an entry without removing it."""
    current: bool
    """Whether it equals what `enable` would write; not if it belongs to another installation, or this one was moved."""


class Autostart(ABC):
    """A mechanism that starts a program at login, for the current user, without administrator rights."""

    system: ClassVar[str]
    """The name of the mechanism, for messages."""
    hint: ClassVar[str]
    """Advice for users of this mechanism, in one line."""

    def __init__(self, program: Program, choice_file: Path, others: Sequence[Autostart] = ()) -> None:
        """Prepare. choice_file: stores the user's choice. others: alternative mechanisms of this system."""
        self.program = program
        self._choice_file = choice_file
        self._others = tuple(others)

    # --- implemented by each mechanism ---

    @property
    @abstractmethod
    def place(self) -> str:
        """Location of the entry, whether it exists or not."""

    @abstractmethod
    def entry(self) -> AutostartEntry | None:
        """Return the entry; None if we have none. Raises ConfigError."""

    @abstractmethod
    def _write(self) -> None:
        """Create and activate the entry. Raises ConfigError, OSError."""

    @abstractmethod
    def _remove(self) -> None:
        """Remove the entry if it exists. Raises ConfigError, OSError."""

    # --- common ---

    def manager(self) -> ServiceManager | None:
        """Return what starts the daemon of this entry now; None if only a login does."""
        return None

    def status(self) -> bool:
        """Return whether the daemon starts at login. Raises ConfigError."""
        found = self.found()
        return found is not None and found.active

    def found(self) -> AutostartEntry | None:
        """Return the active entry of this or an alternative mechanism, else an inactive one; None if there is none."""
        entries = [entry for each in (self, *self._others) if (entry := each.entry()) is not None]
        return next((entry for entry in entries if entry.active), entries[0] if entries else None)

    def enable(self) -> None:
        """Start the daemon at every login, beginning with the next one, and store this choice.

        Raises ConfigError.
        """
        try:
            self._write()
            for other in self._others:
                other._remove()
            self._remember("on")
        except OSError as error:
            raise ConfigError(f"cannot write {describe_os_error(error, self.place)}") from error

    def enable_unless_off(self) -> bool:
        """Enable it, or update the entry, unless the user has turned it off; for installers and upgrades.

        Users turn it off by `disable`, by disabling the entry with the system's tools, or by removing it.
        Return whether it is enabled now. Raises ConfigError.
        """
        found, choice = self.found(), self.choice
        if choice == "off" or (found is not None and not found.active) or (choice == "on" and found is None):
            return False
        self.enable()
        return True

    def disable(self, *, forget: bool = False) -> None:
        """Do not start the daemon at login, and store this choice; a running daemon keeps running.

        forget: for uninstallers: removing the entry is not a choice of the user. A stored "off" is kept.
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
            raise ConfigError(f"cannot change {describe_os_error(error, self.place)}") from error

    @property
    def choice(self) -> Choice | None:
        """The last choice of the user; None if there was none."""
        try:
            found = read_json(self._choice_file, _Remembered)
            return found.choice if found else None
        except (OSError, ValueError) as error:
            # If in doubt, do not turn on what the user may have turned off.
            log.warning("cannot read %s; start at login counts as off: %s", self._choice_file, error)
            return "off"

    def _remember(self, choice: Choice) -> None:
        write_json(self._choice_file, _Remembered(choice))


class _Remembered(msgspec.Struct, frozen=True):
    choice: Choice


def config_home(environ: Mapping[str, str]) -> Path:
    """Return $XDG_CONFIG_HOME, or ~/.config if that is unset or not absolute (XDG Base Directory Specification)."""
    folder = Path(environ.get("XDG_CONFIG_HOME", ""))
    return folder if folder.is_absolute() else home_folder() / ".config"


def read_own(path: Path) -> str | None:
    """Return the text of a file that we wrote; None if it does not exist. Raises ConfigError if the user wrote it."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if MARK not in text:
        raise ConfigError(f"{path} was not written by edgeembed; rename or remove it to let edgeembed start at login")
    return text
