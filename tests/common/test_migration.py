"""State of an earlier version is not lost: demotions, run profiles and upstream's identities get their new names."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from edgeembed.common.migration import migrate_state
from edgeembed.common.status import Demotion
from edgeembed.models.profiles import RunProfile, TuningResult
from edgeembed.upstream.identity import IdentityStore


def test_old_files_are_converted_once_and_removed(tmp_path: Path) -> None:
    old_modes = {"machine build model": [{"rung": "cpu", "reason": "SIGILL", "at": 5.0, "cause": "crash", "again_at": None}]}
    measured = {"way": {"threads": 3}, "query_ms": 1.0, "sentence_ms": 2.0, "tokens_per_second": 3.0, "rung": "cpu"}
    old_profiles = {"machine build model": {"way": {"threads": 3}, "made_at": 1.0, "thorough": True, "measured": [measured]}}
    (tmp_path / "ladder.json").write_text(json.dumps(old_modes))
    (tmp_path / "profiles.json").write_text(json.dumps(old_profiles))

    migrate_state(tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["execution-modes.json", "run-profiles.json"]
    modes = json.loads((tmp_path / "execution-modes.json").read_text())["machine build model"]
    (demotion,) = msgspec.convert(modes, list[Demotion])
    assert (demotion.mode, demotion.reason) == ("cpu", "SIGILL")
    tuned = msgspec.convert(json.loads((tmp_path / "run-profiles.json").read_text())["machine build model"], TuningResult)
    assert tuned.profile == RunProfile(threads=3)
    assert tuned.measured[0].profile == RunProfile(threads=3)
    assert tuned.measured[0].mode == "cpu"


def test_an_upstream_model_keeps_its_identity_and_with_it_its_cached_rows(tmp_path: Path) -> None:
    seen = {"url": "http://gpu-box/v1", "model": "m", "digest": "d", "rows": "", "dimensions": 16, "rider_tokens": 3}
    (tmp_path / "upstream.json").write_text(json.dumps([seen]))
    migrate_state(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["upstream-identities.json"]
    identity = IdentityStore(tmp_path / "upstream-identities.json").last("http://gpu-box/v1", "m")
    assert identity is not None and identity.digest == "d"


def test_a_new_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "ladder.json").write_text("{}")
    (tmp_path / "execution-modes.json").write_text('{"kept": []}')
    migrate_state(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["execution-modes.json"]
    assert json.loads((tmp_path / "execution-modes.json").read_text()) == {"kept": []}


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1}', '{"a": [1]}', "\x00"])
def test_what_cannot_be_read_is_left_alone_with_a_warning(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ladder.json").write_text(content)
    migrate_state(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ladder.json"]
    assert "cannot migrate" in caplog.text
