"""Limits of cgroups, read from trees as Linux shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeembed.common import cgroups

V2_MOUNT = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755",
    "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
    "35 31 0:32 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
)
NO_LIMIT = "9223372036854771712"


def tree(root: Path, membership: str, mounts: str, files: dict[str, str]) -> Path:
    """Make a root folder with what a process sees of its cgroups."""
    for name, text in {"proc/self/cgroup": membership, "proc/self/mountinfo": mounts, **files}.items():
        file = root / name.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
    return root


def v2(root: Path, levels: dict[str, dict[str, str]], mount: str = V2_MOUNT) -> Path:
    """Make the tree of a process in /app.slice/edgeembed.service, or in the last of other levels."""
    path = list(levels)[-1]
    files = {f"sys/fs/cgroup{level}/{name}": text for level, found in levels.items() for name, text in found.items()}
    return tree(root, f"0::{path}", mount, files)


def v1(root: Path, path: str, files: dict[str, str], *, mounted: str = "/") -> Path:
    membership = f"4:memory:{path}\n2:cpu,cpuacct:{path}\n1:name=systemd:/\n0::/"
    return tree(root, membership, "\n".join(V1_MOUNTS).replace("{root}", mounted), files)


def test_the_least_that_any_level_leaves_counts(tmp_path: Path) -> None:
    root = v2(
        tmp_path,
        {
            "": {"memory.stat": "inactive_file 0"},
            "/app.slice": {"memory.max": "5000", "memory.high": "max", "memory.current": "4000", "memory.stat": ""},
            "/app.slice/edgeembed.service": {"memory.max": "max", "memory.high": "3000", "memory.current": "100"},
        },
    )
    assert cgroups.memory_left(root) == 1000, "the slice, in which others have taken 4,000"
    (root / "sys/fs/cgroup/app.slice/memory.stat").write_text("anon 1500\ninactive_file 2500\n")
    assert cgroups.memory_left(root) == 2900, "cached pages of files are no use, and the service's own limit is lower now"


def test_a_level_that_is_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    assert cgroups.memory_left(v2(tmp_path, {"/a": {"memory.high": "10", "memory.current": "20"}})) == 0


def test_without_a_limit_there_is_no_number(tmp_path: Path) -> None:
    assert (
        cgroups.memory_left(v2(tmp_path, {"/a": {"memory.max": "max", "memory.high": "max", "memory.current": "1"}})) is None
    )
    assert cgroups.memory_left(tmp_path / "another system") is None
    assert cgroups.memory_kills(tmp_path / "another system") is None
    assert cgroups.processors(tmp_path / "another system") is None


def test_in_a_container_the_mount_is_the_containers_own_cgroup(tmp_path: Path) -> None:
    """Without a namespace of its own, a container sees its path from the host's root, and the mount as its part of it."""
    mount = V2_MOUNT.replace(" / /sys", " /docker/1a2b /sys")
    files = {
        "sys/fs/cgroup/memory.max": "700",
        "sys/fs/cgroup/memory.current": "200",
        "sys/fs/cgroup/cpu.max": "50000 100000",
    }
    for number, path in enumerate(("/docker/1a2b", "/docker/1a2b/inner", "/../../elsewhere", "/docker/1a2b3c")):
        root = tree(tmp_path / str(number), f"0::{path}", mount, files)
        assert cgroups.memory_left(root) == 500
        assert cgroups.processors(root) == 0.5


def test_a_mount_point_may_contain_a_space(tmp_path: Path) -> None:
    root = tree(
        tmp_path, "0::/", V2_MOUNT.replace("/sys/fs/cgroup", r"/mnt/c\040g"), {"mnt/c g/memory.max": "9", "mnt/c g/x": ""}
    )
    assert cgroups.memory_left(root) == 9


def test_version_1_counts_the_levels_that_are_invisible_too(tmp_path: Path) -> None:
    at = "sys/fs/cgroup/memory"
    files = {
        f"{at}/memory.limit_in_bytes": NO_LIMIT,
        f"{at}/memory.usage_in_bytes": "123456",
        f"{at}/pod/memory.limit_in_bytes": "8000",
        f"{at}/pod/memory.usage_in_bytes": "3000",
        f"{at}/pod/memory.stat": "total_inactive_file 1000\nhierarchical_memory_limit 8000",
        f"{at}/pod/box/memory.limit_in_bytes": NO_LIMIT,
        f"{at}/pod/box/memory.usage_in_bytes": "500",
        f"{at}/pod/box/memory.stat": "hierarchical_memory_limit 8000",
    }
    root = v1(tmp_path, "/pod/box", files)
    assert cgroups.memory_left(root) == 6000
    (root / at / "pod/box/memory.stat").write_text("hierarchical_memory_limit 4000\n")
    assert cgroups.memory_left(root) == 3500
    (root / at / "pod/box/memory.stat").write_text(f"hierarchical_memory_limit {NO_LIMIT}\n")
    (root / at / "pod/memory.limit_in_bytes").write_text(NO_LIMIT)
    (root / at / "pod/memory.stat").write_text("")
    assert cgroups.memory_left(root) is None


@pytest.mark.parametrize(("quotas", "expected"), [(("max 100000", "150000 100000"), 1.5), (("max 100000",), None)])
def test_the_least_quota_of_processors_counts(tmp_path: Path, quotas: tuple[str, ...], expected: float | None) -> None:
    levels = {"/a" * number: {"cpu.max": quota} for number, quota in enumerate(reversed(quotas), 1)}
    assert cgroups.processors(v2(tmp_path, levels)) == expected


def test_the_quota_of_version_1(tmp_path: Path) -> None:
    at = "sys/fs/cgroup/cpu,cpuacct"
    files = {
        f"{at}/cpu.cfs_quota_us": "-1",
        f"{at}/cpu.cfs_period_us": "100000",
        f"{at}/box/cpu.cfs_quota_us": "250000",
        f"{at}/box/cpu.cfs_period_us": "100000",
    }
    assert cgroups.processors(v1(tmp_path, "/box", files)) == 2.5
    assert cgroups.processors(v1(tmp_path / "container", "/box", files, mounted="/box")) is None


def test_kills_for_want_of_memory_are_counted_where_the_process_is(tmp_path: Path) -> None:
    root = v2(tmp_path / "2", {"/a": {"memory.events": "oom_kill 9"}, "/a/b": {"memory.events": "max 7\noom 3\noom_kill 2"}})
    assert cgroups.memory_kills(root) == 2
    (root / "sys/fs/cgroup/a/b/memory.events").unlink()
    assert cgroups.memory_kills(root) == 9, "the controller is not enabled further down"
    at = "sys/fs/cgroup/memory/box/memory.oom_control"
    assert cgroups.memory_kills(v1(tmp_path / "1", "/box", {at: "oom_kill_disable 0\nunder_oom 0\noom_kill 4"})) == 4
    machine = v2(tmp_path / "machine", {"": {"cgroup.procs": ""}})
    (machine / "proc/vmstat").write_text("nr_free_pages 5\noom_kill 6\n")
    assert cgroups.memory_kills(machine) == 6, "at the root no cgroup counts, but the machine does"
