"""The kernel's part of a seccomp filter: runs its instructions on a system call. Only the instructions that ours uses."""

from __future__ import annotations

import struct

from edgeembed.engine.sandbox.syscalls import AUDIT_ARCH, Machine


def run(program: bytes, machine: Machine, number: int, *arguments: int, architecture: int | None = None) -> int:
    """Return what the filter returns for a call. architecture: of the call, if it is not the machine's."""
    padded = [argument & (2**64 - 1) for argument in (*arguments, *[0] * 6)][:6]
    data = struct.pack("<IIQ6Q", number, AUDIT_ARCH[machine] if architecture is None else architecture, 0, *padded)
    steps = list(struct.iter_unpack("=HBBI", program))
    at, loaded = 0, 0
    for _ in steps:  # jumps only lead forward
        code, if_true, if_false, value = steps[at]
        at += 1
        match code:
            case 0x20:
                (loaded,) = struct.unpack_from("<I", data, value)
            case 0x54:
                loaded &= value
            case 0x15:
                at += if_true if loaded == value else if_false
            case 0x35:
                at += if_true if loaded >= value else if_false
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")
    raise AssertionError("the program does not end")
