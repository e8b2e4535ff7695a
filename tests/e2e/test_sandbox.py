"""A daemon puts its workers into a sandbox, says so, and can be told not to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.daemon import running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="macOS and Windows have no sandbox")


def filtered(pid: int) -> bool:
    """Return whether all threads of a process have a filter of system calls."""
    statuses = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return all("\nSeccomp:\t2\n" in status and "\nNoNewPrivs:\t1\n" in status for status in statuses)


def test_status_and_doctor_report_the_sandbox_in_force(home: Path, minilm: Callable[[str], Path]) -> None:
    model = str(minilm("Q8_0"))
    for setting, holds in (("auto", True), ("off", False)):
        with running("--model", model, "--sandbox", setting, home=home) as daemon:
            daemon.embed("works")
            status = daemon.get("/v1/status")[1]
            assert status["model"]["sandbox"]["seccomp"] is holds
            assert ("no network" if holds else "none: turned off") in status["model"]["sandbox"]["words"]
            assert filtered(status["engine"]["worker_pid"]) is holds
        doctor = [sys.executable, "-m", "edgeembed", "doctor", "--model", model, "--port", "9"]
        environment = {**os.environ, "EDGEEMBED_HOME": str(home), "EDGEEMBED_SANDBOX": setting}
        said = subprocess.run(doctor, env=environment, capture_output=True, text=True, timeout=60, check=False).stdout
        assert f"sandbox: {status['model']['sandbox']['words']}" in said
