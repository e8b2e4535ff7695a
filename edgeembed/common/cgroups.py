"""What the cgroups around this process allow, and whether they killed something (Linux, versions 1 and 2).

A limit may be set at any level between the process's own cgroup and the root, and holds for all that is below it. In a
container the levels outside may be invisible. Sources: Linux's admin-guide, cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
UNLIMITED = 2**60
"""Version 1 writes "no limit" as a number a little below 2^63."""


def memory_left(root: Path = ROOT) -> int | None:
    """Return the bytes that may still be taken: the least of all levels' limits minus their use; None without a limit.

    Pages of files that the kernel would give up first do not count as used.
    """
    found = [
        *(_left(level, ("memory.max", "memory.high"), "memory.current", "inactive_file") for level in _levels(root, "")),
        *(
            _left(level, ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
            for level in _levels(root, "memory")
        ),
    ]
    return min((left for left in found if left is not None), default=None)


def memory_kills(root: Path = ROOT) -> int | None:
    """Return how many processes the kernel has killed for want of memory, in this cgroup if that counts; None if unknown."""
    files = [
        *(level / "memory.events" for level in _levels(root, "")),
        *(level / "memory.oom_control" for level in _levels(root, "memory")),
        root / "proc/vmstat",
    ]
    return next((count for file in files if (count := _entry(file, "oom_kill")) is not None), None)


def processors(root: Path = ROOT) -> float | None:
    """Return the processors whose time may be used: the least of all levels' quotas; None without a quota."""
    quotas: list[tuple[str, str]] = []
    for level in _levels(root, ""):
        quota, _, period = _text(level / "cpu.max").partition(" ")
        quotas.append((quota, period))
    quotas += [(_text(level / "cpu.cfs_quota_us"), _text(level / "cpu.cfs_period_us")) for level in _levels(root, "cpu")]
    return min((int(quota) / int(period) for quota, period in quotas if quota.isdigit() and period.isdigit()), default=None)


def _left(level: Path, limits: tuple[str, ...], use: str, cache: str) -> int | None:
    numbers = [_number(level / name) for name in limits]
    if limits == ("memory.limit_in_bytes",):
        numbers.append(_entry(level / "memory.stat", "hierarchical_memory_limit"))  # of the levels that are invisible, too
    limit = min((number for number in numbers if number is not None and number < UNLIMITED), default=None)
    if limit is None:
        return None
    used = (_number(level / use) or 0) - (_entry(level / "memory.stat", cache) or 0)
    return max(0, limit - max(0, used))


def _levels(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroup and of those around it, innermost first.

    controller: of a hierarchy of version 1; "" for the one of version 2.
    """
    path = next((path for names, path in _memberships(root) if controller in names), None)
    mount = next(_mounts(root, controller), None)
    if path is None or mount is None:
        return
    mounted, folder = mount
    # In a container, the root of the mount may be the container's cgroup, which need not be in its own view of the path.
    inner = path.removeprefix(mounted.rstrip("/")).strip("/") if (path + "/").startswith(mounted.rstrip("/") + "/") else ""
    at = folder / inner if ".." not in inner.split("/") else folder
    while True:
        yield at
        if at == folder:
            return
        at = at.parent


def _memberships(root: Path) -> Iterator[tuple[list[str], str]]:
    """Yield controllers and path of each hierarchy that this process belongs to."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        yield controllers.split(","), path


def _mounts(root: Path, controller: str) -> Iterator[tuple[str, Path]]:
    """Yield the cgroup at the top of each mount of a hierarchy, and where it is mounted."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, behind = line.partition(" - ")
        fields, (kind, _, options) = before.split(" "), [*behind.split(" "), "", "", ""][:3]
        if kind == "cgroup2" if not controller else kind == "cgroup" and controller in options.split(","):
            yield _unescaped(fields[3]), root / _unescaped(fields[4]).lstrip("/")


def _unescaped(field: str) -> str:
    r"""Return a field of mountinfo, in which a space is \040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # another system, another version, or a controller that is not enabled here
        return ""


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text.isdigit() else None  # not "max"


def _entry(file: Path, key: str) -> int | None:
    """Return the number behind a key, in a file of lines with a key and a number each."""
    for line in _text(file).splitlines():
        name, _, number = line.partition(" ")
        if name == key and number.strip().isdigit():
            return int(number)
    return None
