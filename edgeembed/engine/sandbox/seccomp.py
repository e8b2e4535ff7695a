"""Which system calls a worker may make, as a seccomp filter: a small program that the kernel runs before each call.

A refused call fails with EPERM and the process goes on: whoever made it gets an error that names it. Calls newer than this
list fail with ENOSYS, so that the C library falls back to an older one.

A filter sees numbers and not what pointers lead to, so which files are opened is `landlock`'s part; the filter refuses to
open any for writing, as far as the call's flags say so.

Format: linux/seccomp.h, linux/filter.h.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgeembed.engine.sandbox import kernel
from edgeembed.engine.sandbox.syscalls import AUDIT_ARCH, NEWEST, X32_BIT, Machine, number

_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
REFUSE, MISSING = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
ALLOW = _ALLOW

_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
"""Instructions: BPF_LD|BPF_W|BPF_ABS, BPF_ALU|BPF_AND|BPF_K, BPF_JMP|BPF_JEQ|BPF_K, BPF_JMP|BPF_JGE|BPF_K, BPF_RET|BPF_K."""
_instruction = struct.Struct("=HBBI")
_program = struct.Struct("@HP")
"""struct sock_fprog: number of instructions, and where they are."""
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
"""Offsets in struct seccomp_data."""
_WHOLE = 0xFFFFFFFF

_SET_MODE_FILTER = 1
_ALL_THREADS, _NO_SLOWER_SPECULATION = 1, 4
"""SECCOMP_FILTER_FLAG_TSYNC; SECCOMP_FILTER_FLAG_SPEC_ALLOW: kernels before 5.16 would otherwise turn off speculation past
stores, which makes the worker slower. That protects programs from untrusted code that they run; a worker runs none."""


@dataclass(frozen=True)
class If:
    """A call is allowed if `argument & mask` is one of the values. Only the lower 32 bits of an argument count."""

    argument: int
    values: tuple[int, ...]
    mask: int = _WHOLE


Rule = int | tuple[If, ...]
"""ALLOW, REFUSE, MISSING, or conditions that must all hold."""


@dataclass(frozen=True)
class Policy:
    """Rules by the names of calls, the most frequent first, and what holds for all other calls."""

    rules: Mapping[str, Rule]
    otherwise: int


# --- what a worker may do ---------------------------------------------------------------------------------------------

_THREAD, _NEW_NAMESPACES = 0x10000, 0x7E020080
"""CLONE_THREAD; CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET and NEWTIME."""
_WRITE_FLAGS = 0x3 | 0o100 | 0o1000 | 0o20000000
"""O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, and the bit of O_TMPFILE that is not O_DIRECTORY."""
_TCGETS, _FIONREAD, _FIOCLEX = 0x5401, 0x541B, 0x5451
_PR_SET_NAME, _PR_GET_NAME, _PR_SVE_GET_VL, _PR_SET_VMA = 15, 16, 51, 0x53564D41
_FILE_COMMANDS = (0, 1, 2, 3, 4, 1030)
"""fcntl's F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC. F_SETOWN would send a signal to another process."""
_LOCK_COMMANDS = (5, 6, 7, 36, 37, 38, 1033, 1034)
"""F_GETLK, F_SETLK, F_SETLKW, the same for open files, F_ADD_SEALS, F_GET_SEALS."""
_UNIX, _STREAM, _SEQPACKET, _TYPE = 1, 1, 5, 0xF
_PRIO_PROCESS = 0

_COMPUTING = (
    # Threads, pipes and memory: the first ones are made thousands of times.
    "futex", "read", "write", "poll", "ppoll", "mprotect", "mmap", "munmap", "madvise", "brk", "mremap", "sched_yield",
    "clock_gettime", "clock_nanosleep", "nanosleep", "gettid", "getpid", "rt_sigprocmask", "rt_sigaction", "rt_sigreturn",
    "exit", "exit_group", "rseq", "set_robust_list", "futex_waitv", "membarrier", "set_tid_address", "restart_syscall",
    "mlock", "mlock2", "munlock", "mincore", "msync", "mbind", "get_mempolicy", "set_mempolicy", "memfd_create",
    "readv", "writev", "pipe2", "eventfd2", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_wait", "select", "pselect6",
    "sigaltstack", "rt_sigpending", "rt_sigtimedwait", "arch_prctl", "getrandom", "gettimeofday", "clock_getres", "time",
    # Files that are open, or are opened for reading.
    "newfstatat", "fstat", "statx", "stat", "lstat", "close", "lseek", "pread64", "preadv", "preadv2", "getdents64",
    "readlink", "readlinkat", "access", "faccessat", "faccessat2", "statfs", "fstatfs", "fadvise64", "readahead", "getcwd",
    "dup", "dup2", "dup3",
    # Questions.
    "uname", "sysinfo", "times", "getrusage", "getrlimit", "getppid", "getuid", "geteuid", "getgid", "getegid", "getcpu",
    "getpriority", "sched_getaffinity", "sched_getparam", "sched_getscheduler",
)  # fmt: skip

_FOR_NO_MODEL = (
    "execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "tkill",
    "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open", "pidfd_getfd", "pidfd_send_signal", "connect", "accept", "accept4",
    "sendmmsg", "io_uring_setup", "io_uring_enter", "io_uring_register", "bpf", "perf_event_open", "userfaultfd", "keyctl",
    "add_key", "request_key", "mount", "umount2", "move_mount", "open_tree", "pivot_root", "chroot", "unshare", "setns",
    "name_to_handle_at", "open_by_handle_at", "kexec_load",
)  # fmt: skip
"""What a graphics driver is not allowed either."""

PROCESSOR_AFFINITY = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
"""Variables with which a user makes OpenMP choose processors for its threads."""


def on_processor(pid: int, environment: Mapping[str, str], *, writes: bool = False) -> Policy:
    """Return what a process on the processor may do; everything else is refused.

    pid: its own. writes: whether it may open files for writing, too; Landlock decides which.
    """
    rules: dict[str, Rule] = {
        **dict.fromkeys(_COMPUTING, ALLOW),
        **_about_processes(pid),
        "openat": ALLOW if writes else (If(2, (0,), _WRITE_FLAGS),),
        "open": ALLOW if writes else (If(1, (0,), _WRITE_FLAGS),),
        "ioctl": (If(1, (_TCGETS, _FIONREAD, _FIOCLEX)),),
        "fcntl": (If(1, _FILE_COMMANDS),),
        "prctl": (If(0, (_PR_SET_NAME, _PR_GET_NAME, _PR_SVE_GET_VL, _PR_SET_VMA)),),
        "openat2": MISSING,
    }
    if any(name in environment for name in PROCESSOR_AFFINITY):
        rules["sched_setaffinity"] = ALLOW
    return Policy(rules, REFUSE)


def on_graphics_card(pid: int) -> Policy:
    """Return what a worker on a graphics card may do: all that is not refused here, as drivers differ. pid: its own.

    CUDA's driver opens Unix sockets of its own. Connecting to those of other programs is refused, and so are datagrams,
    which need no connection.
    """
    refused: dict[str, Rule] = dict.fromkeys(_FOR_NO_MODEL, REFUSE)
    return Policy(
        {
            **_about_processes(pid),
            "socket": (If(0, (_UNIX,)), If(1, (_STREAM, _SEQPACKET), _TYPE)),
            "fcntl": (If(1, (*_FILE_COMMANDS, *_LOCK_COMMANDS)),),
            **refused,
        },
        ALLOW,
    )


def _about_processes(pid: int) -> dict[str, Rule]:
    return {
        "clone": (If(0, (_THREAD,), _THREAD | _NEW_NAMESPACES),),
        "clone3": MISSING,  # its flags are behind a pointer
        "tgkill": (If(0, (pid,)),),  # abort() and raise()
        "kill": (If(0, (pid,)),),
        "prlimit64": (If(0, (0, pid)),),
        "setpriority": (If(0, (_PRIO_PROCESS,)), If(1, (0,))),
    }


# --- the program ------------------------------------------------------------------------------------------------------


def program(policy: Policy, machine: Machine) -> bytes:
    """Return the filter as instructions of classic BPF."""
    done = [
        _step(_LOAD, _ARCHITECTURE_AT),
        _step(_EQUAL, AUDIT_ARCH[machine], skip_if_true=1),
        _step(_RETURN, _KILL_PROCESS),  # 32-bit calls have other numbers
        _step(_LOAD, _NUMBER_AT),
    ]
    if machine == "x86_64":
        done += [_step(_AT_LEAST, X32_BIT, skip_if_false=1), _step(_RETURN, MISSING)]
    for name, rule in policy.rules.items():
        call = number(name, machine)
        if call is not None:
            then = [_step(_RETURN, rule)] if isinstance(rule, int) else list(_conditions(rule))
            done += [_step(_EQUAL, call, skip_if_false=len(then)), *then]
    if policy.otherwise != ALLOW:
        done += [_step(_AT_LEAST, NEWEST + 1, skip_if_false=1), _step(_RETURN, MISSING)]
    return b"".join([*done, _step(_RETURN, policy.otherwise)])


def _conditions(conditions: Iterable[If]) -> Iterable[bytes]:
    for condition in conditions:
        # The lower half, on little-endian processors.
        yield _step(_LOAD, _ARGUMENTS_AT + 8 * condition.argument)
        if condition.mask != _WHOLE:
            yield _step(_AND, condition.mask)
        for place, value in enumerate(condition.values):
            yield _step(_EQUAL, value, skip_if_true=len(condition.values) - place)
        yield _step(_RETURN, REFUSE)
    yield _step(_RETURN, ALLOW)


def _step(code: int, value: int, *, skip_if_true: int = 0, skip_if_false: int = 0) -> bytes:
    return _instruction.pack(code, skip_if_true, skip_if_false, value)


def install(policy: Policy, machine: Machine) -> None:
    """Filter the system calls of all threads of this process, for good. Raises OSError."""
    steps = program(policy, machine)
    held = ctypes.create_string_buffer(steps, len(steps))
    packed = _program.pack(len(steps) // _instruction.size, ctypes.addressof(held))
    try:
        unsynced = kernel.call("seccomp", machine, _SET_MODE_FILTER, _ALL_THREADS | _NO_SLOWER_SPECULATION, packed)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        unsynced = kernel.call("seccomp", machine, _SET_MODE_FILTER, _ALL_THREADS, packed)  # Linux before 4.17
    if unsynced:
        raise OSError(errno.ESRCH, f"thread {unsynced} has another filter")
