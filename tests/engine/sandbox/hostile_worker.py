"""A worker in its real sandbox that does what a text tells it: `python -m tests.engine.sandbox.hostile_worker MODE OPTIONS`.

It stands for a worker that a hostile model file has taken over. The text "attack NAME ARGUMENT" makes it try what `ATTACKS`
has under that name; what comes of it is the reason of the failed text: "done: …", or the error.
"""

# ruff: noqa: PTH101, PTH104, PTH110, PTH123, PTH211
from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeembed.engine.ipc.messages import EmbedItem

# Like the worker's own main module, this one imports NumPy only inside functions.


def _call(name: str, *arguments: object) -> int:
    """Make a system call of this name, past all wrappers. Raises OSError."""
    from edgeembed.engine.sandbox import machine, syscalls

    library = ctypes.CDLL(None, use_errno=True)
    here = machine()
    assert here is not None
    number = syscalls.number(name, here)
    assert number is not None
    library.syscall.restype = ctypes.c_long
    words = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = library.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def _read(path: str) -> str:
    with open(path, "rb") as file:
        return f"{len(file.read())} bytes"


def _write(path: str) -> str:
    with open(path, "r+b" if os.path.exists(path) else "wb") as file:
        file.write(b"owned")
    return path


def _fork(_argument: str) -> int:
    child = os.fork()
    if child == 0:
        os._exit(0)
    return child


def _other_memory(pid: str) -> int:
    target = ctypes.create_string_buffer(8)
    local, remote = (ctypes.c_void_p * 2)(ctypes.addressof(target), 8), (ctypes.c_void_p * 2)(4096, 8)
    return _call("process_vm_readv", int(pid), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)


def _signal_through_a_pipe(pid: str) -> int:
    """Let the kernel send a signal in this process's name when a pipe can be read."""
    reading, _ = os.pipe()
    return fcntl.fcntl(reading, fcntl.F_SETOWN, int(pid))


def _in_a_new_thread(path: str) -> str:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(_outcome(lambda: _read(path))))
    thread.start()
    thread.join()
    if not found[0].startswith("done"):
        raise OSError(errno.EACCES, found[0])
    return found[0]


ATTACKS: dict[str, Callable[[str], object]] = {
    "read": _read,
    "read in a new thread": _in_a_new_thread,
    "list": os.listdir,
    "write": _write,
    "truncate while opening": lambda path: os.open(path, os.O_RDONLY | os.O_TRUNC),
    "truncate": lambda path: os.truncate(path, 0),
    "create": lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY)),
    "create without a name": lambda path: os.open(path, os.O_TMPFILE | os.O_RDWR),
    "make a folder": os.mkdir,
    "remove": os.unlink,
    "rename": lambda path: os.rename(path, f"{path}.away"),
    "link": lambda path: os.link(path, f"{path}.link"),
    "symlink": lambda path: os.symlink("/etc/passwd", f"{path}.symlink"),
    "change the mode": lambda path: os.chmod(path, 0o777),
    "change the time": os.utime,
    "load a library": ctypes.CDLL,
    "open by handle": lambda _: _call("open_by_handle_at", 0, ctypes.create_string_buffer(64), 0),
    "internet socket": lambda _: socket.socket(socket.AF_INET),
    "internet socket, IPv6": lambda _: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
    "Unix socket": lambda _: socket.socket(socket.AF_UNIX),
    "netlink socket": lambda _: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "pair of sockets": lambda _: socket.socketpair(),
    "connect": lambda port: _call("connect", 0, struct.pack("=HH4s8x", 2, socket.htons(int(port)), b"\x7f\0\0\1"), 16),
    "exec": lambda program: os.execv(program, [program]),
    "exec of memory": lambda _: _call("execveat", os.memfd_create("x"), b"", None, None, 0x1000),
    "shell": lambda _: subprocess.check_output(["/bin/sh", "-c", "id"]),
    "spawn": lambda program: os.posix_spawn(program, [program], {}),
    "fork": _fork,
    "fork by clone": lambda _: _call("clone", signal.SIGCHLD, 0, 0, 0, 0),
    "clone3": lambda _: _call("clone3", ctypes.create_string_buffer(88), 88),
    "attach to a process": lambda pid: _call("ptrace", 16, int(pid), 0, 0),
    "read the memory of a process": _other_memory,
    "kill": lambda pid: os.kill(int(pid), signal.SIGTERM),
    "kill all": lambda _: os.kill(-1, signal.SIGKILL),
    "kill a thread": lambda pid: _call("tgkill", int(pid), int(pid), signal.SIGKILL),
    "kill by handle": lambda pid: _call("pidfd_open", int(pid), 0),
    "signal through a pipe": _signal_through_a_pipe,
    "limits of a process": lambda pid: _call("prlimit64", int(pid), 7, struct.pack("=QQ", 0, 0), None),
    "priority of a process": lambda pid: os.setpriority(os.PRIO_PROCESS, int(pid), 19),
    "processors of a process": lambda pid: os.sched_setaffinity(int(pid), {0}),
    "io_uring": lambda _: _call("io_uring_setup", 8, ctypes.create_string_buffer(120)),
    "bpf": lambda _: _call("bpf", 0, ctypes.create_string_buffer(128), 128),
    "performance counters": lambda _: _call("perf_event_open", ctypes.create_string_buffer(128), 0, -1, -1, 0),
    "faults in user space": lambda _: _call("userfaultfd", 0),
    "keys": lambda _: _call("keyctl", 0, -3, 0, 0, 0),
    "namespace": lambda _: _call("unshare", 0x10000000),
    "mount": lambda path: _call("mount", b"none", path.encode(), b"tmpfs", 0, None),
    "root": lambda path: _call("chroot", path.encode()),
    "terminal": lambda _: fcntl.ioctl(0, 0x5412, b"x"),  # TIOCSTI: type into it
    "crash": lambda _: os.abort(),
}


def _outcome(attack: Callable[[], object]) -> str:
    try:
        return f"done: {attack()}"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "") or str(error)


def main() -> int:
    from edgeembed.engine.worker import main as worker

    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    from edgeembed.engine.ipc.messages import Failed
    from edgeembed.engine.worker.serving import Worker

    tokenize = Worker._tokenize

    def attack_or_tokenize(self: Worker, item: EmbedItem) -> object:
        if not isinstance(item.text, str) or not item.text.startswith("attack "):
            return tokenize(self, item)
        name, _, argument = item.text.removeprefix("attack ").partition("|")
        self._pipe.send(Failed(item.id, "engine", _outcome(lambda: ATTACKS[name](argument))))
        return None

    Worker._tokenize = attack_or_tokenize  # type: ignore[method-assign, assignment]
    return worker.main(sys.argv)


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)
