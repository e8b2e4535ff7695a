"""The contents of the packages besides the program, and the consistency of their build scripts."""

from __future__ import annotations

import configparser
import gzip
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from edgeembed.cli.main import COMMANDS, cli
from edgeembed.cli.serve import serve
from edgeembed.common.installation import PACKAGE_FILE, find_installation
from edgeembed.common.status import Demotion
from edgeembed.config.resolution import resolve
from edgeembed.diagnostics import doctor
from edgeembed.engine.supervisor.fallback_policy import FallbackMemory
from tests.cli.helpers import install
from tests.installers.loading import INSTALLERS, ROOT, load

SHELL_SCRIPTS = sorted(
    path
    for path in INSTALLERS.rglob("*")
    if path.is_file() and re.match(rb"#!(/bin/sh|/usr/bin/env bash)", path.read_bytes()[:32])
)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not on this machine (apt install shellcheck)")
def test_shell_scripts_pass_shellcheck() -> None:
    assert len(SHELL_SCRIPTS) > 8
    run = subprocess.run(["shellcheck", *map(str, SHELL_SCRIPTS)], capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no mark for what can be run")
def test_scripts_are_executable() -> None:
    assert [path.name for path in SHELL_SCRIPTS if not path.stat().st_mode & 0o100] == []


def test_manual_pages_cover_all_commands_and_settings(tmp_path: Path) -> None:
    load("manpages.py").write_pages(tmp_path)
    pages = {path.name.removesuffix(".1.gz"): gzip.decompress(path.read_bytes()).decode() for path in tmp_path.iterdir()}
    assert set(pages) == {"edgeembed", *(f"edgeembed-{name}" for name in COMMANDS)}
    plain = pages["edgeembed-serve"].replace("\\-", "-")
    flags = {flag for option in serve.params if isinstance(option, click.Option) for flag in option.opts}
    assert {flag for flag in flags if flag not in plain} == set()
    assert all(f"edgeembed\\-{name}" in pages["edgeembed"] for name in COMMANDS)


@pytest.mark.skipif(not shutil.which("groff"), reason="groff, which reads manual pages, is not on this machine")
def test_groff_accepts_the_manual_pages(tmp_path: Path) -> None:
    for page in load("manpages.py").write_pages(tmp_path):
        text = gzip.decompress(page.read_bytes())
        command = ["groff", "-man", "-ww", "-z", "-Kutf8"]
        run = subprocess.run(command, input=text, capture_output=True, check=True, timeout=60)
        assert run.stderr == b"", page.name


def test_the_menu_entry_starts_an_existing_command() -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read(INSTALLERS / "edgeembed.desktop", encoding="utf-8")
    program, command = parser["Desktop Entry"]["Exec"].split()
    assert program == "edgeembed" and command in COMMANDS


def test_the_container_copies_existing_files() -> None:
    lines = (INSTALLERS / "docker" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]]
    assert len(copied) > 5
    assert [word for word in copied if not (ROOT / word).exists()] == []


def test_the_frozen_program_is_also_the_python_of_its_workers() -> None:
    entry = str(INSTALLERS / "frozen" / "entry.py")
    version = subprocess.run([sys.executable, entry, "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert version.stdout.startswith("edgeembed")
    # pip is started like a worker, with Python's arguments.
    pip = subprocess.run([sys.executable, entry, "-P", "-m", "pip", "--version"], capture_output=True, text=True, timeout=60)
    assert pip.stdout.startswith("pip "), pip.stderr


@pytest.mark.parametrize(("script", "package"), [("deb/build.sh", "the Debian package"), ("bundle/build.sh", "the tarball")])
def test_packages_do_not_suggest_to_compile(
    script: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = (INSTALLERS / script).read_text(encoding="utf-8")
    line = next(line for line in recipe.splitlines() if PACKAGE_FILE in line)
    subprocess.run(["bash", "-c", line], env={"home": str(tmp_path)}, check=True, timeout=20)
    demotion = Demotion(mode="cpu", reason="it crashed", at=0.0, cause="crash")
    monkeypatch.setattr(FallbackMemory, "load", lambda _self: [demotion])
    model = install("alpha", "F16")

    def advice() -> str:
        return next(doctor._policy(resolve({}), model, forget=False)).advice or ""

    assert "uv sync" in advice()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert package in advice() and "uv sync" not in advice()
    assert find_installation().releases is None
    page = "https://example.org/o/e/releases"
    subprocess.run(["bash", "-c", line], env={"home": str(tmp_path), "RELEASE_PAGE": page}, check=True, timeout=20)
    assert (find_installation().title, find_installation().releases) == (package, page)


WINDOWS_SETUP = INSTALLERS / "windows" / "edgeembed.iss"


def test_the_windows_installer_calls_existing_commands() -> None:
    called = re.findall(r'Parameters: "([^"]+)"', WINDOWS_SETUP.read_text(encoding="utf-8"))
    assert {line.split()[0] for line in called} == {"tray", "start", "autostart"}
    for line in called:
        command, words = cli, line.split()
        while words and isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, line
            command = found
        command.make_context(line, words)  # unknown options are an error


def test_the_windows_installer_stops_what_runs_before_it_replaces_or_removes_files() -> None:
    """A running daemon holds its files open: Windows would ask for a restart, or leave half of the old version."""
    text = WINDOWS_SETUP.read_text(encoding="utf-8")
    procedures = dict(re.findall(r"^(?:procedure|function) (\w+).*?;\n(.*?)^end;", text, re.MULTILINE | re.DOTALL))
    stopping = procedures["StopRunning"]
    asked = re.findall(r"Ask\('(\w+)'\)", stopping)
    assert asked == ["status", "stop"] and set(asked) <= set(COMMANDS)
    assert stopping.index("Ask('stop')") < stopping.index("taskkill"), "first asked, then ended"
    assert all(f"/IM {name}.exe" in stopping for name in ("edgeembed", "edgeembedw"))
    assert "StopRunning;" in procedures["PrepareToInstall"]
    assert re.search(r"if Step = usUninstall then\s+StopRunning;", procedures["CurUninstallStepChanged"])


def test_the_windows_build_stops_at_the_first_failure() -> None:
    """PowerShell goes on after a program that failed, and only 7.4 can be told not to."""
    lines = (INSTALLERS / "windows" / "build.ps1").read_text(encoding="utf-8").splitlines()
    assert '$ErrorActionPreference = "Stop"' in lines
    assert any("$LASTEXITCODE -ne 0" in line and "throw" in line for line in lines)
    native = re.compile(r"^\s*(\$\w+ = )?(&|python|pip|iscc|cmake|git)\b|^\s*(\$\w+ = )?& ")
    unchecked = [line for line in lines if native.search(line) and line.strip() != "& $program @arguments"]
    assert not unchecked
    assert sum("Invoke-Program" in line for line in lines) > 8


def test_windows_upgrades_and_removals_respect_the_users_choice() -> None:
    text = WINDOWS_SETUP.read_text(encoding="utf-8")
    assert "autostart enable --unless-off" in text and "autostart disable --forget" in text
    assert len(re.findall(r"autostart (?:enable|disable)", text)) == 2
