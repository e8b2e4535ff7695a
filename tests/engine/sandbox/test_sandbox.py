"""The sandbox around a real worker: what it refuses to a worker that was taken over, and what the worker still can."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeembed.engine.interface import BULK, INTERACTIVE, SandboxInfo
from edgeembed.engine.ipc.messages import Embed, EmbedItem, Failed, ModeFailed, Ready, RowItem, frame
from edgeembed.engine.sandbox import landlock, machine
from tests.engine.sandbox import hostile_worker
from tests.engine.worker.worker_process import answers, receive, start

WITHOUT_GRANTS = """
import sys
from edgeembed.engine.worker import main as worker
worker.os.environ["OPENBLAS_NUM_THREADS"] = "1"
import edgeembed.engine.sandbox as sandbox
whole = sandbox.processor_grants
sandbox.processor_grants = lambda model, libraries: whole(sandbox.Path("/nonexistent"), libraries)
sandbox.os._exit(worker.main(sys.argv))
"""
WITH_A_THREAD = """
import sys, threading
from edgeembed.engine.worker import main as worker
threading.Thread(target=threading.Event().wait, daemon=True).start()
worker.main(sys.argv)
"""
IN_A_CONTAINER = """
import sys
from edgeembed.engine.worker import main as worker
worker.os.environ["OPENBLAS_NUM_THREADS"] = "1"
from edgeembed.engine.sandbox import kernel, machine, seccomp
kernel.forbid_new_privileges()
seccomp.install(seccomp.Policy(dict.fromkeys(REFUSED, seccomp.REFUSE), seccomp.ALLOW), machine())
worker.os._exit(worker.main(sys.argv))
"""
pytestmark = pytest.mark.model
HOSTILE = (sys.executable, "-m", hostile_worker.__name__)

if sys.platform != "linux":
    pytest.skip("macOS and Windows have no sandbox", allow_module_level=True)


def ready(process: subprocess.Popen[bytes]) -> SandboxInfo:
    while not isinstance(message := receive(process), Ready):
        assert not isinstance(message, ModeFailed), message
    return message.info.sandbox


@pytest.fixture(scope="module")
def folder(minilm: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model, and a file beside it."""
    made = tmp_path_factory.mktemp("models")
    (made / "model.gguf").write_bytes(minilm("Q8_0").read_bytes())
    (made / "secret").write_text("a private note", encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def worker(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with start(folder / "model.gguf", HOSTILE) as process:
        held = ready(process)
        if not (held.landlock and held.seccomp):
            pytest.skip(f"this processor or kernel has no whole sandbox: {held.words}")
        yield process


def attack(process: subprocess.Popen[bytes], name: str, argument: object = "") -> str:
    assert name in hostile_worker.ATTACKS
    found, _ = answers(process, [EmbedItem(1, f"attack {name}|{argument}", INTERACTIVE, False)])
    assert isinstance(found[1], Failed)
    return found[1].message


def contents(folder: Path) -> dict[str, tuple[int, float, int]]:
    return {file.name: (file.stat().st_size, file.stat().st_mtime, file.stat().st_mode) for file in folder.iterdir()}


def test_no_file_can_be_read_but_the_model_and_libraries(worker: subprocess.Popen[bytes], folder: Path) -> None:
    daemon = Path("/proc", str(os.getpid()))
    system = Path("/proc/self", "root", "etc/passwd")
    for path in (folder / "secret", "/etc/passwd", system, daemon / "environ", daemon / "mem"):
        assert attack(worker, "read", path) == "EACCES", path
    assert "EACCES" in attack(worker, "read in a new thread", folder / "secret")
    assert attack(worker, "list", folder) == "EACCES"
    assert attack(worker, "open by handle") == "EPERM"
    assert attack(worker, "read", folder / "model.gguf").startswith("done")
    assert attack(worker, "read", os.__file__).startswith("done"), "the standard library: imports may come late"


def test_nothing_can_be_written(worker: subprocess.Popen[bytes], folder: Path) -> None:
    before = contents(folder)
    model = folder / "model.gguf"
    for name, path in {
        "write": model, "truncate while opening": model, "truncate": model, "remove": model, "rename": model, "link": model,
        "symlink": model, "change the mode": model, "change the time": model, "create": folder / "new",
        "create without a name": folder, "make a folder": folder / "new",
    }.items():  # fmt: skip
        assert attack(worker, name, path) in ("EPERM", "EACCES"), name
    for path in ("/dev/shm/owned", "/tmp/owned", "/proc/self/comm", "/dev/tty"):
        assert attack(worker, "write", path) in ("EPERM", "EACCES"), path
    assert contents(folder) == before


def test_no_library_of_others_can_be_loaded(worker: subprocess.Popen[bytes], folder: Path) -> None:
    (folder / "secret.so").write_bytes(b"\x7fELF")
    assert "cannot open shared object file: Permission denied" in attack(worker, "load a library", folder / "secret.so")


def test_there_is_no_network(worker: subprocess.Popen[bytes]) -> None:
    for name in ("internet socket", "internet socket, IPv6", "Unix socket", "netlink socket", "pair of sockets"):
        assert attack(worker, name) == "EPERM", name
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert attack(worker, "connect", server.getsockname()[1]) == "EPERM"


@pytest.mark.parametrize("name", ["exec", "exec of memory", "shell", "spawn", "fork", "fork by clone"])
def test_no_program_can_be_started(worker: subprocess.Popen[bytes], name: str) -> None:
    assert attack(worker, name, "/bin/true") == "EPERM"


@pytest.mark.parametrize(
    "name",
    [
        "attach to a process", "read the memory of a process", "kill", "kill all", "kill a thread", "kill by handle",
        "signal through a pipe", "limits of a process", "priority of a process", "processors of a process",
    ],
)  # fmt: skip
def test_the_daemon_is_out_of_reach(worker: subprocess.Popen[bytes], name: str) -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0)
    assert attack(worker, name, os.getpid()) == "EPERM"
    assert (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0)) == before


@pytest.mark.parametrize(
    "name",
    ["io_uring", "bpf", "performance counters", "faults in user space", "keys", "namespace", "mount", "root", "terminal"],
)
def test_nothing_leads_around_the_filter(worker: subprocess.Popen[bytes], name: str) -> None:
    assert attack(worker, name, "/tmp") == "EPERM"
    assert attack(worker, "clone3") == "ENOSYS"


def test_the_worker_computes_the_same_rows_as_without(worker: subprocess.Popen[bytes], folder: Path) -> None:
    texts = ["one", "a few words more", "long " * 200]
    bulk = [EmbedItem(number, f"text {number} " * 9, BULK, False) for number in range(100)]
    rows = [lone(worker, text) for text in texts]
    assert len(answers(worker, bulk)[0]) == len(bulk)
    with start(folder / "model.gguf", sandbox=False) as unconfined:
        assert ready(unconfined).words == "none: turned off in the settings"
        assert rows == [lone(unconfined, text) for text in texts]


def lone(process: subprocess.Popen[bytes], text: str) -> bytes:
    found, _ = answers(process, [EmbedItem(1, text, INTERACTIVE, False)])
    assert isinstance(found[1], RowItem)
    return found[1].vector


def test_a_crash_is_reported_as_without(folder: Path) -> None:
    with start(folder / "model.gguf", HOSTILE) as process:
        ready(process)
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(frame(Embed([EmbedItem(1, "attack crash|", INTERACTIVE, False)])))
        process.stdin.flush()
        assert process.wait(20) == -signal.SIGABRT
        assert b"Fatal Python error: Aborted" in process.stderr.read()


def test_a_worker_that_is_refused_what_it_needs_says_so(folder: Path) -> None:
    """It neither hangs nor goes on: here the grants lack the model itself."""
    with start(folder / "model.gguf", (sys.executable, "-c", WITHOUT_GRANTS)) as process:
        while not isinstance(message := receive(process), ModeFailed):
            assert not isinstance(message, Ready)
        assert (message.cause, message.fatal) == ("refused", False)
        assert process.wait(20) == 1


@pytest.mark.parametrize(
    ("refused", "held"),
    [
        (["landlock_create_ruleset"], (False, True)),
        (["seccomp"], (True, False)),
        (["landlock_create_ruleset", "seccomp"], (False, False)),
    ],
)
def test_inside_a_container_that_refuses_a_part_the_other_one_holds(
    folder: Path, refused: list[str], held: tuple[bool, bool]
) -> None:
    """Containers and services filter system calls, too; filters of both hold."""
    with start(folder / "model.gguf", (sys.executable, "-c", IN_A_CONTAINER.replace("REFUSED", repr(refused)))) as process:
        info = ready(process)
        assert (info.landlock > 0, info.seccomp) == held
        assert "Operation not permitted" in info.words
        assert lone(process, "a text")


def test_where_threads_run_already_only_the_filter_holds(folder: Path) -> None:
    with start(folder / "model.gguf", (sys.executable, "-c", WITH_A_THREAD)) as process:
        held = ready(process)
    if landlock.abi(machine() or "x86_64") < landlock.ALL_THREADS_ABI:
        assert (held.landlock, held.seccomp) == (0, True)
        assert "no writes (Landlock (ABI" in held.words and "threads that are already running)" in held.words
