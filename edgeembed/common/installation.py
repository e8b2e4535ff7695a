"""How this edgeembed was installed, and with which commands that way of installing gets a newer one, or an extra."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

import msgspec

Kind = Literal["pip", "uv tool", "pipx", "source", "deb", "tarball", "windows", "macos", "container", "other"]
"""`other`: a package that is none of ours, such as a distribution's; its PACKAGE_FILE says how it is upgraded."""
PACKAGE_FILE = "edgeembed-package"
"""A file in sys.prefix, written by installers/: the package's name for people ("the Debian package"), then lines NAME=VALUE.

`releases` is the address of the release page, `upgrade` a command, `image` the container image's name without its tag.
"""
_PACKAGES: dict[str, Kind] = {"the Debian package": "deb", "the tarball": "tarball", "the container image": "container"}
_TITLES: dict[Kind, str] = {
    "pip": "the package index, by pip",
    "uv tool": "the package index, by uv tool",
    "pipx": "the package index, by pipx",
    "windows": "the Windows installer",
    "macos": "the macOS app",
}
_NAME = "edgeembed"
_DEBIAN_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """Where this installation came from."""

    kind: Kind
    title: str
    """For people, such as "the Debian package"."""
    prefix: Path
    """The folder of the Python that runs, or of the frozen program."""
    python: str = sys.executable
    source: str | None = None
    """The folder of a source tree, or the URL of a wheel's file; None if it came from a package index."""
    notes: Mapping[str, str] = {}
    """The lines NAME=VALUE of the package's file."""

    @property
    def packaged(self) -> bool:
        """Whether it is a package with a Python and a llama.cpp of its own, which its users did not build."""
        return self.kind not in ("pip", "uv tool", "pipx", "source")

    @property
    def releases(self) -> str | None:
        """The address of the page from which the package came, if its builder noted it."""
        return self.notes.get("releases")

    def upgrade(self, version: str) -> str:
        """Return the command, or the words, that replace this installation with a version."""
        if command := self.notes.get("upgrade"):
            return command
        match self.kind:
            case "pip":
                return _shell(self.python, "-m", "pip", "install", "--upgrade", _NAME)
            case "uv tool":
                words = ("install", "--force", _NAME + _present_extras()) if self.source else ("upgrade", _NAME)
                return _shell("uv", "tool", *words)
            case "pipx":
                words = ("install", "--force", _NAME + _present_extras()) if self.source else ("upgrade", _NAME)
                return _shell("pipx", *words)
            case "source":
                install = _shell("uv", "pip", "install", "--python", self.python, "-e", f"{self.source}{_present_extras()}")
                return f"{_shell('git', '-C', str(self.source), 'pull')} && {install}"
            case "container" if image := self.notes.get("image"):
                return _shell("docker", "pull", f"{image}:{version}")
            case "container":
                return "build the image anew from the new source"
            case _:
                return self._from_a_file(version)

    def _from_a_file(self, version: str) -> str:
        file = file_name(self.kind, version, platform.machine())
        if file is None:
            return "get the newer package from where this one came from"
        where = f"{self.releases}/download/v{version}/{file}" if self.releases else None
        if self.kind in ("windows", "macos"):
            return f"download and open {where or f'{file}, from where this one came from'}"
        fetch = f"{_shell('curl', '-fLO', where)} && " if where else ""
        if self.kind == "deb":
            return f"{fetch}{_shell('sudo', 'apt', 'install', f'./{file}')}"
        folder = file.removesuffix(".tar.xz")
        home = self.prefix.parent  # PREFIX/lib/edgeembed, if install.sh put it there
        chosen = home.parent.parent if (home.name, home.parent.name) == (_NAME, "lib") else None
        elsewhere = ("--prefix", str(chosen)) if chosen and chosen != Path.home() / ".local" else ()
        return f"{fetch}{_shell('tar', 'xf', file)} && {_shell(f'{folder}/install.sh', *elsewhere)}"

    def add(self, extra: str) -> str:
        """Return the command, or the words, that add what an extra of pyproject.toml brings, such as `bulk`."""
        named = f"{_NAME}[{extra}]"
        brings = requirements_of(extra)
        match self.kind:
            case "pip":
                return _shell(self.python, "-m", "pip", "install", named)
            case "uv tool":
                return _shell("uv", "tool", "install", "--force", f"{named} @ {self.source}" if self.source else named)
            case "pipx":
                return _shell("pipx", "inject", _NAME, *brings)
            case "source":
                return _shell("uv", "pip", "install", "--python", self.python, "-e", f"{self.source}[{extra}]")
            case "deb":
                return _shell("sudo", self.python, "-m", "pip", "install", *brings)
            case "tarball":
                return _shell(self.python, "-m", "pip", "install", *brings)
            case "container":
                return f"build an image on this one with `RUN {_shell(self.python, '-m', 'pip', 'install', *brings)}`"
            case _:
                beside = _shell("uv", "tool", "install", named)
                return f"{self.title} cannot take it; another installation beside it can: {beside}"


def find_installation(
    prefix: Path | None = None, *, frozen: bool | None = None, system: str = sys.platform, found: Distribution | None = None
) -> Installation:
    """Return how this edgeembed was installed.

    The parameters, for tests: sys.prefix, whether this is a frozen program, sys.platform, edgeembed's metadata.
    """
    prefix = Path(sys.prefix) if prefix is None else prefix
    title, notes = _read_package_file(prefix)
    if getattr(sys, "frozen", False) if frozen is None else frozen:
        kind: Kind = {"win32": "windows", "darwin": "macos"}.get(system, "other")  # type: ignore[assignment]
        return Installation(kind=kind, title=title or _TITLES.get(kind, "a frozen program"), prefix=prefix, notes=notes)
    if title:
        return Installation(kind=_PACKAGES.get(title, "other"), title=title, prefix=prefix, notes=notes)
    own = found or _own_distribution()
    url, folder = _origin(own)
    if (prefix / "uv-receipt.toml").is_file():
        kind = "uv tool"
    elif (prefix / "pipx_metadata.json").is_file():
        kind = "pipx"
    elif own is None or folder:
        path = folder or str(Path(__file__).parents[2])
        return Installation(kind="source", title=f"a source tree, {path}", prefix=prefix, source=path)
    else:
        kind = "pip"
    title = f"{url}, by {kind}" if url else _TITLES[kind]
    return Installation(kind=kind, title=title, prefix=prefix, source=folder or url)


def file_name(kind: Kind, version: str, machine: str) -> str | None:
    """Return the name of a release's file for a kind of package, or None. machine: as `platform.machine()` has it."""
    match kind:
        case "deb":
            return f"edgeembed_{version}-1_{_DEBIAN_MACHINES.get(machine, machine)}.deb"
        case "tarball":
            return f"edgeembed-{version}-linux-{machine}.tar.xz"
        case "windows":
            return f"edgeembed-{version}-windows-x64.exe"
        case "macos":
            return f"edgeembed-{version}-macos-{machine}.dmg"
        case _:
            return None


def requirements_of(extra: str) -> list[str]:
    """Return what an extra of edgeembed requires, such as `["pyarrow<25,>=17"]`; [] where edgeembed has no metadata."""
    own = _own_distribution()
    marker = re.compile(rf"extra == ['\"]{re.escape(extra)}['\"]")
    return [entry.split(";")[0].strip() for entry in (own.requires or [] if own else []) if marker.search(entry)]


def _present_extras() -> str:
    """Return the extras whose requirements are all installed, as "[bulk,tray]", or ""."""
    own = _own_distribution()
    extras = (own.metadata.get_all("Provides-Extra") if own else None) or []
    present = [extra for extra in extras if (needed := requirements_of(extra)) and all(map(_is_installed, needed))]
    return f"[{','.join(present)}]" if present else ""


def _is_installed(requirement: str) -> bool:
    name = re.match(r"[\w.-]+", requirement)
    try:
        return bool(name and distribution(name[0]))
    except PackageNotFoundError:
        return False


def _own_distribution() -> Distribution | None:
    try:
        return distribution(_NAME)
    except PackageNotFoundError:
        return None


def _origin(own: Distribution | None) -> tuple[str | None, str | None]:
    """Return the URL from which edgeembed was installed, None for an index, and its path if that is a folder."""
    text = own.read_text("direct_url.json") if own else None
    if not text:
        return None, None
    try:
        origin = msgspec.json.decode(text, type=_DirectUrl)
    except msgspec.MsgspecError:
        return None, None
    folder = None if origin.dir_info is None else url2pathname(urlsplit(origin.url).path)
    return origin.url, folder


class _DirectUrl(msgspec.Struct):
    """What installers note in direct_url.json (PEP 610)."""

    url: str
    dir_info: dict[str, bool] | None = None


def _read_package_file(prefix: Path) -> tuple[str | None, dict[str, str]]:
    try:
        lines = (prefix / PACKAGE_FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError):
        return None, {}
    pairs = (line.partition("=") for line in lines[1:] if "=" in line)
    return (lines[0].strip() if lines else "") or None, {name.strip(): value.strip() for name, _, value in pairs}


def _shell(*words: str) -> str:
    """Return a command line for this system's shell."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
