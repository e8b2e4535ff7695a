"""Real faults of a disk: the cache keeps serving, logs each fault once, and recovers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cache import kills


def run_driver(fault: str, folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.cache.fault_driver", fault, str(folder)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.e2e
def test_processes_killed_while_they_write_damage_nothing(tmp_path: Path) -> None:
    for seed in range(1, 6):  # on a busy machine processes may be killed before they have written much
        if kills.rounds(tmp_path / "vectors", 20, seed) > 50:
            return
    pytest.fail("too few rows were written to show anything")


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_full_disk(tmp_path: Path) -> None:
    found = run_driver("full", tmp_path / "vectors")
    assert found["well"] == {"problem": None, "reported": None, "old": 20, "new": 1, "right": True}
    # A last batch of few rows may still find room, and ends the problem.
    assert found["hurt"]["reported"] and "cannot be written" in found["hurt"]["reported"]
    assert found["hurt"]["old"] == 20 and found["hurt"]["right"], "stored rows can still be read"
    assert found["mended"] == {"problem": None, "reported": None, "old": 20, "new": 1, "right": True}
    assert found["later"] == {"problem": None, "old": 2}
    assert 1 <= len(found["warnings"]) <= 2, found["warnings"]


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    found = run_driver("readonly", tmp_path / "vectors")
    assert found["well"]["problem"] is None
    assert found["hurt"]["problem"] and found["hurt"]["new"] == 1 and found["hurt"]["right"], "the memory tier works"
    assert found["mended"] == {"problem": None, "reported": None, "old": 20, "new": 1, "right": True}
    assert found["later"] == {"problem": None, "old": 2}
    assert len(found["warnings"]) <= 3, found["warnings"]
