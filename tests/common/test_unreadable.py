"""State files with a damaged byte: what they hold is found out again, and nothing ends in a traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeembed.hub.digests import Digests
from edgeembed.hub.usage import Usage
from edgeembed.models.profiles import TuningResults
from edgeembed.upstream.identity import IdentityStore

DAMAGED = [b"", b"{", b"\xff", b'{"\xff": 1.0}', b'{"a": "\xff"}', b"[" * 200_000, b'{"a":' * 200_000]


def last_digest(folder: Path) -> object:
    return Digests(folder / "state.json").last(folder / "model.gguf")


def usage(folder: Path) -> object:
    return Usage(folder / "state.json").all() or None


def tuned(folder: Path) -> object:
    (folder / "state.json").rename(folder / "run-profiles.json")
    return TuningResults(folder).find("0" * 64)


def identity(folder: Path) -> object:
    return IdentityStore(folder / "state.json").last("http://gpu-box/v1", None)


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
@pytest.mark.parametrize("read", [last_digest, usage, tuned, identity])
def test_a_damaged_state_file_counts_as_empty(
    read: Callable[[Path], object], content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state.json").write_bytes(content)
    assert read(tmp_path) is None
    assert "cannot read" in caplog.text
    assert caplog.text.count(str(tmp_path)) == 1
