"""The activity table: the daemon reads what a worker computes, even after it was killed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeembed.engine.ipc import activity_table as activity_table_module
from edgeembed.engine.ipc.activity_table import ENTRIES, MOST_TEXTS, ActivityTable


@pytest.fixture
def activity_table() -> Iterator[ActivityTable]:
    made = ActivityTable.create()
    yield made
    made.close(remove=True)
    assert not made.path.exists()


def test_lanes_write_independent_entries(activity_table: ActivityTable) -> None:
    assert (activity_table.running, activity_table.busy_since) == ((), None)
    began = time.time()
    activity_table.begin(0, [7])
    activity_table.begin(2, [3, 2**40, 5])
    activity_table.begin(ENTRIES - 1, range(100))
    assert activity_table.running == (7, 3, 2**40, 5, *range(MOST_TEXTS))
    assert began <= (activity_table.busy_since or 0) <= time.time()
    activity_table.begin(2, [8])
    activity_table.end(0)
    activity_table.end(ENTRIES - 1)
    assert activity_table.running == (8,)
    activity_table.end(2)
    assert (activity_table.running, activity_table.busy_since) == ((), None)


def test_the_texts_of_a_killed_process_can_be_read(activity_table: ActivityTable) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from edgeembed.engine.ipc.activity_table import ActivityTable\n"
        "activity_table = ActivityTable(Path(sys.argv[1]))\n"
        "activity_table.begin(0, [1]); activity_table.begin(1, [2, 3]); activity_table.end(0)\n"
        "os.abort()\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(activity_table.path)], check=False).returncode != 0
    assert activity_table.running == (2, 3)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not remove files in use: closing does")
def test_the_table_works_after_its_file_was_removed(activity_table: ActivityTable) -> None:
    other = ActivityTable(activity_table.path)
    activity_table.unlink()
    assert activity_table.path is not None and not activity_table.path.exists()
    other.begin(0, [5])
    assert activity_table.running == (5,)
    other.close()


def test_a_full_folder_is_replaced_by_the_next_and_nothing_is_left_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full, roomy = tmp_path / "memory", tmp_path / "disk"
    full.mkdir()
    roomy.mkdir()
    monkeypatch.setattr(activity_table_module, "_folders", lambda: [str(full), str(roomy)])
    real = ActivityTable.__init__

    def init(self: ActivityTable, path: Path | None) -> None:
        if path is not None and path.parent == full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, path)

    monkeypatch.setattr(ActivityTable, "__init__", init)
    table = ActivityTable.create()
    assert table.path is not None and table.path.parent == roomy
    table.close(remove=True)
    assert list(full.iterdir()) == []
    assert f"{full} (No space left on device)" in caplog.text and str(roomy) in caplog.text


def test_the_error_names_every_folder_the_size_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [str(tmp_path / "memory"), str(tmp_path / "disk")]
    monkeypatch.setattr(activity_table_module, "_folders", lambda: folders)
    with pytest.raises(OSError, match=r"\d\d,\d\d\d bytes .*memory \(No such file.*disk \(No such file.*TMPDIR") as caught:
        ActivityTable.create()
    assert caught.value.errno == errno.ENOENT, "from which the cause is found"
