"""What a disk can do to the cache, tried for real: it serves on, says so once, and heals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cache import kills


def driven(fault: str, folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.cache.fault_driver", fault, str(folder)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_killed_in_the_middle_of_writes_again_and_again(tmp_path: Path) -> None:
    assert kills.rounds(tmp_path / "vectors", 20) > 50


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_full_disk(tmp_path: Path) -> None:
    told = driven("full", tmp_path / "vectors")
    assert told["well"] == {"problem": None, "old": 20, "new": 1, "right": True}
    assert told["hurt"]["problem"] and "cannot be written" in told["hurt"]["problem"]
    assert told["hurt"]["old"] == 20 and told["hurt"]["right"], "what is there can still be read"
    assert told["mended"] == {"problem": None, "old": 20, "new": 1, "right": True}
    assert told["later"] == {"problem": None, "old": 2}
    assert 1 <= len(told["warnings"]) <= 2, told["warnings"]


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    told = driven("readonly", tmp_path / "vectors")
    assert told["well"]["problem"] is None
    assert told["hurt"]["problem"] and told["hurt"]["new"] == 1 and told["hurt"]["right"], "memory goes on"
    assert told["mended"] == {"problem": None, "old": 20, "new": 1, "right": True}
    assert told["later"] == {"problem": None, "old": 2}
    assert len(told["warnings"]) <= 3, told["warnings"]
