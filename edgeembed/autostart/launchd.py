"""Start at login on macOS: an agent in ~/Library/LaunchAgents.

Reference: launchd.plist(5), launchctl(1).
"""

from __future__ import annotations

import logging
import os
import plistlib
import re
import subprocess
import xml.parsers.expat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgeembed.autostart.base import NAME, Autostart, AutostartEntry, Managed, Program, ServiceManager
from edgeembed.common.files import write_bytes
from edgeembed.config.paths import home_folder
from edgeembed.config.secrets import without_secrets
from edgeembed.errors import ConfigError

log = logging.getLogger(__name__)

LABEL = f"{NAME}.daemon"
LAUNCHCTL_SECONDS = 30.0

Launchctl = Callable[[Sequence[str]], str]
"""Takes the arguments of launchctl and returns its output; empty if it failed."""


class Launchd(Autostart):
    """An agent of the user's own launchd."""

    system = "launchd"
    hint = "it is also listed in System Settings, under Login Items"

    def __init__(
        self,
        program: Program,
        choice_file: Path,
        *,
        agents: Path | None = None,
        user: int | None = None,
        launchctl: Launchctl | None = None,
    ) -> None:
        """Prepare. By default, the folder of agents, the user id and the tool are those of the current user."""
        super().__init__(program, choice_file)
        self._file = (agents or home_folder() / "Library" / "LaunchAgents") / f"{LABEL}.plist"
        self._domain = f"gui/{os.getuid() if user is None else user}"
        self._launchctl = launchctl or _launchctl

    @property
    def place(self) -> str:
        return str(self._file)

    def manager(self) -> ServiceManager:
        return Agent(self._file, self._domain, self._launchctl)

    def entry(self) -> AutostartEntry | None:
        try:
            found = plistlib.loads(self._file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, plistlib.InvalidFileException, xml.parsers.expat.ExpatError) as error:
            raise ConfigError(f"cannot read {self._file}: {error or 'not a property list'}") from error
        if not isinstance(found, dict):
            raise ConfigError(f"cannot read {self._file}: not a dictionary")
        active = not self._switched_off() and not found.get("Disabled", False)
        return AutostartEntry(self.place, active=active, current=found == self._plist())

    def _write(self) -> None:
        self.program.log_file.parent.mkdir(parents=True, exist_ok=True)  # launchd creates the file, but not its folder
        write_bytes(self._file, plistlib.dumps(self._plist()))
        if self._switched_off():
            self._launchctl(("enable", f"{self._domain}/{LABEL}"))

    def _remove(self) -> None:
        self._file.unlink(missing_ok=True)

    def _switched_off(self) -> bool:
        """Return whether the agent was disabled with `launchctl disable`, which is stored outside the file."""
        output = self._launchctl(("print-disabled", self._domain))
        return re.search(rf'"{re.escape(LABEL)}" => (disabled|true)\b', output) is not None

    def _plist(self) -> dict[str, Any]:
        plist: dict[str, Any] = {
            "Label": LABEL,
            "ProgramArguments": list(self.program.command),
            "RunAtLoad": True,
            # Restart it after a crash, but not after it was stopped.
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": 30,
            "ExitTimeOut": 30,
            # Users wait for its responses: do not throttle it like a background job.
            "ProcessType": "Interactive",
            "StandardOutPath": str(self.program.log_file),
            "StandardErrorPath": str(self.program.log_file),
        }
        if self.program.environment:
            plist["EnvironmentVariables"] = dict(self.program.environment)
        return plist


class Agent(ServiceManager):
    """The agent in the running launchd."""

    name = "launchd"

    def __init__(self, file: Path, domain: str, launchctl: Launchctl) -> None:
        self._file = file
        self._domain = domain
        self._target = f"{domain}/{LABEL}"
        self._launchctl = launchctl

    def inspect(self) -> Managed | None:
        output = self._launchctl(("print", self._target))
        if not output:
            return None
        pid = re.search(r"^\s*pid = (\d+)", output, re.MULTILINE)
        if pid:
            return Managed("running", int(pid[1]))
        ended = re.search(r"^\s*last exit code = (\d+)", output, re.MULTILINE)
        if ended and int(ended[1]):
            return Managed("restarting")  # KeepAlive
        return Managed("stopped" if ended else "starting")

    def start(self) -> None:
        if self.inspect() is None:
            self._launchctl(("bootstrap", self._domain, str(self._file)))  # RunAtLoad starts it, too
        else:
            self._launchctl(("kickstart", self._target))
        if self.inspect() is None:
            raise ConfigError(f"launchctl did not load {self._file}; `launchctl print {self._target}` may say why")

    def stop(self) -> None:
        self._launchctl(("bootout", self._target))  # loaded again at the next login
        if (left := self.inspect()) is not None and left.pid is not None:
            raise ConfigError(f"launchctl bootout {self._target} did not end process {left.pid}")


def _launchctl(arguments: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            ["/bin/launchctl", *arguments],
            capture_output=True,
            text=True,
            timeout=LAUNCHCTL_SECONDS,
            stdin=subprocess.DEVNULL,
            env=without_secrets(os.environ),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("launchctl %s: %s", arguments[0], error)
        return ""
    if done.returncode:
        # `print` fails for an agent that is not loaded.
        level = logging.DEBUG if arguments[0] == "print" else logging.WARNING
        log.log(level, "launchctl %s: %s", arguments[0], done.stderr.strip())
        return ""
    return done.stdout
