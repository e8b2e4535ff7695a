"""Pulls in separate processes: two at once, killed ones, interrupted ones."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgeembed.common.progress import human_size
from edgeembed.config.paths import Paths
from edgeembed.hub.store import Store
from tests.hub.fakes import FakeHub, model_bytes
from tests.signals import listening_to_sigint
from tests.waiting import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.e2e,
    pytest.mark.skipif(os.name == "nt", reason="Windows cannot send SIGINT to a single process"),
]

REPO = "acme/Large-GGUF"
CONTENT = model_bytes(200_000)
SIZE = human_size(len(CONTENT))


@pytest.fixture
def large(hub: FakeHub) -> FakeHub:
    """A hub that pauses in the middle of the file until its gate opens."""
    hub.files[REPO] = {"large-Q8_0.gguf": CONTENT}
    hub.hold_at = 60_000
    return hub


def begin(**environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edgeembed", "pull", f"hf:{REPO}"]
    with listening_to_sigint():
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )


def parts(paths: Paths) -> list[Path]:
    return list(paths.models.glob("large/.partial/*/large-Q8_0.gguf.*.part"))


def wait_for_part(paths: Paths, size: int) -> None:
    """Wait until at least `size` bytes have arrived."""
    until(lambda: any(part.stat().st_size >= size for part in parts(paths)))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_an_ended_pull_resumes_when_it_is_run_again(paths: Paths, large: FakeHub, end: signal.Signals) -> None:
    first = begin()
    wait_for_part(paths, 60_000)
    first.send_signal(end)
    _, said = first.communicate(timeout=60)
    assert first.returncode != 0
    assert "Traceback" not in said
    if end == signal.SIGINT:
        assert said.split("\n")[-4:] == [
            "large-Q8_0.gguf: interrupted; run the same command again to resume",
            "",
            "interrupted",
            "",
        ]
    [part] = parts(paths)
    assert part.read_bytes() == CONTENT[:60_000]
    assert not Store(paths).installed()

    large.gate.set()
    second = begin()
    out, said = second.communicate(timeout=60)
    assert second.returncode == 0, said
    assert out.startswith("large:Q8_0  ")
    assert large.downloads[-1].range == "bytes=60000-"
    assert large.downloads[-1].sent == len(CONTENT) - 60_000
    assert f"resuming, 60.0 kB of {SIZE} are on the disk" in said
    [model] = Store(paths).installed()
    assert model.path.read_bytes() == CONTENT
    assert parts(paths) == []


def wait_until_waiting(process: subprocess.Popen[str]) -> None:
    """Wait until a process reports that it waits for another one."""
    assert process.stderr is not None
    said = process.stderr.readline()
    assert "another process is downloading it; waiting" in said


def test_two_processes_make_one_download(paths: Paths, large: FakeHub) -> None:
    first = begin()
    until(lambda: bool(large.downloads))
    second = begin()
    wait_until_waiting(second)
    large.gate.set()
    (out, said), (same, also_said) = [process.communicate(timeout=60) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], said + also_said
    assert out == same
    assert "is already installed" in also_said
    assert (len(large.downloads), large.sent) == (1, len(CONTENT))


def test_a_waiting_process_takes_over_from_a_killed_one(paths: Paths, large: FakeHub) -> None:
    first = begin()
    wait_for_part(paths, 60_000)
    second = begin()
    wait_until_waiting(second)
    first.kill()
    first.communicate(timeout=60)
    large.gate.set()
    _, said = second.communicate(timeout=60)
    assert second.returncode == 0, said
    assert large.downloads[-1].range == "bytes=60000-"
    [model] = Store(paths).installed()
    assert model.path.read_bytes() == CONTENT


def test_plain_lines_and_no_bar_in_a_pipe(large: FakeHub) -> None:
    large.slow, large.hold_at = True, None
    process = begin()
    out, said = process.communicate(timeout=60)
    lines = said.splitlines()
    assert "\r" not in said and "\x1b" not in said
    assert lines[0].startswith(f"large: downloading {SIZE} from model hub: acme/Large-GGUF @ ")
    shown = rf"large-Q8_0\.gguf: \d+ % of {re.escape(SIZE)}, \d+\.\d kB/s, \d+ s left"
    assert any(re.fullmatch(shown, line) for line in lines)
    assert lines[-1].startswith("large:Q8_0 is installed: ")
    assert out.count("\n") == 1


def test_a_pull_can_be_resumed_wherever_it_was_killed(paths: Paths, large: FakeHub) -> None:
    choose = random.Random(4)
    here = 0
    for _ in range(3):
        large.hold_at = choose.randrange(1, 60) * 1000
        process = begin()
        wait_for_part(paths, here + 1)
        process.kill()
        process.communicate(timeout=60)
        [part] = parts(paths)
        here = part.stat().st_size
        assert CONTENT.startswith(part.read_bytes())
    large.gate.set()
    process = begin()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert large.downloads[-1].range == f"bytes={here}-"
    [model] = Store(paths).installed()
    assert model.path.read_bytes() == CONTENT


def test_proxy_variables_are_used(paths: Paths, large: FakeHub) -> None:
    large.hold_at = None
    process = begin(HF_ENDPOINT="http://hub.example", HTTP_PROXY=large.url)  # the hub is also the proxy
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    [model] = Store(paths).installed()
    assert model.path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        (
            {"HTTP_PROXY": "nonsense://me:s3cret@proxy.example"},
            "the proxy settings (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY)",
        ),
    ],
)
def test_settings_of_huggingface_hub_that_prevent_a_pull_are_named(
    large: FakeHub, environment: dict[str, str], said: str
) -> None:
    process = begin(**environment)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said in errors
    assert "Traceback" not in errors and "s3cret" not in errors
    assert large.log == []
