"""Licences of the packages that edgeembed runs on, as their own metadata states them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXTRA = re.compile(r"\bextra\s*==")


@dataclass(frozen=True)
class Dependency:
    """An installed package."""

    name: str
    version: str
    license: str


def dependencies(root: str) -> list[Dependency]:
    """Give every installed package that `root` needs, directly or not, in alphabetical order, `root` left out.

    Extras count for `root` itself when they are installed. What is not installed here, such as a package for another
    operating system, is not shown.
    """
    found: dict[str, Dependency] = {}
    waiting = [(root, True)]
    seen: set[str] = set()
    while waiting:
        name, with_extras = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in seen:
            continue
        seen.add(key)
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # for another system, or an extra that nobody asked for
        found[key] = Dependency(package.metadata["Name"], package.version, _license(package))
        for requirement in package.requires or []:
            match = _NAME.match(requirement)
            if match and (with_extras or not _EXTRA.search(requirement)):
                waiting.append((match.group(), False))
    found.pop(re.sub(r"[-_.]+", "-", root).lower(), None)
    return [found[key] for key in sorted(found)]


def license_of(package: str) -> str:
    """Give the licence of one installed package; "unknown" when it states none or is not installed."""
    try:
        return _license(distribution(package))
    except PackageNotFoundError:
        return "unknown"


def _license(package: Distribution) -> str:
    metadata = package.metadata
    if "License-Expression" in metadata:
        return metadata["License-Expression"]
    stated = metadata["License"].strip() if "License" in metadata else ""
    # Some put the whole text of their licence there.
    if stated and "\n" not in stated and len(stated) <= 60 and stated.upper() != "UNKNOWN":
        return stated
    classes = [str(line).rpartition(" :: ")[2] for line in metadata.get_all("Classifier") or [] if "License ::" in line]
    return ", ".join(classes) or "unknown"
