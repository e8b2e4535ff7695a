"""The desktop entry: what is written, and what desktops make of it."""

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


def test_enable_writes_one_file_and_disable_removes_just_that(tmp_path: Path) -> None:
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


def test_words_are_quoted_as_the_specification_says() -> None:
    assert quote('a "b" $c `d` \\e %f') == '"a \\"b\\" \\$c \\`d\\` \\\\e %%f"'
    # Its own example: a backslash in a quoted argument is four in the file, a dollar sign has two in front.
    assert as_string(quote("\\")) == '"\\\\\\\\"'
    assert as_string(quote("$")) == '"\\\\$"'
    assert as_string(" a\nb\tc\r") == "\\sa\\nb\\tc\\r"


def test_a_program_that_no_entry_can_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds a ="):
        XdgAutostart(program(tmp_path / "a=b"), tmp_path / "choice.json", tmp_path).enable()


@pytest.mark.skipif(
    not shutil.which("gio"), reason="gio, which starts desktop entries as GNOME and Xfce do, is not installed"
)
def test_a_desktop_starts_the_program_with_its_arguments_and_its_home(tmp_path: Path) -> None:
    folder = tmp_path / NASTY
    folder.mkdir()
    started = folder / "python"
    started.symlink_to(sys.executable)
    script = "import json, os, sys, pathlib; h = os.environ['EDGEEMBED_HOME']; "
    script += "pathlib.Path(h, 'said').write_text(json.dumps([sys.argv[1:], h]))"
    arguments = ("-c", script, NASTY, "100%", "")
    autostart = XdgAutostart(
        Program((str(started), *arguments), {"EDGEEMBED_HOME": str(folder)}, tmp_path / "log"), tmp_path / "c.json", tmp_path
    )
    autostart.enable()
    done = subprocess.run(["gio", "launch", autostart.place], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said = _wait_for(folder / "said")
    assert json.loads(said) == [[NASTY, "100%", ""], str(folder)]


@pytest.mark.skipif(not shutil.which("desktop-file-validate"), reason="desktop-file-validate is not installed")
def test_the_entry_is_valid(tmp_path: Path) -> None:
    autostart = XdgAutostart(program(tmp_path / NASTY, EDGEEMBED_HOME=NASTY), tmp_path / "choice.json", tmp_path)
    autostart.enable()
    command = ["desktop-file-validate", autostart.place]
    said = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    assert said.returncode == 0, said.stdout


def test_a_damaged_entry_is_an_error_with_its_name(tmp_path: Path) -> None:
    autostart = XdgAutostart(program(tmp_path), tmp_path / "choice.json", tmp_path)
    autostart.enable()
    entry = Path(autostart.place)
    entry.write_text(entry.read_text().replace("[Desktop Entry]", ""))
    with pytest.raises(ConfigError, match=r"edgeembed\.desktop"):
        autostart.status()


def _wait_for(path: Path) -> str:
    """Wait for what a process of its own writes; gio does not wait for it."""
    until(path.exists)
    return until(path.read_text)
