#!/usr/bin/env python3
"""Make a release's version one: in pyproject.toml, CHANGELOG.md, the Helm chart and the tag.

    release.py VERSION            set the version, name CHANGELOG's "Unreleased" after it, print the steps that remain
    release.py --check TAG        exit with 1 unless the tag, pyproject.toml and CHANGELOG.md have the same version
    release.py --notes TAG        print what CHANGELOG.md says of the version

Needs only the standard library of Python 3.11. The release workflow runs --check before it builds anything.
"""

from __future__ import annotations

import datetime
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNRELEASED = "## Unreleased"
CHART = Path("installers/kubernetes/edgeembed/Chart.yaml")
# The public versions of PEP 440 in their normal form, without epochs, which no release needs.
VERSION = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}((a|b|rc)(0|[1-9]\d*))?(\.post(0|[1-9]\d*))?")


class ReleaseError(Exception):
    """The version is not the same everywhere, or is none."""


def current_version(root: Path = ROOT) -> str:
    """Return the version in pyproject.toml."""
    version: str = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return version


def notes_of(version: str, root: Path = ROOT) -> str:
    """Return the text of the version's section of CHANGELOG.md. Raises ReleaseError if it is missing or empty."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    heading = rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)\n"
    found = re.search(rf"{heading}(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if not found or not found[1].strip():
        raise ReleaseError(
            f"CHANGELOG.md has no text below a line '## {version} (YYYY-MM-DD)': installers/release.py {version}"
        )
    return found[1].strip() + "\n"


def check_tag(tag: str, root: Path = ROOT) -> str:
    """Return the version that a tag names. Raises ReleaseError unless pyproject.toml and CHANGELOG.md have it as well."""
    version = current_version(root)
    if tag != f"v{version}":
        raise ReleaseError(f"the tag is {tag}, but pyproject.toml has version {version}, whose tag is v{version}")
    notes_of(version, root)
    return version


def set_version(version: str, date: str, root: Path = ROOT) -> None:
    """Write a version into pyproject.toml, CHANGELOG.md and the chart; all stay as they are if that fails.

    Raises ReleaseError.
    """
    if not VERSION.fullmatch(version):
        raise ReleaseError(f"{version!r} is not a version such as 1.2.3 or 1.2.3rc1")
    pyproject = (root / "pyproject.toml").read_text(encoding="utf-8")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    old = current_version(root)
    if f"\n## {version} (" not in changelog:
        section = re.search(rf"^{UNRELEASED}\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
        if not section or not section[1].strip():
            raise ReleaseError(f"CHANGELOG.md has nothing below '{UNRELEASED}'; say there what changed")
        changelog = changelog.replace(f"{UNRELEASED}\n", f"## {version} ({date})\n", 1)
    renamed, count = re.subn(
        rf'(^\[project\]\n(?:(?!\[).*\n)*?version = )"{re.escape(old)}"',
        rf'\g<1>"{version}"',
        pyproject,
        count=1,
        flags=re.MULTILINE,
    )
    if count != 1:
        raise ReleaseError("pyproject.toml has no line 'version = \"…\"' below [project]")
    chart = (root / CHART).read_text(encoding="utf-8")
    chart = re.sub(r"^version: .*$", f"version: {semantic(version)}", chart, flags=re.MULTILINE)
    chart = re.sub(r"^appVersion: .*$", f'appVersion: "{version}"', chart, flags=re.MULTILINE)
    (root / CHART).write_text(chart, encoding="utf-8")
    (root / "pyproject.toml").write_text(renamed, encoding="utf-8")
    (root / "CHANGELOG.md").write_text(changelog, encoding="utf-8")


def semantic(version: str) -> str:
    """Return a version of Python in the form of Helm, semantic versioning: 1.2.3-rc1, 1.2.3+post1."""
    return re.sub(r"\.(post\d+)$", r"+\1", re.sub(r"(?<=\d)(?=(a|b|rc)\d)", "-", version))


def steps(version: str) -> str:
    """Return what remains to be done for a release, as commands."""
    return f"""pyproject.toml, CHANGELOG.md and the chart have version {version}. Next:

  installers/kubernetes/render.py                # needs Helm; the manifests name the version, too
  bash .ci/run                                   # on a clean clone
  git commit -am 'Release {version}'
  git tag -a v{version} -m 'edgeembed {version}'
  git push origin HEAD v{version}                # .github/workflows/release.yml builds, and publishes what it built
"""


def main(arguments: list[str]) -> str:
    """Return what is to be printed. Raises ReleaseError."""
    match arguments:
        case ["--check", tag]:
            return f"{check_tag(tag)}\n"
        case ["--notes", tag]:
            return notes_of(tag.removeprefix("v"))
        case [version] if not version.startswith("-"):
            set_version(version, datetime.datetime.now(datetime.UTC).date().isoformat())
            return steps(version)
        case _:
            raise ReleaseError(f"usage: {Path(sys.argv[0]).name} VERSION | --check TAG | --notes TAG")


if __name__ == "__main__":
    try:
        sys.stdout.write(main(sys.argv[1:]))
    except ReleaseError as error:
        sys.exit(f"release.py: {error}")
