"""The numbers of system calls are those of the kernel's headers, which come with every C compiler."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from edgeembed.engine.sandbox import syscalls

X86_64 = [Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm/unistd_64.h")]
GENERIC = Path("/usr/include/asm-generic/unistd.h")
"""The numbers of aarch64, and of all newer architectures."""


def defined(header: Path) -> dict[str, int]:
    found = re.findall(r"#define\s+__NR(?:3264)?_(\w+)\s+(\d+)", header.read_text(encoding="utf-8"))
    return {name: int(number) for name, number in found}


@pytest.mark.skipif(sys.platform != "linux", reason="macOS and Windows have no such headers")
def test_numbers_are_those_of_the_headers() -> None:
    x86_64 = next((header for header in X86_64 if header.exists()), None)
    if x86_64 is not None:  # a compiler for another processor does not bring it
        numbers = defined(x86_64)
        assert {name: numbers.get(name) for name in syscalls.NUMBERS} == {
            name: syscalls.number(name, "x86_64") for name in syscalls.NUMBERS
        }
    numbers = defined(GENERIC)
    numbers["newfstatat"] = numbers["fstatat"]
    assert {name: numbers.get(name) for name in syscalls.NUMBERS} == {
        name: syscalls.number(name, "aarch64") for name in syscalls.NUMBERS
    }


def test_the_last_number_is_the_highest() -> None:
    for machine in syscalls.AUDIT_ARCH:
        assert max(syscalls.number(name, machine) or 0 for name in syscalls.NUMBERS) <= syscalls.NEWEST
