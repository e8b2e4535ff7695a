"""A stand-in for systemd's user manager: `systemctl` and `journalctl` that run our unit."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

_SYSTEMCTL = """\
#!{python}
import os, pathlib, shlex, signal, subprocess, sys, time
here = pathlib.Path({here!r})
with (here / "calls").open("a") as calls:
    print(*sys.argv[1:], file=calls)
scope, verb, *rest = sys.argv[1:]
pid_file, unit = here / "pid", pathlib.Path({unit!r})
pid = int(pid_file.read_text()) if pid_file.exists() else 0
def runs():
    try:
        return pid and pathlib.Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
if scope == "--system":
    print("LoadState=not-found\\nActiveState=inactive\\nSubState=dead\\nMainPID=0")
elif verb == "show":
    state = ("active", "running") if runs() else ("failed", "failed") if pid else ("inactive", "dead")
    print(f"LoadState={{'loaded' if unit.exists() else 'not-found'}}\\nActiveState={{state[0]}}\\nSubState={{state[1]}}")
    print(f"MainPID={{pid if runs() else 0}}")
elif verb == "start":
    lines = unit.read_text().splitlines()
    (command,) = [line.removeprefix("ExecStart=") for line in lines if line.startswith("ExecStart=")]
    words = shlex.split(command)
    variables = [shlex.split(line.removeprefix("Environment="))[0] for line in lines if line.startswith("Environment=")]
    environ = os.environ | dict(each.split("=", 1) for each in variables)
    with (here / "journal").open("ab") as journal:
        started = subprocess.Popen(
            [words[0].removeprefix(":"), *words[1:]], stdin=subprocess.DEVNULL, stdout=journal, stderr=journal,
            env=environ, start_new_session=True,
        )
    pid_file.write_text(str(started.pid))
elif verb == "stop" and runs():
    os.kill(pid, signal.SIGTERM)
    while runs():
        time.sleep(0.05)
    pid_file.unlink()
"""
_JOURNALCTL = """\
#!/bin/sh
for word in "$@"; do case $word in --lines=*) lines=${{word#--lines=}} ;; esac; done
exec tail -n "$lines" {here}/journal
"""


def install(folder: Path, unit: Path) -> Path:
    """Write the programs to a folder, for PATH, and return it. unit: the file that `autostart enable` writes."""
    tools = folder / "bin"
    tools.mkdir(parents=True)
    for name, text in (("systemctl", _SYSTEMCTL), ("journalctl", _JOURNALCTL)):
        tool = tools / name
        tool.write_text(text.format(python=sys.executable, here=str(folder), unit=str(unit)))
        tool.chmod(0o755)
    return tools


def end(folder: Path) -> None:
    """Kill what is left."""
    if (file := folder / "pid").exists():
        try:
            os.kill(int(file.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            return
