"""The disk tier: which rows stay, which entries are read, and what happens when the disk or the database is faulty."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import diskcache
import numpy as np
import pytest

from edgeembed.cache import diskcache_store
from edgeembed.cache.counters import Counts
from edgeembed.cache.disk import DATABASE, FAULTS, DiskItem, DiskTier
from edgeembed.cache.rows import CachedRow, encode_row

MIB = 2**20


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.trace,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "vectors"


@pytest.fixture
def tier(folder: Path) -> Iterator[DiskTier]:
    with contextlib.closing(DiskTier(folder, 64 * MIB)) as opened:
        yield opened


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def rows(first: int, count: int, size: int = 4096) -> list[tuple[bytes, bytes]]:
    return [(key(number), bytes([number % 251]) * size) for number in range(first, first + count)]


# --- storing --------------------------------------------------------------------------------------------------------


def test_rows_outlive_the_process(folder: Path) -> None:
    with contextlib.closing(DiskTier(folder, 64 * MIB)) as tier:
        tier.put_many(rows(0, 3))
        tier.put_many([(key(1), b"newer")])
        assert len(tier) == 3
    with contextlib.closing(DiskTier(folder, 64 * MIB)) as tier:
        assert tier.get_many([key(0), key(1), key(7)]) == {key(0): bytes(4096), key(1): b"newer"}


def test_a_large_row_stays_inside_the_database(tier: DiskTier, folder: Path) -> None:
    """diskcache puts large values into separate files, which our code never reads."""
    tier.put_many([(key(1), bytes(200_000))])
    assert tier.get_many([key(1)]) == {key(1): bytes(200_000)}
    assert {path.name.removesuffix("-wal").removesuffix("-shm") for path in folder.iterdir()} == {DATABASE}


def test_clear(tier: DiskTier) -> None:
    tier.put_many(rows(0, 300))
    assert tier.clear() == 300
    assert len(tier) == 0 and tier.get_many([key(1)]) == {}


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_only_its_user_can_read_the_folder(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o755)
    folder.chmod(0o755)
    DiskTier(folder, MIB).close()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


# --- the limit --------------------------------------------------------------------------------------------------------


def test_the_limit_holds_and_the_oldest_rows_leave(folder: Path) -> None:
    with contextlib.closing(DiskTier(folder, 2 * MIB)) as tier:
        for first in range(0, 2000, 50):
            tier.put_many(rows(first, 50))
            assert tier.size_bytes <= 2 * MIB
        kept = sorted(tier.get_many(key(number) for number in range(2000)))
        assert kept == [key(number) for number in range(2000 - len(kept), 2000)]
    assert (folder / DATABASE).stat().st_size <= 2 * MIB


def test_a_large_write_at_the_limit_costs_its_own_size_only(folder: Path) -> None:
    """diskcache's own culling removed ten rows for each row of a transaction: one bulk load emptied the cache."""
    with contextlib.closing(DiskTier(folder, 4 * MIB)) as tier:
        for first in (0, 400, 800):
            tier.put_many(rows(first, 400))
        full = len(tier)
        assert 3 * MIB < tier.size_bytes <= 4 * MIB
        tier.put_many(rows(5000, 400))
        assert len(tier) > 0.95 * full
        assert len(tier.get_many(key(number) for number in range(5000, 5400))) == 400


def test_a_lowered_limit_is_reached(folder: Path) -> None:
    with contextlib.closing(DiskTier(folder, 64 * MIB)) as tier:
        tier.put_many(rows(0, 3000))
    with contextlib.closing(DiskTier(folder, MIB)) as tier:
        before = tier.size_bytes
        tier.put_many(rows(9000, 1))
        assert tier.size_bytes < before, "in steps, so that readers do not wait for all of it"
        for number in range(9001, 9010):
            tier.put_many(rows(number, 1))
        assert tier.size_bytes <= MIB
        assert len(tier.get_many(key(number) for number in range(9000, 9010))) == 10


# --- what stays ---------------------------------------------------------------------------------------------------------


def filled(folder: Path, size: int, asked_again: int) -> DiskTier:
    """A full tier, with so many rows that were asked for again."""
    tier = DiskTier(folder, size)
    tier.put_many(rows(0, asked_again))
    assert tier.touch_many(key(number) for number in range(asked_again)) == []
    for first in range(10_000, 10_000 + size // 4096, 50):
        tier.put_many(rows(first, 50))
    return tier


def test_a_scan_removes_no_row_that_was_asked_for_again(folder: Path) -> None:
    with contextlib.closing(filled(folder, 2 * MIB, 100)) as tier:
        assert len(tier) < 550, "it is full"
    with contextlib.closing(DiskTier(folder, 2 * MIB)) as tier:  # a new daemon
        for first in range(20_000, 30_000, 64):
            tier.put_many(rows(first, 64))
        assert len(tier.get_many(key(number) for number in range(100))) == 100
        newest = tier.get_many(key(number) for number in range(29_950, 30_000))
        assert len(newest) == 50, "new rows are stored too"


def test_protected_rows_take_no_more_than_their_share(folder: Path) -> None:
    """Otherwise no new row could ever stay."""
    with contextlib.closing(filled(folder, 2 * MIB, 100)) as tier:
        for first in range(20_000, 22_000, 50):
            tier.put_many(rows(first, 50))
            tier.touch_many(key(number) for number in range(first, first + 50))
        assert tier.size_bytes <= 2 * MIB
        assert tier.get_many(key(number) for number in range(100)) == {}, "the oldest of them made room"
        assert len(tier.get_many(key(number) for number in range(21_700, 22_000))) > 200
        tier.put_many(rows(50_000, 50))
        tier.put_many(rows(60_000, 30))
        assert len(tier.get_many(key(number) for number in range(50_000, 50_050))) == 50


def test_a_bulk_load_leaves_before_queries_of_the_same_age(folder: Path) -> None:
    with contextlib.closing(DiskTier(folder, 2 * MIB)) as tier:
        tier.put_many(rows(0, 200))
        for first in range(10_000, 13_000, 50):
            tier.put_many(DiskItem(*row, "model", "low") for row in rows(first, 50))
        assert len(tier.get_many(key(number) for number in range(200))) == 200
        assert 0 < len(tier.get_many(key(number) for number in range(10_000, 13_000))) < 400


def test_touching_returns_the_keys_without_a_row(tier: DiskTier) -> None:
    tier.put_many(rows(0, 2))
    assert tier.touch_many([key(0), key(7)]) == [key(7)]


# --- models -------------------------------------------------------------------------------------------------------------


def test_models_are_listed_and_cleared_separately(tier: DiskTier) -> None:
    tier.put_many(DiskItem(*row, "one") for row in rows(0, 700))
    tier.put_many(DiskItem(*row, "other") for row in rows(1000, 5, size=100))
    listed = {found.model: (found.entries, found.bytes) for found in tier.models()}
    assert listed == {"one": (700, 700 * (4096 + 32)), "other": (5, 5 * (100 + 32))}
    assert all(0 < found.oldest <= found.newest for found in tier.models())
    assert tier.clear(["other", "unknown"]) == 5
    assert [found.model for found in tier.models()] == ["one"]
    assert tier.clear([]) == 0 and tier.clear() == 700


def test_rows_are_listed_in_the_order_in_which_they_leave_without_damaged_ones(tier: DiskTier) -> None:
    sound = {number: encode_row(key(number), CachedRow(np.ones(4, np.float32), number)) for number in range(1200)}
    tier.put_many(DiskItem(key(number), value, "one") for number, value in sound.items())
    tier.put_many(
        [
            DiskItem(key(5000), b"damaged", "one"),
            DiskItem(key(6000), encode_row(key(6000), CachedRow(np.ones(1, np.float32), 1)), "two"),
        ]
    )
    tier.touch_many([key(3)])
    found = [(item.key, protected) for item, protected in tier.rows("one")]
    assert found == [(key(number), False) for number in range(1200) if number != 3] + [(key(3), True)]
    assert sum(1 for _ in tier.rows()) == 1201


def test_counts_add_up_over_restarts(folder: Path) -> None:
    for _ in range(2):
        with contextlib.closing(DiskTier(folder, MIB)) as tier:
            tier.add_counts({"one": Counts(1, 2, 3, 0.5), "two": Counts(misses=1)})
    with contextlib.closing(DiskTier(folder, MIB)) as tier:
        counts = tier.counts()
        assert {model: found for model, (_, found) in counts.items()} == {
            "one": Counts(2, 4, 6, 1.0),
            "two": Counts(misses=2),
        }
        assert all(since > 1e9 for since, _ in counts.values())


# --- foreign entries ---------------------------------------------------------------------------------------------------


def test_no_pickle_is_ever_loaded(folder: Path, tmp_path: Path) -> None:
    """CVE-2025-69872: who can write the folder must not run code in the daemon."""
    trace = tmp_path / "executed"
    DiskTier(folder, MIB).close()
    with diskcache.Cache(str(folder)) as foreign:
        foreign.set(key(1), Evil(trace))
        foreign.set(key(2), [Evil(trace)] * 5000)  # goes to a separate file
        foreign.set(key(3), "text")
        foreign.set(key(4), 5)
        foreign.set(("a", "tuple"), Evil(trace))
        foreign.set(pickle.dumps(Evil(trace)), b"x")
    with contextlib.closing(DiskTier(folder, MIB)) as tier:
        tier.put_many([(key(5), b"ours")])
        assert tier.get_many(key(number) for number in range(6)) == {key(5): b"ours"}
        tier.put_many([(key(1), b"mended")])
        assert tier.get_many([key(1)]) == {key(1): b"mended"}
        tier.clear()
    assert not trace.exists()
    with diskcache.Cache(str(folder)) as foreign:  # the trap works: the plain class falls into it
        foreign.set(key(1), Evil(trace))
        foreign.get(key(1))
    assert trace.exists()


def test_only_bytes_are_stored(tier: DiskTier) -> None:
    for wrong in ([("text", b"x")], [(b"key", "text")], [(b"key", {"a": 1})]):
        with pytest.raises(TypeError):
            tier.put_many(wrong)  # type: ignore[arg-type]
    assert len(tier) == 0


def test_another_programs_settings_are_a_fault_like_any_other(folder: Path) -> None:
    with diskcache.Cache(str(folder), disk=diskcache.JSONDisk, disk_compress_level=6) as foreign:
        foreign["a"] = 1
    with pytest.raises(FAULTS, match="another program"):
        DiskTier(folder, MIB)


# --- faults --------------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_a_database_is_moved_aside(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.mkdir(parents=True)
    for _ in range(3):
        (folder / DATABASE).write_bytes(b"no database at all " * 1000)
        with contextlib.closing(DiskTier(folder, MIB)) as tier:
            tier.put_many(rows(0, 1))
            assert tier.get_many([key(0)]) == {key(0): bytes(4096)}
    aside = list(folder.parent.glob("vectors.corrupt-*"))
    assert len(aside) == 1, "only the last one is kept"
    assert (aside[0] / DATABASE).read_bytes().startswith(b"no database")
    assert aside[0].name in caplog.text


@pytest.mark.parametrize("first", ["get", "put"])
def test_a_database_that_turns_out_to_be_damaged_later_is_replaced(folder: Path, first: str) -> None:
    """As after a power cut: the header of the file is intact, later pages are not."""
    with contextlib.closing(DiskTier(folder, 64 * MIB)) as tier:
        tier.put_many(rows(0, 500))
    with (folder / DATABASE).open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(64 * 1024)
        file.write(b"\xa5" * (end - 64 * 1024))
    with contextlib.closing(DiskTier(folder, 64 * MIB)) as tier:
        if first == "get":
            assert tier.get_many(key(number) for number in range(500)) == {}
        tier.put_many(rows(0, 500))
        assert len(tier.get_many(key(number) for number in range(500))) == 500
    assert list(folder.parent.glob("vectors.corrupt-*"))


@pytest.mark.parametrize("damage", ["DROP TABLE Cache", "ALTER TABLE Cache RENAME COLUMN access_count TO other"])
def test_a_database_without_its_tables_is_moved_aside(tier: DiskTier, folder: Path, damage: str) -> None:
    tier.put_many(rows(0, 3))
    with contextlib.closing(sqlite3.connect(folder / DATABASE)) as other, other:
        other.execute(damage)
    tier.put_many(rows(1, 1))
    assert tier.get_many([key(1)]) == {key(1): bytes([1]) * 4096}
    assert len(list(folder.parent.glob("vectors.corrupt-*"))) == 1


def test_a_read_only_connection_is_reported_as_such_and_replaced(tier: DiskTier) -> None:
    """diskcache reports every transaction that cannot begin as a timeout."""
    tier._database.run(lambda store: store._sql("PRAGMA query_only = ON"))
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        tier.put_many(rows(0, 1))
    tier.put_many(rows(0, 1))
    assert len(tier) == 1


def test_a_transaction_left_open_is_rolled_back(tier: DiskTier) -> None:
    tier._database.run(lambda store: store._sql("BEGIN"))
    tier.put_many(rows(0, 1))
    assert len(tier) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no open file")
def test_a_folder_removed_while_it_is_open_is_created_again(
    tier: DiskTier, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tier.put_many([(b"old", b"1")])
    shutil.rmtree(folder)
    assert tier.get_many([b"old"]) == {}
    tier.put_many([(b"new", b"2")])
    assert "removed or replaced" in caplog.text
    tier.close()
    with contextlib.closing(DiskTier(folder, 64 * MIB)) as reopened:
        assert reopened.get_many([b"new"]) == {b"new": b"2"}


def test_opening_a_locked_database_fails_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diskcache_store, "BUSY_SECONDS", 0.05)
    DiskTier(folder, MIB).close()
    with contextlib.closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            DiskTier(folder, MIB)
    DiskTier(folder, MIB).close()
    assert not list(folder.parent.glob("vectors.corrupt-*")), "locked is not corrupt"


@pytest.mark.parametrize("below", ["file", "file/deeper"])
def test_a_path_that_cannot_be_a_folder(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(FAULTS):
        DiskTier(tmp_path / below, MIB)
    assert (tmp_path / "file").read_text() == "not a folder"
