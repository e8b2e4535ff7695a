"""System calls that the C library has no function for."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from edgeembed.engine.sandbox.syscalls import Machine, number

_PR_SET_NO_NEW_PRIVS = 38


def call(name: str, machine: Machine, *arguments: int | bytes | None) -> int:
    """Make a system call that the architecture has, and return its result. arguments: bytes are passed by pointer.

    Raises OSError.
    """
    code = number(name, machine)
    assert code is not None
    function = _library().syscall
    function.restype = ctypes.c_long
    return _checked(function(ctypes.c_long(code), *map(_word, arguments)))


def forbid_new_privileges() -> None:
    """Set `no_new_privs`, as the kernel demands before a sandbox: no program started from here gains rights.

    Raises OSError.
    """
    _checked(_library().prctl(_PR_SET_NO_NEW_PRIVS, *map(_word, (1, 0, 0, 0))))


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _word(argument: Any) -> Any:
    return ctypes.c_ulong(argument) if isinstance(argument, int) else argument


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
