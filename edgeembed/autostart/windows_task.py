"""Start at login on Windows: a task of the Task Scheduler, or where that is refused, the user's Run key.

Reference: Microsoft's "Task Scheduler Schema", schtasks, Get-ScheduledTask. A task, unlike a value of the Run key, can be
started and ended now. Written after the reference: it was not run on Windows.
"""

from __future__ import annotations

import getpass
import logging
import os
import subprocess
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from edgeembed.autostart.base import MARK, NAME, Autostart, AutostartEntry, Managed, Program, ServiceManager
from edgeembed.autostart.windows import WindowsRun
from edgeembed.config.secrets import without_secrets
from edgeembed.errors import ConfigError

log = logging.getLogger(__name__)

TOOL_SECONDS = 30.0
_NO_WINDOW = 0x08000000
_SPACE = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"
# Priority 5 is that of a program which a user starts; a task has 7 otherwise, below that. PT0S: no limit of time.
_TASK = """\
<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo><Description>{mark}</Description></RegistrationInfo>
  <Triggers><LogonTrigger><Enabled>true</Enabled><UserId>{user}</UserId></LogonTrigger></Triggers>
  <Principals>
    <Principal id="Author">
      <UserId>{user}</UserId>
      <LogonType>InteractiveToken</LogonType>
      <RunLevel>LeastPrivilege</RunLevel>
    </Principal>
  </Principals>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <Priority>5</Priority>
  </Settings>
  <Actions Context="Author"><Exec><Command>{command}</Command><Arguments>{arguments}</Arguments></Exec></Actions>
</Task>
"""

Run = Callable[[Sequence[str]], str | None]
"""Runs a program and returns its output; None if it failed."""


class WindowsTask(Autostart):
    """A task that starts when the user logs in."""

    system = "Windows Task Scheduler"
    hint = "it is also listed in Task Scheduler, or under Startup apps if tasks are not allowed"

    def __init__(self, program: Program, choice_file: Path, run_key: WindowsRun, run: Run | None = None) -> None:
        """Prepare. run_key: is used where a task is refused. run: for tests."""
        super().__init__(program, choice_file)
        self._run_key = run_key
        self._run = run or _run

    @property
    def place(self) -> str:
        return self._run_key.place if self._task() is None and self._run_key.entry() else rf"Task Scheduler\{NAME}"

    def entry(self) -> AutostartEntry | None:
        task = self._task()
        if task is None:
            return self._run_key.entry()
        enabled = task.findtext(f"{_SPACE}Settings/{_SPACE}Enabled", "true") != "false"
        action = f"{_SPACE}Actions/{_SPACE}Exec/{_SPACE}"
        found = (task.findtext(f"{action}Command"), task.findtext(f"{action}Arguments"))
        return AutostartEntry(rf"Task Scheduler\{NAME}", active=enabled, current=found == self._action())

    def manager(self) -> ServiceManager | None:
        return Task(self._run) if self._task() is not None else None

    def _write(self) -> None:
        self._run_key.check_environment()  # a task gets the variables of a login, too
        command, arguments = self._action()
        user = "\\".join(part for part in (os.environ.get("USERDOMAIN", ""), getpass.getuser()) if part)
        words = {"mark": MARK, "user": user, "command": command, "arguments": arguments}
        text = _TASK.format(**{name: escape(word) for name, word in words.items()})
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "task.xml"
            file.write_bytes(text.encode("utf-16"))
            created = self._run(("schtasks", "/Create", "/TN", NAME, "/XML", str(file), "/F"))
        if created is None:
            log.info("a task is refused; the Run key is used")
            self._run_key.write()
        else:
            self._run_key.remove()

    def _remove(self) -> None:
        if self._task() is not None and self._run(("schtasks", "/Delete", "/TN", NAME, "/F")) is None:
            raise ConfigError(f"the task {NAME} cannot be removed; remove it in Task Scheduler")
        self._run_key.remove()

    def _action(self) -> tuple[str, str]:
        first, *others = self.program.command
        return first, subprocess.list2cmdline(others)

    def _task(self) -> ElementTree.Element | None:
        """Return the task, if there is one."""
        output = self._run(("schtasks", "/Query", "/TN", NAME, "/XML", "ONE"))
        if not output or "<Task" not in output:
            return None
        try:
            # It says UTF-16, but has the encoding of the console.
            return ElementTree.fromstring(output[output.index("<Task") :])
        except ElementTree.ParseError as error:
            log.warning("cannot read the task %s: %s", NAME, error)
            return None


class Task(ServiceManager):
    """The task in the running Task Scheduler."""

    name = "Task Scheduler"

    def __init__(self, run: Run) -> None:
        self._run = run

    def inspect(self) -> Managed | None:
        # What schtasks prints about the state is in the language of the system.
        state = self._run(("powershell", "-NoProfile", "-Command", f"(Get-ScheduledTask -TaskName {NAME}).State"))
        match (state or "").strip():
            case "Running":
                return Managed("running")
            case "Queued":
                return Managed("starting")
            case "Ready" | "Disabled":
                return Managed("stopped")
            case _:
                return None

    def start(self) -> None:
        if self._run(("schtasks", "/Run", "/TN", NAME)) is None:
            raise ConfigError(f"Task Scheduler does not start the task {NAME}; is it disabled there?")

    def stop(self) -> None:
        if self._run(("schtasks", "/End", "/TN", NAME)) is None:
            raise ConfigError(f"Task Scheduler does not end the task {NAME}")


def _run(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(
            list(command),
            capture_output=True,
            timeout=TOOL_SECONDS,
            stdin=subprocess.DEVNULL,
            env=without_secrets(os.environ),
            creationflags=_NO_WINDOW,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("%s: %s", command[0], error)
        return None
    if done.returncode:
        log.debug("%s: %s", " ".join(command[:2]), done.stderr.decode(errors="replace").strip())
        return None
    return done.stdout.decode("oem" if os.name == "nt" else "utf-8", errors="replace")
