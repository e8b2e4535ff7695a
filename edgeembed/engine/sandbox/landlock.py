"""Which files and connections a worker may open, by Linux's Landlock, as far as the running kernel knows it.

The rights are those of linux/landlock.h; each version of its interface (ABI) added some. They hold for the calling thread
and for those that it starts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgeembed.engine.sandbox import kernel
from edgeembed.engine.sandbox.syscalls import Machine

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
READ = _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
"""Rights that a rule for a single file can have."""
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Number of rights to files, by ABI: the lowest bits; since 5 the same."""
ANYTHING = (1 << 16) - 1
CHANGE = ANYTHING & ~_EXECUTE & ~READ
"""Write, create, remove, rename, and control devices."""

_BIND_TCP, _CONNECT_TCP = 1, 2
TCP_ABI = 4
_ABSTRACT_SOCKET, _SIGNAL = 1, 2
_SCOPES_ABI = 6
_ALL_THREADS, ALL_THREADS_ABI = 1 << 3, 8
_ABI_QUERY, _PATH_BENEATH = 1, 1
_rule = struct.Struct("=Qi")


@dataclass(frozen=True)
class Grant:
    """Rights to a file, or to a folder and all within. What does not exist is left out."""

    path: Path
    rights: int


class UnavailableError(Exception):
    """Landlock cannot be used; the message says why."""


def abi(machine: Machine) -> int:
    """Return the version of the kernel's interface. Raises UnavailableError."""
    try:
        return kernel.call("landlock_create_ruleset", machine, None, 0, _ABI_QUERY)
    except OSError as error:
        raise UnavailableError(
            "Landlock is turned off in this kernel" if error.errno == errno.EOPNOTSUPP
            else "this kernel has no Landlock" if error.errno == errno.ENOSYS
            else f"Landlock: {error.strerror}"
        ) from error  # fmt: skip


def restrict(machine: Machine, grants: Iterable[Grant], *, reading: bool) -> int:
    """Allow this process only what is granted, for good, and return the ABI that holds. Raises UnavailableError.

    reading: whether reading is restricted, too. TCP, abstract Unix sockets of other processes, and signals to them are never
    allowed.
    """
    version = abi(machine)
    flags = _ALL_THREADS if version >= ALL_THREADS_ABI else 0
    if not flags and (threads := thread_count()) > 1:
        raise UnavailableError(f"Landlock (ABI {version}) cannot restrict the {threads} threads that are already running")
    files = (1 << _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]) - 1
    if not reading:
        files &= ~READ
    try:
        ruleset = _ruleset(machine, version, files)
        try:
            for grant in grants:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                    _add(machine, ruleset, grant, files)
            kernel.forbid_new_privileges()
            kernel.call("landlock_restrict_self", machine, ruleset, flags)
        finally:
            os.close(ruleset)
    except OSError as error:
        raise UnavailableError(f"Landlock (ABI {version}): {error.strerror}") from error
    return version


def thread_count() -> int:
    """Return the number of threads of this process."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def attributes(version: int, files: int) -> bytes:
    """Return struct landlock_ruleset_attr for an ABI: which rights are refused unless granted."""
    fields = [files]
    if version >= TCP_ABI:
        fields.append(_BIND_TCP | _CONNECT_TCP)
    if version >= _SCOPES_ABI:
        fields.append(_ABSTRACT_SOCKET | _SIGNAL)
    return struct.pack(f"={len(fields)}Q", *fields)


def _ruleset(machine: Machine, version: int, files: int) -> int:
    packed = attributes(version, files)
    return kernel.call("landlock_create_ruleset", machine, packed, len(packed), 0)


def _add(machine: Machine, ruleset: int, grant: Grant, files: int) -> None:
    beneath = os.open(grant.path, os.O_PATH | os.O_CLOEXEC)
    try:
        rights = grant.rights & files
        if not grant.path.is_dir():
            rights &= _OF_FILES
        if rights:  # none would be an error
            kernel.call("landlock_add_rule", machine, ruleset, _PATH_BENEATH, _rule.pack(rights, beneath), 0)
    finally:
        os.close(beneath)
