"""Files that are replaced in one step, how a write to a file is noticed, and lists of what others write meanwhile."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from edgeembed.common.files import (
    FileIdentity,
    describe_os_error,
    file_sizes,
    matching,
    replacing,
    write_bytes,
    write_json,
    write_text,
)
from tests.overwriting import WRITES, removed_when_listed
from tests.waiting import until

needs_modes = pytest.mark.skipif(os.name == "nt", reason="Windows has no file modes")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_bytes_text_and_json_are_written_into_folders_that_are_created(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    write_bytes(folder / "a.bin", b"\0\1")
    write_text(folder / "b.txt", "größer")
    write_json(folder / "c.json", {"name": "x", "values": [1, 2]})
    assert (folder / "a.bin").read_bytes() == b"\0\1"
    assert (folder / "b.txt").read_text(encoding="utf-8") == "größer"
    assert (folder / "c.json").read_text(encoding="utf-8").splitlines()[1] == ' "name": "x",'
    assert names(folder) == ["a.bin", "b.txt", "c.json"]


def test_after_an_error_the_old_content_stays_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old", encoding="utf-8")
    with pytest.raises(KeyError), replacing(file) as staged:
        staged.write_text("half", encoding="utf-8")
        assert file.read_text(encoding="utf-8") == "old"
        raise KeyError
    assert file.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["a.txt"]
    with pytest.raises(TypeError):
        write_json(file, object())
    assert names(tmp_path) == ["a.txt"]


def test_a_synced_file_is_replaced_like_any_other(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    with replacing(file, sync=True) as staged:
        staged.write_bytes(b"new")
    assert file.read_bytes() == b"new"


@needs_modes
def test_a_new_private_file_is_for_its_owner_only_and_an_existing_one_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    with replacing(file, private=True) as staged:
        assert mode(staged) == 0o600, "private from the first byte on"
        staged.write_text("key", encoding="utf-8")
    assert mode(file) == 0o600
    file.chmod(0o640)
    write_text(file, "other", private=True)
    assert (file.read_text(encoding="utf-8"), mode(file)) == ("other", 0o640)


@needs_modes
def test_other_files_are_as_readable_as_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_bytes(tmp_path / "shared", b"")
    finally:
        os.umask(before)
    assert mode(tmp_path / "shared") == 0o644


@needs_modes
def test_a_link_is_followed_where_asked(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles" / "config.toml", tmp_path / "config.toml"
    write_text(real, "old")
    link.symlink_to(real)
    write_text(link, "new", follow_link=True)
    assert link.is_symlink() and real.read_text(encoding="utf-8") == "new"
    write_text(link, "own")
    assert not link.is_symlink() and real.read_text(encoding="utf-8") == "new"


# --- the identity of a file -------------------------------------------------------------------------------------------


def settled(path: Path) -> FileIdentity:
    until(lambda: not FileIdentity.of(path).unsettled_seconds)  # before that a write might not show
    return FileIdentity.of(path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no change time")
@pytest.mark.parametrize("write", WRITES)
def test_every_write_gives_a_file_another_identity(tmp_path: Path, write: str) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_bytes(bytes(1000))
    other.write_bytes(b"x" * 1000)
    before = settled(file)
    assert FileIdentity.of(file) == before, "reading changes nothing"
    WRITES[write](other, file)
    assert FileIdentity.of(file) != before


@pytest.mark.skipif(os.name == "nt", reason="Windows has no change time")
def test_a_file_that_went_away_and_came_back_has_another_identity(tmp_path: Path) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_bytes(b"one")
    other.write_bytes(b"two")
    before = settled(file)
    file.rename(tmp_path / "aside")
    other.rename(file)
    file.rename(other)
    (tmp_path / "aside").rename(file)
    assert file.read_bytes() == b"one"
    assert FileIdentity.of(file) != before


def test_a_link_has_the_identity_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"one")
    try:
        (tmp_path / "link").symlink_to(tmp_path / "file")
    except OSError:
        pytest.skip("Windows links need a privilege")
    assert FileIdentity.of(tmp_path / "link") == FileIdentity.of(tmp_path / "file")


@pytest.mark.parametrize(
    ("age_ns", "ctime_ns", "expected"),
    [
        (0, 1_234_567_890, 0.02),
        (5_000_000, 1_234_567_890, 0.015),
        (20_000_000, 1_234_567_890, 0.0),
        (-5_000_000, 1_234_567_890, 0.02),  # the file system's clock is a little ahead
        (-(10**12), 1_234_567_890, 0.0),  # or wrong: nothing is known
        (0, 5_000_000_000, 2.0),  # whole seconds
        (1_500_000_000, 5_000_000_000, 0.5),
    ],
)
def test_how_long_a_write_may_go_unnoticed(
    monkeypatch: pytest.MonkeyPatch, age_ns: int, ctime_ns: int, expected: float
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: ctime_ns + age_ns)
    assert FileIdentity(1, 2, 3, 4, ctime_ns).unsettled_seconds == pytest.approx(expected)


def test_an_error_without_a_file_name_gets_one() -> None:
    path = Path("a.json")
    assert describe_os_error(OSError(errno.EIO, "Input/output error")) == "Input/output error"
    assert describe_os_error(OSError(errno.EIO, "Input/output error"), path) == "a.json: Input/output error"
    assert describe_os_error(OSError(errno.EIO, "Input/output error", "b.tmp"), path) == "b.tmp: Input/output error"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="POSIX: /dev/full")
def test_the_error_about_a_full_disk_names_the_file(tmp_path: Path) -> None:
    target = tmp_path / "state.json"
    with pytest.raises(OSError) as caught, replacing(target) as staged:
        staged.symlink_to("/dev/full")
        staged.write_bytes(b"x")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(target))
    assert describe_os_error(caught.value) == f"{target}: No space left on device"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes and devices with a path are those of POSIX")
def test_a_device_or_a_pipe_is_never_exchanged_for_a_file(tmp_path: Path) -> None:
    """As root, a rename over /dev/null would break the system."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for name in ("pipe", "link"):
        with pytest.raises(OSError, match="a device or a pipe") as caught:
            write_bytes(tmp_path / name, b"content")
        assert caught.value.filename == str(tmp_path / name)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode) and (tmp_path / "link").is_symlink()
    assert names(tmp_path) == ["link", "pipe"]


def test_files_and_their_sizes_are_listed(tmp_path: Path) -> None:
    files = {tmp_path / "b" / ".hidden" / "two": 2, tmp_path / "a" / "one.gguf": 1, tmp_path / "three": 3}
    for file, size in files.items():
        write_bytes(file, b"x" * size)
    (tmp_path / "b" / "dangling").symlink_to(tmp_path / "none")
    assert list(file_sizes(tmp_path).items()) == sorted(files.items())
    assert file_sizes(tmp_path / "none") == {}
    assert matching(tmp_path, "*/*.gguf") == [tmp_path / "a" / "one.gguf"]
    assert matching(tmp_path, "*") == [tmp_path / "a", tmp_path / "b", tmp_path / "three"]
    assert matching(tmp_path / "b", "*") == [tmp_path / "b" / ".hidden", tmp_path / "b" / "dangling"]
    assert matching(tmp_path / "none", "*") == []


def test_a_folder_that_is_removed_while_its_files_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "listed"
    for name in ("gone", "stays"):
        write_bytes(folder / name / "file", b"x")
    removed_when_listed(folder / "gone", tmp_path / "aside", monkeypatch)
    assert file_sizes(folder) == {folder / "stays" / "file": 1}
    (tmp_path / "aside").rename(folder / "gone")
    assert matching(folder, "*/f*") == [folder / "stays" / "file"]
