"""The desktop entry: its content, and how desktops read it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeembed.autostart.base import Program
from edgeembed.autostart.xdg import XdgAutostart, as_string, quote
from edgeembed.errors import ConfigError
from tests.autostart.fakes import NASTY, program
from tests.waiting import until


def test_enable_writes_one_file_and_disable_removes_only_that(tmp_path: Path) -> None:
    command = ("/opt/edge embed/python", "-P", "-m", "edgeembed", "serve")
    autostart = XdgAutostart(Program(command, {}, tmp_path / "log"), tmp_path / "choice.json", tmp_path / "config")
    autostart.enable()
    (entry,) = (path for path in (tmp_path / "config").rglob("*") if path.is_file())
    assert entry == tmp_path / "config" / "autostart" / "edgeembed.desktop"
    assert entry.read_text().splitlines() == [
        "[Desktop Entry]",
        "# Written by `edgeembed autostart enable`; `edgeembed autostart disable` removes it.",
        "Type=Application",
        "Version=1.0",
        "Name=edgeembed",
        "Comment=A private embedding server",
        'Exec="/opt/edge embed/python" "-P" "-m" "edgeembed" "serve"',
        "TryExec=/opt/edge embed/python",
        "Terminal=false",
        "X-GNOME-Autostart-enabled=true",
    ]
    other = entry.with_name("other.desktop")
    other.write_text("")
    autostart.disable()
    assert list(entry.parent.iterdir()) == [other]


def test_quoting_follows_the_specification() -> None:
    assert quote('a "b" $c `d` \\e %f') == '"a \\"b\\" \\$c \\`d\\` \\\\e %%f"'
    # The example of the specification: in quoted arguments, a backslash becomes four, a dollar sign gets two in front.
    assert as_string(quote("\\")) == '"\\\\\\\\"'
    assert as_string(quote("$")) == '"\\\\$"'
    assert as_string(" a\nb\tc\r") == "\\sa\\nb\\tc\\r"


def test_a_program_with_an_impossible_path_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="with = in its path"):
        XdgAutostart(program(tmp_path / "a=b"), tmp_path / "choice.json", tmp_path).enable()


@pytest.mark.skipif(
    not shutil.which("gio"), reason="gio, which starts desktop entries as GNOME and Xfce do, is not installed"
)
def test_desktops_start_the_program_with_its_arguments_and_environment(tmp_path: Path) -> None:
    folder = tmp_path / NASTY
    folder.mkdir()
    started = folder / "python"
    started.symlink_to(sys.executable)
    script = "import json, os, sys, pathlib; h = os.environ['EDGEEMBED_HOME']; "
    script += "pathlib.Path(h, 'output').write_text(json.dumps([sys.argv[1:], h]))"
    arguments = ("-c", script, NASTY, "100%", "")
    autostart = XdgAutostart(
        Program((str(started), *arguments), {"EDGEEMBED_HOME": str(folder)}, tmp_path / "log"), tmp_path / "c.json", tmp_path
    )
    autostart.enable()
    done = subprocess.run(["gio", "launch", autostart.place], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    output = _wait_for(folder / "output")
    assert json.loads(output) == [[NASTY, "100%", ""], str(folder)]


@pytest.mark.skipif(not shutil.which("desktop-file-validate"), reason="desktop-file-validate is not installed")
def test_the_entry_is_valid(tmp_path: Path) -> None:
    autostart = XdgAutostart(program(tmp_path / NASTY, EDGEEMBED_HOME=NASTY), tmp_path / "choice.json", tmp_path)
    autostart.enable()
    command = ["desktop-file-validate", autostart.place]
    output = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    assert output.returncode == 0, output.stdout


def test_the_error_for_a_damaged_entry_names_it(tmp_path: Path) -> None:
    autostart = XdgAutostart(program(tmp_path), tmp_path / "choice.json", tmp_path)
    autostart.enable()
    entry = Path(autostart.place)
    entry.write_text(entry.read_text().replace("[Desktop Entry]", ""))
    with pytest.raises(ConfigError, match=r"edgeembed\.desktop"):
        autostart.status()


def _wait_for(path: Path) -> str:
    """Wait for what a separate process writes; gio does not wait for it."""
    until(path.exists)
    return until(path.read_text)
