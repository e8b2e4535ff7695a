"""What is asked of Landlock, by its version, and what happens where it cannot be had. The kernel is a fake."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from edgeembed.engine import sandbox
from edgeembed.engine.sandbox import Sandbox, kernel, landlock, seccomp
from edgeembed.engine.sandbox.landlock import CHANGE, READ, Grant, UnavailableError

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, MAKE_SYM, REFER, TRUNCATE, IOCTL_DEV = (
    1 << bit for bit in (0, 1, 2, 3, 12, 13, 14, 15)
)


class Kernel:
    """Answers system calls like a kernel with this version of Landlock; 0 for none, or the error of every call."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, abi: int, error: int = errno.ENOSYS, *, filters: bool = True
    ) -> None:
        self.abi, self.error, self.filters = abi, error, filters
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.rules: dict[str, int] = {}
        self.attributes: tuple[int, ...] = ()
        monkeypatch.setattr(kernel, "call", self)
        monkeypatch.setattr(kernel, "forbid_new_privileges", lambda: None)
        monkeypatch.setattr(sandbox, "machine", lambda: "x86_64")
        monkeypatch.setattr(os, "O_PATH", 0, raising=False)
        monkeypatch.setattr(landlock, "thread_count", lambda: 1)

    def __call__(self, name: str, _machine: str, *arguments: Any) -> int:
        self.calls.append((name, arguments))
        if name == "seccomp":
            if self.filters:
                return 0
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if not self.abi:
            raise OSError(self.error, os.strerror(self.error))
        if name == "landlock_create_ruleset":
            if arguments[0] is None:
                return self.abi
            self.attributes = struct.unpack(f"={arguments[1] // 8}Q", arguments[0])
            return os.dup(2)
        if name == "landlock_add_rule":
            rights, descriptor = struct.unpack("=Qi", arguments[2])
            self.rules[str(Path(f"/proc/self/fd/{descriptor}").readlink())] = rights
        return 0

    def restricted(self, **options: Any) -> int:
        return landlock.restrict("x86_64", options.pop("grants", []), reading=options.pop("reading", True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("abi", "last", "fields"),
    [
        (1, MAKE_SYM, 1),
        (2, REFER, 1),
        (3, TRUNCATE, 1),
        (4, TRUNCATE, 2),
        (5, IOCTL_DEV, 2),
        (6, IOCTL_DEV, 3),
        (99, IOCTL_DEV, 3),
    ],
)
def test_each_version_is_asked_for_the_rights_that_it_knows(
    monkeypatch: pytest.MonkeyPatch, abi: int, last: int, fields: int
) -> None:
    fake = Kernel(monkeypatch, abi)
    assert fake.restricted() == abi
    assert fake.attributes == (2 * last - 1, 0b11, 0b11)[:fields], "files; TCP; abstract sockets and signals"
    assert [name for name, _ in fake.calls][-1] == "landlock_restrict_self"


def test_a_rule_has_only_rights_that_its_path_can_have(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    fake = Kernel(monkeypatch, 7)
    fake.restricted(grants=[Grant(folder, READ), Grant(folder / "file", READ), Grant(folder / "nothing", READ)])
    assert fake.rules == {str(folder): READ_FILE | READ_DIR, str(folder / "file"): READ_FILE}
    fake = Kernel(monkeypatch, 2)
    fake.restricted(grants=[Grant(folder / "file", CHANGE)])
    assert fake.rules == {str(folder / "file"): WRITE_FILE}, "no TRUNCATE and IOCTL_DEV before versions 3 and 5"


def test_a_rule_without_rights_is_left_out(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    fake = Kernel(monkeypatch, 7)
    fake.restricted(grants=[Grant(folder, READ)], reading=False)
    assert not fake.rules
    assert not fake.attributes[0] & READ and fake.attributes[0] & EXECUTE


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errno.ENOSYS, "has no Landlock"),
        (errno.EOPNOTSUPP, "is turned off"),
        (errno.EPERM, "Landlock: Operation not permitted"),
    ],
)
def test_why_there_is_no_landlock(monkeypatch: pytest.MonkeyPatch, error: int, said: str) -> None:
    with pytest.raises(UnavailableError, match=said):
        Kernel(monkeypatch, 0, error).restricted()


def test_threads_that_run_are_restricted_from_version_8_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for abi in (7, 8):
        fake = Kernel(monkeypatch, abi)
        monkeypatch.setattr(landlock, "thread_count", lambda: 3)
        if abi < 8:
            with pytest.raises(UnavailableError, match="the 3 threads that are already running"):
                fake.restricted()
            assert [name for name, _ in fake.calls] == ["landlock_create_ruleset"], "the kernel was asked for nothing yet"
        else:
            assert fake.restricted() == 8
            assert fake.calls[-1][1][1] == 8


# --- both parts together --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("abi", "filters", "device", "words"),
    [
        (7, True, "cpu", "Landlock (ABI 7) and seccomp: no network, no other programs, "
         "no files except the model and libraries"),
        (0, True, "cpu", "seccomp: no network, no other programs, no writes (this kernel has no Landlock)"),
        (4, False, "cpu", "Landlock (ABI 4): no TCP, no other programs, no files except the model and libraries "
                          "(seccomp: Invalid argument)"),
        (3, False, "cpu", "Landlock (ABI 3): no other programs, no files except the model and libraries "
                          "(seccomp: Invalid argument)"),
        (0, False, "cpu", "none: this kernel has no Landlock; seccomp: Invalid argument"),
        (7, True, "CUDA0", "Landlock (ABI 7) and seccomp: no network, no other programs, "
                           "writes only to devices and the driver's caches"),
        (0, True, "Vulkan0", "seccomp: no network, no other programs (this kernel has no Landlock)"),
    ],
)  # fmt: skip
def test_what_holds_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, abi: int, filters: bool, device: str, words: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Kernel(monkeypatch, abi, filters=filters)
    box = Sandbox(tmp_path / "model.gguf", device)
    box.restrict_files([])
    box.filter_calls()
    assert (box.info.landlock, box.info.seccomp, box.info.words) == (abi, filters, words)


def test_a_sandbox_that_is_turned_off_asks_the_kernel_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Kernel(monkeypatch, 7)
    box = Sandbox(Path("model.gguf"), "cpu", enabled=False)
    box.restrict_files([])
    box.filter_calls()
    assert not fake.calls
    assert box.info.words == "none: turned off in the settings"


@pytest.mark.parametrize(("system", "processor"), [("darwin", "arm64"), ("win32", "AMD64"), ("linux", "riscv64")])
def test_other_systems_have_none(monkeypatch: pytest.MonkeyPatch, system: str, processor: str) -> None:
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("platform.machine", lambda: processor)
    box = Sandbox(Path("model.gguf"), "cpu")
    box.restrict_files([])
    box.filter_calls()
    assert box.info.words == "none: available on Linux only, on x86_64 and aarch64"


def test_a_worker_on_the_processor_reads_the_model_and_no_folder_of_the_user(tmp_path: Path) -> None:
    grants = sandbox.processor_grants(tmp_path / "model.gguf", [tmp_path / "llama"])
    assert {grant.rights for grant in grants} == {READ}
    paths = {grant.path for grant in grants}
    assert {
        tmp_path / "model.gguf",
        tmp_path / "llama",
        Path(os.__file__).parent,
        Path(sandbox.__file__).parents[2],
    } <= paths
    assert not {Path("/"), Path.home(), tmp_path, Path.cwd(), Path("/etc"), Path("/proc"), Path("/dev")} & paths


def test_a_card_may_change_devices_and_the_drivers_cache(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    cuda = tmp_path / ".nv" / "ComputeCache"
    assert sandbox.card_grants("CUDA0,CUDA1", home) == [Grant(Path(path), CHANGE) for path in ("/dev", "/proc/self", cuda)]
    assert cuda.is_dir(), "the driver could not create it"
    named = sandbox.card_grants("CUDA0", {**home, "CUDA_CACHE_PATH": str(tmp_path / "cuda")})
    assert named[-1].path == tmp_path / "cuda"
    vulkan = {grant.path for grant in sandbox.card_grants("Vulkan0", {**home, "XDG_CACHE_HOME": str(tmp_path / "cached")})}
    assert {tmp_path / "cached" / name for name in ("mesa_shader_cache", "mesa_shader_cache_db", "nvidia")} < vulkan
    assert not {tmp_path, Path("/"), Path("/tmp")} & vulkan
    chosen = {"XDG_CACHE_HOME": str(tmp_path / "cached"), "MESA_SHADER_CACHE_DIR": str(tmp_path / "mesa")}
    named = sandbox.card_grants("Vulkan0", home | chosen)
    assert named[-3].path == tmp_path / "mesa" / "mesa_shader_cache"
    assert named[-1].path == tmp_path / "cached" / "nvidia"


def test_mesas_cache_is_in_the_home_folder_of_the_account_whatever_home_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwd = pytest.importorskip("pwd", reason="Windows has no password database")
    account = pwd.struct_passwd(("user", "x", os.getuid(), 0, "", str(tmp_path / "account"), ""))
    monkeypatch.setattr(pwd, "getpwuid", lambda _user: account)
    granted = {grant.path for grant in sandbox.card_grants("Vulkan0", {"HOME": str(tmp_path)})}
    assert {tmp_path / "account" / ".cache" / "mesa_shader_cache", tmp_path / ".cache" / "nvidia"} < granted


def test_the_filter_follows_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for device, otherwise in (("cpu", seccomp.REFUSE), ("CUDA0", seccomp.ALLOW)):
        Kernel(monkeypatch, 7)
        installed: list[seccomp.Policy] = []
        monkeypatch.setattr(seccomp, "install", lambda policy, _machine, to=installed: to.append(policy))
        box = Sandbox(tmp_path / "model.gguf", device)
        box.restrict_files([])
        box.filter_calls()
        assert [policy.otherwise for policy in installed] == [otherwise]
