"""Start at login through systemd's user manager: a unit in ~/.config/systemd/user, wanted by default.target.

Reference: systemd.unit(5), systemd.service(5), systemd.exec(5). The link is that of `systemctl --user enable`; ours needs no
running manager.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from edgeembed.autostart.base import MARK, NAME, Autostart, AutostartEntry, Managed, Program, ServiceManager, read_own
from edgeembed.common.files import write_bytes
from edgeembed.config.secrets import without_secrets
from edgeembed.errors import ConfigError

log = logging.getLogger(__name__)

UNIT = f"{NAME}.service"
SYSTEMCTL_SECONDS = 30.0
STOP_SECONDS = 90.0
"""Longer than TimeoutStopSec of the units, after which systemd kills."""

_UNIT_TEXT = """\
# {mark}
# To change settings: systemctl --user edit {name}

[Unit]
Description=edgeembed, a private embedding server
# Never give up restarting.
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={command}
{environment}# The first start downloads a model, which may take an hour; the daemon itself limits how long loading may take.
TimeoutStartSec=infinity
# More than twice the setting grace_period, in which running requests finish; the workers that compute them get no SIGTERM
# meanwhile.
TimeoutStopSec=1min
KillMode=mixed
WatchdogSec=5min
Restart=on-failure
RestartSec=2s
# systemd 254 and later; older versions always wait 2 s.
RestartSteps=6
RestartMaxDelaySec=1min
# Wrong settings, or a daemon is already running.
RestartPreventExitStatus=2
OOMPolicy=continue
# Core files would contain texts.
LimitCORE=0
NoNewPrivileges=yes

[Install]
WantedBy=default.target
"""


class SystemdUser(Autostart):
    """A unit of the user's own systemd."""

    system = "systemd"
    hint = "it stops when you log out, unless `loginctl enable-linger` keeps it running from boot"

    def __init__(self, program: Program, choice_file: Path, config_home: Path, *, others: Sequence[Autostart] = ()) -> None:
        super().__init__(program, choice_file, others)
        self._unit = config_home / "systemd" / "user" / UNIT
        self._link = self._unit.parent / "default.target.wants" / UNIT

    @property
    def place(self) -> str:
        return str(self._unit)

    def manager(self) -> ServiceManager:
        return Unit("--user")

    def entry(self) -> AutostartEntry | None:
        if self._masked():
            return AutostartEntry(self.place, active=False, current=False)
        text = read_own(self._unit)
        return (
            None
            if text is None
            else AutostartEntry(self.place, active=self._link.is_symlink(), current=text == self._text())
        )

    def _write(self) -> None:
        if self._masked():
            raise ConfigError(f"{UNIT} is masked; run `systemctl --user unmask {NAME}` first")
        read_own(self._unit)  # never replace a user's own unit
        write_bytes(self._unit, self._text().encode())
        self._link.parent.mkdir(exist_ok=True)
        if not self._link.is_symlink():
            self._link.symlink_to(self._unit)
        _reload()

    def _remove(self) -> None:
        if self._masked() or (read_own(self._unit) is None and not self._link.is_symlink()):
            return
        self._link.unlink(missing_ok=True)
        self._unit.unlink(missing_ok=True)
        wants = self._link.parent
        if wants.is_dir() and not any(wants.iterdir()):
            wants.rmdir()
        _reload()

    def _masked(self) -> bool:
        return self._unit.is_symlink() and self._unit.readlink() == Path(os.devnull)

    def _text(self) -> str:
        variables = [quote(f"{name}={value}") for name, value in self.program.environment.items()]
        command = self.program.command
        if any(sign in "\"'\\" for sign in command[0]):
            command = ("/usr/bin/env", *command)  # systemd allows these in arguments, but not in the path of a program
        first, *arguments = command
        return _UNIT_TEXT.format(
            mark=MARK,
            name=NAME,
            # The colon disables the expansion of $, which cannot be escaped in the path of a program.
            command=" ".join(quote(word) for word in (f":{first}", *arguments)),
            environment="".join(f"Environment={variable}\n" for variable in variables),
        )


class Unit(ServiceManager):
    """The unit in a running systemd: of the user's own manager, or of the system's."""

    name = "systemd"

    def __init__(self, manager: Literal["--user", "--system"]) -> None:
        self.scope = manager

    def inspect(self) -> Managed | None:
        done = _systemctl("show", UNIT, "--property=LoadState,ActiveState,SubState,MainPID", manager=self.scope)
        if done is None or done.returncode:
            return None
        found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
        if found.get("LoadState") != "loaded":
            return None
        pid = int(found.get("MainPID") or 0) or None
        match found.get("ActiveState"), found.get("SubState"):
            case "activating", "auto-restart" | "auto-restart-queued":
                return Managed("restarting", pid)
            case "activating", _:
                return Managed("starting", pid)
            case "active" | "reloading" | "deactivating", _:
                return Managed("running", pid)
            case "failed", _:
                return Managed("failed", pid)
            case _:
                return Managed("stopped", pid)

    def start(self) -> None:
        self._do("start", "--no-block", UNIT)

    def stop(self) -> None:
        self._do("stop", UNIT)

    def log_command(self, lines: int, *, follow: bool) -> list[str]:
        which = "--user-unit" if self.scope == "--user" else "--unit"
        return ["journalctl", f"{which}={UNIT}", f"--lines={lines}", *(["--follow"] if follow else ["--no-pager"])]

    def _do(self, *arguments: str) -> None:
        done = _systemctl(*arguments, manager=self.scope, seconds=STOP_SECONDS)
        if done is None:
            raise ConfigError(f"systemctl {self.scope} {arguments[0]} {NAME} did not work or did not end in time")
        if done.returncode:
            advice = f". Try: sudo systemctl {arguments[0]} {NAME}" if self.scope == "--system" else ""
            raise ConfigError(f"systemctl {self.scope} {arguments[0]} {NAME}: {done.stderr.strip()}{advice}")


def quote(word: str) -> str:
    """Return a word quoted as in systemd.service(5) and systemd.syntax(7): with C escapes, and % doubled.

    Raises ConfigError for names that are not valid Unicode, which units cannot contain.
    """
    try:
        word.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{word!r} is not valid Unicode and cannot be written to a systemd unit") from error
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return '"' + "".join(f"\\x{ord(sign):02x}" if sign < " " or sign == "\x7f" else sign for sign in escaped) + '"'


def user_manager_runs() -> bool:
    """Return whether a systemd manager runs for this user, which starts units at login."""
    done = _systemctl("show-environment")
    return done is not None and done.returncode == 0


def _reload() -> None:
    """Make a running manager reload the units; otherwise it reads them when it starts."""
    done = _systemctl("daemon-reload")
    if done is not None and done.returncode:
        log.debug("systemctl --user daemon-reload: %s", done.stderr.strip())


def _systemctl(
    *arguments: str, manager: str = "--user", seconds: float = SYSTEMCTL_SECONDS
) -> subprocess.CompletedProcess[str] | None:
    tool = shutil.which("systemctl")
    if tool is None:
        return None
    environ = without_secrets(os.environ)
    if "XDG_RUNTIME_DIR" not in environ:  # su and cron do not set it
        environ["XDG_RUNTIME_DIR"] = f"/run/user/{os.getuid()}"
    try:
        return subprocess.run(
            [tool, manager, *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            env=environ,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("systemctl %s %s: %s", manager, arguments[0], error)
        return None
