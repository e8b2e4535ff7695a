"""The filter of system calls, run by a small model of the kernel, for both architectures and for graphics cards."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from edgeembed.engine.sandbox import seccomp, syscalls
from edgeembed.engine.sandbox.seccomp import ALLOW, MISSING, REFUSE, Policy
from edgeembed.engine.sandbox.syscalls import AUDIT_ARCH, Machine
from tests.engine.sandbox import bpf

PID, OTHER = 4321, 1
MACHINES: list[Machine] = list(AUDIT_ARCH)
KILL = 0x80000000
O_RDONLY, O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE, O_CLOEXEC = 0, 1, 2, 0o100, 0o1000, 0o20200000, 0o2000000
THREAD = 0x3D0F00
"""What the C library starts a thread with: CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, …"""
VFORK, SIGCHLD = 0x4100, 17

Filter = Callable[..., int]


def make(policy: Policy, machine: Machine) -> Filter:
    program = seccomp.program(policy, machine)
    assert len(program) // 8 <= 4096, "the kernel's limit"

    def outcome(name: str | int, *arguments: int) -> int:
        number = name if isinstance(name, int) else syscalls.number(name, machine)
        return REFUSE if number is None else bpf.run(program, machine, number, *arguments)

    return outcome


@pytest.fixture(params=MACHINES)
def processor(request: pytest.FixtureRequest) -> Filter:
    return make(seccomp.on_processor(PID, {}), request.param)


@pytest.fixture(params=MACHINES)
def card(request: pytest.FixtureRequest) -> Filter:
    return make(seccomp.on_graphics_card(PID), request.param)


@pytest.fixture(params=[(device, machine) for device in ("processor", "card") for machine in MACHINES])
def either(request: pytest.FixtureRequest) -> Filter:
    """Return the filter for a worker on the processor, and that for one on a graphics card."""
    device, machine = request.param
    return make(seccomp.on_processor(PID, {}) if device == "processor" else seccomp.on_graphics_card(PID), machine)


@pytest.mark.parametrize("name", ["futex", "read", "write", "mmap", "madvise", "rseq", "exit_group", "newfstatat", "fcntl"])
def test_computing_goes_on(either: Filter, name: str) -> None:
    assert either(name, 3, 0) == ALLOW


@pytest.mark.parametrize(
    "name",
    ["execve", "execveat", "ptrace", "process_vm_readv", "connect", "bpf", "io_uring_setup", "unshare", "mount", "keyctl",
     "open_by_handle_at", "tkill", "rt_sigqueueinfo", "pidfd_open", "userfaultfd", "perf_event_open"],
)  # fmt: skip
def test_no_worker_may_do_what_no_model_needs(either: Filter, name: str) -> None:
    assert either(name) == REFUSE


def test_threads_may_be_started_and_processes_may_not(either: Filter) -> None:
    assert either("clone", THREAD) == ALLOW
    assert either("clone", SIGCHLD) == REFUSE
    assert either("clone", VFORK | SIGCHLD) == REFUSE
    for namespace in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x80):
        assert either("clone", THREAD | namespace) == REFUSE
    assert either("clone3", 1, 88) == MISSING


def test_signals_and_limits_are_for_the_process_itself(either: Filter) -> None:
    assert either("tgkill", PID, PID + 1, 6) == ALLOW
    assert either("kill", PID, 6) == ALLOW
    for target in (OTHER, 0, -1, -PID):
        assert either("kill", target, 9) == REFUSE
        assert either("tgkill", target, target, 9) == REFUSE
    assert either("prlimit64", 0, 3) == either("prlimit64", PID, 3) == ALLOW
    assert either("prlimit64", OTHER, 3) == REFUSE
    assert either("setpriority", 0, 0, 5) == ALLOW
    assert either("setpriority", 0, OTHER, 5) == either("setpriority", 2, 0, 5) == REFUSE
    f_setown, f_setsig, f_setown_ex = 8, 10, 15
    for command in (f_setown, f_setsig, f_setown_ex):
        assert either("fcntl", 3, command, OTHER) == REFUSE


def test_files_are_opened_for_reading_only(processor: Filter) -> None:
    for name, arguments in (("openat", (-100, 0)), ("open", (0,))):
        if processor(name, *arguments, O_RDONLY) == REFUSE:
            assert name == "open"  # aarch64 has no such call
            continue
        assert processor(name, *arguments, O_RDONLY | O_CLOEXEC) == ALLOW
        for flags in (O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE, O_WRONLY | O_CREAT | O_CLOEXEC):
            assert processor(name, *arguments, flags) == REFUSE, oct(flags)
    assert processor("creat") == REFUSE
    assert processor("openat2") == MISSING


def test_what_is_not_listed_is_refused_and_what_is_newer_is_missing(processor: Filter) -> None:
    assert processor(syscalls.NEWEST) == REFUSE
    assert processor(syscalls.NEWEST + 1) == processor(600) == MISSING
    assert processor("socket", 1, 1) == REFUSE
    assert processor("sched_setaffinity") == REFUSE


def test_the_upper_half_of_an_argument_changes_nothing(processor: Filter) -> None:
    """The kernel takes these arguments as 32-bit numbers."""
    assert processor("kill", (1 << 32) | PID) == ALLOW
    assert processor("openat", 0, 0, (1 << 32) | O_RDWR) == REFUSE


def test_a_users_choice_of_processors_is_allowed() -> None:
    outcome = make(seccomp.on_processor(PID, {"OMP_PROC_BIND": "true"}), "x86_64")
    assert outcome("sched_setaffinity") == ALLOW


def test_a_driver_may_do_more(card: Filter) -> None:
    unix, internet, internet6, netlink = 1, 2, 10, 16
    stream, datagram, seqpacket, cloexec = 1, 2, 5, 0o2000000
    assert card("socket", unix, stream | cloexec) == card("socket", unix, seqpacket) == ALLOW
    assert card("socket", unix, datagram) == REFUSE, "could be sent without connecting"
    assert [card("socket", family, stream) for family in (internet, internet6, netlink)] == [REFUSE] * 3
    assert card("openat", -100, 0, O_RDWR) == card("ioctl", 3, 0x4600) == card("sched_setaffinity") == ALLOW
    f_setlk = 6
    assert card("fcntl", 3, f_setlk) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_architecture_end_the_process(machine: Machine) -> None:
    program = seccomp.program(seccomp.on_processor(PID, {}), machine)
    i386 = 0x40000003
    assert bpf.run(program, machine, 11, architecture=i386) == KILL


def test_calls_with_32_bit_pointers_are_missing() -> None:
    for policy in (seccomp.on_processor(PID, {}), seccomp.on_graphics_card(PID)):
        assert make(policy, "x86_64")(syscalls.X32_BIT | 59) == MISSING


def test_flags_are_those_of_this_system() -> None:
    if hasattr(os, "O_TMPFILE") and os.uname().machine == "x86_64":
        assert (O_WRONLY, O_RDWR, O_CREAT, O_TRUNC) == (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC)
        assert (O_TMPFILE, O_CLOEXEC) == (os.O_TMPFILE, os.O_CLOEXEC)
