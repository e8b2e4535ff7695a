"""A worker ends with its daemon, even if its reader is computing and never reads the end of the pipe."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(sys.platform != "linux", reason="the reader computes on Linux only")]

PROGRAM = """
import sys, threading
from edgeembed.engine.worker import guard
guard.GRACE_SECONDS = 0.01
assert guard.start_guard()
sys.stdin.buffer.read(1)
print("computing", flush=True)
threading.Event().wait()
"""


def test_a_process_that_does_not_read_ends_when_the_other_end_of_the_pipe_is_closed() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"12")  # one more byte stays in the pipe: what was not read does not count as the end
        process.stdin.flush()
        assert process.stdout.readline() == b"computing\n"
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(30) == 1
