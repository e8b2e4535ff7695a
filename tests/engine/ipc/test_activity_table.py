"""What a worker computes, read by the daemon: also of one that was killed in the middle."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from edgeembed.engine.ipc.activity_table import ENTRIES, MOST_TEXTS, Ledger


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    made = Ledger.create()
    yield made
    made.close(remove=True)
    assert not made.path.exists()


def test_lanes_do_not_get_in_each_others_way(ledger: Ledger) -> None:
    assert (ledger.running, ledger.busy_since) == ((), None)
    began = time.time()
    ledger.begin(0, [7])
    ledger.begin(2, [3, 2**40, 5])
    ledger.begin(ENTRIES - 1, range(100))
    assert ledger.running == (7, 3, 2**40, 5, *range(MOST_TEXTS))
    assert began <= (ledger.busy_since or 0) <= time.time()
    ledger.begin(2, [8])
    ledger.end(0)
    ledger.end(ENTRIES - 1)
    assert ledger.running == (8,)
    ledger.end(2)
    assert (ledger.running, ledger.busy_since) == ((), None)


def test_what_a_killed_process_computed_is_known(ledger: Ledger) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from edgeembed.engine.ipc.activity_table import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1]))\n"
        "ledger.begin(0, [1]); ledger.begin(1, [2, 3]); ledger.end(0)\n"
        "os.abort()\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(ledger.path)], check=False).returncode != 0
    assert ledger.running == (2, 3)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not remove files in use: closing does")
def test_a_file_that_is_gone_is_read_and_written_on(ledger: Ledger) -> None:
    other = Ledger(ledger.path)
    ledger.unlink()
    assert ledger.path is not None and not ledger.path.exists()
    other.begin(0, [5])
    assert ledger.running == (5,)
    other.close()
