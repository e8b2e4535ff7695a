"""`edgeembed serve --uds`, with the command that it prints."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.daemon import running


@pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets for aiohttp")
def test_the_printed_command_works_from_any_folder(home: Path, tmp_path: Path, minilm: Callable[[str], Path]) -> None:
    (tmp_path / "my sockets").mkdir()
    with running("--model", str(minilm("Q8_0")), "--uds", "my sockets/e.sock", home=home) as daemon:
        command = daemon.wait_for(r"try: +(curl .*)")[1]
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, cwd="/", check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert len(json.loads(done.stdout)["data"][0]["embedding"]) == 384
