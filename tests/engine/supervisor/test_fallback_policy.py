"""The ladder: which rung is next, and what is remembered of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgeembed.engine.execution_modes import CPU_LADDER, Rung, cpu_ladder
from edgeembed.engine.machine import usable_threads
from edgeembed.engine.supervisor import fallback_policy
from edgeembed.engine.supervisor.fallback_policy import Ladder, LadderMemory

DIGEST = "5" * 64
THREE = (Rung("gpu", True, "first"), Rung("cpu", True, "second"), Rung("cpu-plain", False, "third"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ladder.json"


def fallen(file: Path, digest: str = DIGEST) -> Ladder:
    """A ladder on the memory of this file."""
    return Ladder(THREE, LadderMemory(file, digest))


# --- falling ----------------------------------------------------------------------------------------------------------


def test_down_the_ladder_until_nothing_is_left() -> None:
    ladder = Ladder(THREE)
    for name, reason in (("gpu", "no driver"), ("cpu", "SIGILL"), ("cpu-plain", "not a model")):
        assert ladder.rung.name == name and not ladder.exhausted
        ladder.fall(reason, passing=False)
    assert ladder.exhausted
    assert ladder.rung.name == "cpu-plain", "whoever asks still gets the safest"
    assert [(fall.rung, fall.reason) for fall in ladder.falls] == [
        ("gpu", "no driver"),
        ("cpu", "SIGILL"),
        ("cpu-plain", "not a model"),
    ]
    ladder.reset()
    assert ladder.rung.name == "gpu" and not ladder.falls


def test_forgiving_takes_back_only_what_happened_in_the_middle_of_work() -> None:
    ladder = Ladder(THREE)
    ladder.fall("no driver", passing=False)
    ladder.fall("a text crashed it", passing=True)
    assert ladder.rung.name == "cpu-plain"
    ladder.forgive()
    assert ladder.rung.name == "cpu"
    assert [fall.reason for fall in ladder.falls] == ["no driver"]


# --- remembering ------------------------------------------------------------------------------------------------------


def test_the_next_start_begins_where_this_one_ended(file: Path) -> None:
    ladder = fallen(file)
    ladder.fall("no driver", passing=False)
    ladder.fall("SIGILL", passing=False)
    ladder.remember()
    again = fallen(file)
    assert again.rung.name == "cpu-plain"
    assert again.falls == ladder.falls
    assert [path.name for path in file.parent.iterdir()] == [file.name], "no temporary file stays"


def test_a_fall_that_never_led_to_a_working_rung_is_not_remembered(file: Path) -> None:
    fallen(file).fall("no driver", passing=False)
    assert fallen(file).rung.name == "gpu"


def test_a_fall_caused_by_a_text_ends_with_the_daemon(file: Path) -> None:
    ladder = fallen(file)
    ladder.fall("a text crashed it", passing=True)
    ladder.remember()
    assert fallen(file).rung.name == "gpu"


def test_the_last_rung_is_always_tried_again(file: Path) -> None:
    """Otherwise a model that failed once on every rung would never start again."""
    ladder = fallen(file)
    for _ in THREE:
        ladder.fall("no memory", passing=False)
    LadderMemory(file, DIGEST).keep(ladder.falls)
    again = fallen(file)
    assert again.rung.name == "cpu-plain" and not again.exhausted


def test_a_rung_that_no_longer_exists_is_forgotten(file: Path) -> None:
    ladder = fallen(file)
    ladder.fall("no driver", passing=False)
    ladder.remember()
    assert Ladder(CPU_LADDER, LadderMemory(file, DIGEST)).rung is CPU_LADDER[0]


@pytest.mark.parametrize("changed", ["model", "build", "machine"])
def test_another_model_build_or_machine_begins_at_the_top(file: Path, changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ladder = fallen(file)
    ladder.fall("SIGILL", passing=False)
    ladder.remember()
    if changed != "model":
        with monkeypatch.context() as patch:
            patch.setattr(fallback_policy, f"{changed}_fingerprint", lambda: "another")
            assert fallen(file).rung.name == "gpu"
    else:
        assert fallen(file, "6" * 64).rung.name == "gpu"
    assert fallen(file).rung.name == "cpu"


def test_each_model_has_its_own_place(file: Path) -> None:
    for digest in (DIGEST, "6" * 64):
        ladder = fallen(file, digest)
        ladder.fall(digest[0], passing=False)
        ladder.remember()
    LadderMemory(file, DIGEST).keep([])  # `doctor --forget`
    assert fallen(file).rung.name == "gpu"
    assert fallen(file, "6" * 64).rung.name == "cpu"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[]", b"5", b'"text"'])
def test_a_damaged_memory_counts_as_none_and_is_replaced(file: Path, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    ladder = fallen(file)
    assert ladder.rung.name == "gpu"
    ladder.fall("no driver", passing=False)
    ladder.remember()
    assert fallen(file).rung.name == "cpu"


@pytest.mark.parametrize("entry", [None, "gpu", {"rung": "gpu"}, [{"rung": "gpu"}], [5]])
def test_a_damaged_entry_counts_as_none(file: Path, entry: object) -> None:
    ladder = fallen(file)
    ladder.fall("no driver", passing=False)
    ladder.remember()
    known = json.loads(file.read_text())
    file.write_text(json.dumps(dict.fromkeys(known, entry)))
    assert fallen(file).rung.name == "gpu"


def test_a_folder_that_cannot_be_written_costs_only_the_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    ladder = fallen(tmp_path / "state" / "ladder.json")
    ladder.fall("no driver", passing=False)
    ladder.remember()
    assert ladder.rung.name == "cpu"
    assert "cannot remember" in caplog.text


# --- the machine ------------------------------------------------------------------------------------------------------


def test_the_build_fingerprint_tells_builds_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebuilt library of the same version gets a new chance."""

    class Distribution:
        version = "0.3.36"

        def __init__(self, record: str | None) -> None:
            self.record = record

        def read_text(self, name: str) -> str | None:
            return self.record

    found = []
    for record in ("libllama.so,sha256=AAA,1", "libllama.so,sha256=BBB,1", None):
        monkeypatch.setattr(fallback_policy, "distribution", lambda name, record=record: Distribution(record))
        found.append(fallback_policy.build_fingerprint())
    assert len(set(found)) == 3 and all(name.startswith("0.3.36-") for name in found)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no processor affinity here")
def test_threads_follow_the_processors_that_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert usable_threads() == len(allowed)


@pytest.mark.parametrize(("quota", "threads"), [("150000 100000", 2), ("100000 100000", 1), ("max 100000", 64), ("", 64)])
def test_a_containers_share_of_processors_counts(
    quota: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(fallback_policy, "CPU_QUOTA_FILE", tmp_path / "cpu.max")
    monkeypatch.setattr(fallback_policy.os, "sched_getaffinity", lambda _pid: set(range(64)), raising=False)
    assert fallback_policy.usable_threads() == threads


@pytest.mark.parametrize(("modules", "rungs"), [([], 2), (["libggml-cpu-x64.so", "libggml-cpu-haswell.so"], 3)])
def test_a_build_for_many_processors_has_a_rung_for_the_oldest(
    modules: list[str], rungs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "llama_cpp_python-0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: llama-cpp-python\nVersion: 0\n", encoding="utf-8")
    names = [f"llama_cpp/lib/{name},," for name in ["libllama.so", *modules]]
    (folder / "RECORD").write_text("\n".join(names), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(cpu_ladder()) == rungs
    assert cpu_ladder()[-1].oldest_kernels is bool(modules)
    assert Ladder().rung is CPU_LADDER[0]
