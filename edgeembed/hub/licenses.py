"""Licences of the packages that edgeembed depends on, from their metadata."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from edgeembed.engine.llama_package import DISTRIBUTION, VENDORED, find_distribution

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXTRA = re.compile(r"\bextra\s*==")


@dataclass(frozen=True)
class Dependency:
    """An installed package."""

    name: str
    version: str
    license: str


def dependencies(root: str) -> list[Dependency]:
    """Return all installed dependencies of `root`, direct and indirect, in alphabetical order, without `root` itself.

    Installed extras of `root` are included. Packages that are not installed, such as those for another operating system, are
    not.
    """
    found: dict[str, Dependency] = {}
    waiting = [(root, True)]
    if VENDORED.is_dir():
        waiting.append((DISTRIBUTION, False))  # it is inside edgeembed's wheel, whose metadata cannot require it
    seen: set[str] = set()
    while waiting:
        name, with_extras = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in seen:
            continue
        seen.add(key)
        if (package := _find(key)) is None:
            continue  # for another system, or an extra that is not installed
        found[key] = Dependency(package.metadata["Name"], package.version, _license(package))
        for requirement in package.requires or []:
            match = _NAME.match(requirement)
            if match and (with_extras or not _EXTRA.search(requirement)):
                waiting.append((match.group(), False))
    found.pop(re.sub(r"[-_.]+", "-", root).lower(), None)
    return [found[key] for key in sorted(found)]


def license_of(package: str) -> str:
    """Return the licence of an installed package; "unknown" if it states none or is not installed."""
    found = _find(package)
    return _license(found) if found else "unknown"


def _find(name: str) -> Distribution | None:
    if name == DISTRIBUTION:
        return find_distribution()
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _license(package: Distribution) -> str:
    metadata = package.metadata
    if "License-Expression" in metadata:
        return metadata["License-Expression"]
    stated = metadata["License"].strip() if "License" in metadata else ""
    # Some packages put the whole licence text there.
    if stated and "\n" not in stated and len(stated) <= 60 and stated.upper() != "UNKNOWN":
        return stated
    classes = [str(line).rpartition(" :: ")[2] for line in metadata.get_all("Classifier") or [] if "License ::" in line]
    return ", ".join(classes) or "unknown"
