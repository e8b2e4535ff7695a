"""The process in which llama.cpp quantises a converted file is in the sandbox, too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edgeembed.engine.child_environment import child_environment
from edgeembed.engine.quantize import QuantizeJob, run_job
from tests.engine.tiny_qwen3 import make_tiny_qwen3

pytestmark = pytest.mark.model
Q4_0, Q8_0 = 2, 7

HOSTILE = """
import json, os, socket, sys
from pathlib import Path
from edgeembed.engine.llama import quantize
def attack(job, _importance):
    source, target = Path(job.source), Path(job.target)
    def outcome(action):
        try:
            action()
        except OSError as error:
            return error.errno
        return 0
    folder = source.parent
    print(json.dumps({
        "read": outcome((folder / "secret").read_bytes),
        "create": outcome(lambda: (folder / "new").write_bytes(b"owned")),
        "source": outcome(lambda: source.write_bytes(b"owned")),
        "target": outcome(lambda: target.write_bytes(b"the result")),
        "socket": outcome(socket.socket),
        "program": outcome(lambda: os.posix_spawn("/bin/true", ["true"], {})),
    }))
quantize.quantize_file = attack
sys.exit(quantize.main())
"""


@pytest.fixture
def job(tmp_path: Path) -> QuantizeJob:
    (tmp_path / "secret").write_bytes(b"a note")
    source = make_tiny_qwen3(tmp_path / "master.gguf")
    return QuantizeJob(source=str(source), target=str(tmp_path / "quantised.gguf"), file_type=Q8_0, threads=2)


def test_a_file_is_quantised_with_and_without_the_sandbox(job: QuantizeJob) -> None:
    target = Path(job.target)
    written = []
    for sandbox in (True, False):
        target.unlink(missing_ok=True)
        run_job(msgspec.structs.replace(job, sandbox=sandbox))
        written.append(target.read_bytes())
    assert written[0] == written[1] and written[0].startswith(b"GGUF")


def test_importance_is_measured_within_the_sandbox(job: QuantizeJob) -> None:
    steps: list[tuple[int, int]] = []
    weighed = msgspec.structs.replace(
        job, file_type=Q4_0, types={"blk.0.attn_q.weight": "Q4_0"}, texts=["hello world", "a note"]
    )
    run_job(weighed, lambda *step: steps.append(step))
    assert Path(job.target).read_bytes().startswith(b"GGUF")
    assert steps[0] == (2, 4) and steps[-1][0] == steps[-1][1] > 4


@pytest.mark.skipif(sys.platform != "linux", reason="macOS and Windows have no sandbox")
def test_it_writes_nothing_but_its_target(job: QuantizeJob) -> None:
    command = [sys.executable, "-c", HOSTILE]
    environment = child_environment(OPENBLAS_NUM_THREADS="1")
    told = msgspec.json.encode(job).decode()
    done = subprocess.run(command, input=told, env=environment, capture_output=True, text=True, timeout=60, check=False)
    eperm, eacces = 1, 13
    assert json.loads(done.stdout) == {
        "read": eacces, "create": eacces, "source": eacces, "target": 0, "socket": eperm, "program": eperm,
    }, done.stderr  # fmt: skip
    assert Path(job.target).read_bytes() == b"the result"
