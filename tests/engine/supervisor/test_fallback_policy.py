"""The ladder: which mode is next, and what is remembered of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgeembed.engine import machine
from edgeembed.engine.execution_modes import CPU_MODES, ExecutionMode, cpu_modes
from edgeembed.engine.machine import usable_threads
from edgeembed.engine.supervisor import fallback_policy
from edgeembed.engine.supervisor.fallback_policy import FallbackMemory, FallbackPolicy

DIGEST = "5" * 64
THREE = (
    ExecutionMode("gpu", True, "first"),
    ExecutionMode("cpu", True, "second"),
    ExecutionMode("cpu-plain", False, "third"),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "execution-modes.json"


def fallen(file: Path, digest: str = DIGEST) -> FallbackPolicy:
    """A ladder on the memory of this file."""
    return FallbackPolicy(THREE, FallbackMemory(file, digest))


# --- falling ----------------------------------------------------------------------------------------------------------


def test_down_the_ladder_until_nothing_is_left() -> None:
    policy = FallbackPolicy(THREE)
    for name, reason in (("gpu", "no driver"), ("cpu", "SIGILL"), ("cpu-plain", "not a model")):
        assert policy.mode.name == name and not policy.exhausted
        policy.demote(reason, cause="other", temporary=False)
    assert policy.exhausted
    assert policy.mode.name == "cpu-plain", "whoever asks still gets the safest"
    assert [(demotion.mode, demotion.reason) for demotion in policy.demotions] == [
        ("gpu", "no driver"),
        ("cpu", "SIGILL"),
        ("cpu-plain", "not a model"),
    ]
    policy.reset()
    assert policy.mode.name == "gpu" and not policy.demotions


def test_forgiving_takes_back_only_what_happened_in_the_middle_of_work() -> None:
    policy = FallbackPolicy(THREE)
    policy.demote("no driver", cause="no_driver", temporary=False)
    policy.demote("a text crashed it", cause="crash", temporary=True)
    assert policy.mode.name == "cpu-plain"
    policy.forgive()
    assert policy.mode.name == "cpu"
    assert [demotion.reason for demotion in policy.demotions] == ["no driver"]


# --- remembering ------------------------------------------------------------------------------------------------------


def test_the_next_start_begins_where_this_one_ended(file: Path) -> None:
    policy = fallen(file)
    policy.demote("no driver", cause="no_driver", temporary=False)
    policy.demote("SIGILL", cause="crash", temporary=False)
    policy.remember()
    again = fallen(file)
    assert again.mode.name == "cpu-plain"
    assert again.demotions == policy.demotions
    assert [path.name for path in file.parent.iterdir()] == [file.name], "no temporary file stays"


def test_a_fall_that_never_led_to_a_working_rung_is_not_remembered(file: Path) -> None:
    fallen(file).demote("no driver", cause="no_driver", temporary=False)
    assert fallen(file).mode.name == "gpu"


def test_a_fall_caused_by_a_text_ends_with_the_daemon(file: Path) -> None:
    policy = fallen(file)
    policy.demote("a text crashed it", cause="crash", temporary=True)
    policy.remember()
    assert fallen(file).mode.name == "gpu"


def test_the_last_rung_is_always_tried_again(file: Path) -> None:
    """Otherwise a model that failed once on every mode would never start again."""
    policy = fallen(file)
    for _ in THREE:
        policy.demote("no memory", cause="out_of_memory", temporary=False)
    FallbackMemory(file, DIGEST).save(policy.demotions)
    again = fallen(file)
    assert again.mode.name == "cpu-plain" and not again.exhausted


def test_a_rung_that_no_longer_exists_is_forgotten(file: Path) -> None:
    policy = fallen(file)
    policy.demote("no driver", cause="no_driver", temporary=False)
    policy.remember()
    assert FallbackPolicy(CPU_MODES, FallbackMemory(file, DIGEST)).mode is CPU_MODES[0]


@pytest.mark.parametrize("changed", ["model", "build", "machine"])
def test_another_model_build_or_machine_begins_at_the_top(file: Path, changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = fallen(file)
    policy.demote("SIGILL", cause="crash", temporary=False)
    policy.remember()
    if changed != "model":
        with monkeypatch.context() as patch:
            patch.setattr(fallback_policy, f"{changed}_fingerprint", lambda: "another")
            assert fallen(file).mode.name == "gpu"
    else:
        assert fallen(file, "6" * 64).mode.name == "gpu"
    assert fallen(file).mode.name == "cpu"


def test_each_model_has_its_own_place(file: Path) -> None:
    for digest in (DIGEST, "6" * 64):
        policy = fallen(file, digest)
        policy.demote(digest[0], cause="other", temporary=False)
        policy.remember()
    FallbackMemory(file, DIGEST).save([])  # `doctor --forget`
    assert fallen(file).mode.name == "gpu"
    assert fallen(file, "6" * 64).mode.name == "cpu"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[]", b"5", b'"text"'])
def test_a_damaged_memory_counts_as_none_and_is_replaced(file: Path, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    policy = fallen(file)
    assert policy.mode.name == "gpu"
    policy.demote("no driver", cause="no_driver", temporary=False)
    policy.remember()
    assert fallen(file).mode.name == "cpu"


@pytest.mark.parametrize("entry", [None, "gpu", {"mode": "gpu"}, [{"mode": "gpu"}], [5]])
def test_a_damaged_entry_counts_as_none(file: Path, entry: object) -> None:
    policy = fallen(file)
    policy.demote("no driver", cause="no_driver", temporary=False)
    policy.remember()
    known = json.loads(file.read_text())
    file.write_text(json.dumps(dict.fromkeys(known, entry)))
    assert fallen(file).mode.name == "gpu"


def test_a_folder_that_cannot_be_written_costs_only_the_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    policy = fallen(tmp_path / "state" / "execution-modes.json")
    policy.demote("no driver", cause="no_driver", temporary=False)
    policy.remember()
    assert policy.mode.name == "cpu"
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
        monkeypatch.setattr(machine, "distribution", lambda name, record=record: Distribution(record))
        found.append(machine.build_fingerprint())
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
    monkeypatch.setattr(machine, "CPU_QUOTA_FILE", tmp_path / "cpu.max")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _pid: set(range(64)), raising=False)
    assert machine.usable_threads() == threads


@pytest.mark.parametrize(("modules", "modes"), [([], 2), (["libggml-cpu-x64.so", "libggml-cpu-haswell.so"], 3)])
def test_a_build_for_many_processors_has_a_rung_for_the_oldest(
    modules: list[str], modes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "llama_cpp_python-0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: llama-cpp-python\nVersion: 0\n", encoding="utf-8")
    names = [f"llama_cpp/lib/{name},," for name in ["libllama.so", *modules]]
    (folder / "RECORD").write_text("\n".join(names), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(cpu_modes()) == modes
    assert cpu_modes()[-1].oldest_kernels is bool(modules)
    assert FallbackPolicy().mode is CPU_MODES[0]
