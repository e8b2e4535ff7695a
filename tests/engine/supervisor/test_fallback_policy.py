"""The fallback policy: which mode is used, and what is remembered for the next start."""

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


def policy_of(file: Path, digest: str = DIGEST) -> FallbackPolicy:
    """A policy whose memory is this file."""
    return FallbackPolicy(THREE, FallbackMemory(file, digest))


# --- demotion ---------------------------------------------------------------------------------------------------------


def test_modes_are_left_one_after_the_other_until_all_have_failed() -> None:
    policy = FallbackPolicy(THREE)
    for name, reason in (("gpu", "no driver"), ("cpu", "SIGILL"), ("cpu-plain", "not a model")):
        assert policy.mode.name == name and not policy.exhausted
        policy.demote(reason, cause="other", temporary=False)
    assert policy.exhausted
    assert policy.mode.name == "cpu-plain", "the last one is still returned"
    assert [(demotion.mode, demotion.reason) for demotion in policy.demotions] == [
        ("gpu", "no driver"),
        ("cpu", "SIGILL"),
        ("cpu-plain", "not a model"),
    ]
    policy.reset()
    assert policy.mode.name == "gpu" and not policy.demotions


def test_forgiving_undoes_only_temporary_demotions() -> None:
    policy = FallbackPolicy(THREE)
    policy.demote("no driver", cause="no_driver", temporary=False)
    policy.demote("a text crashed it", cause="crash", temporary=True)
    assert policy.mode.name == "cpu-plain"
    policy.forgive()
    assert policy.mode.name == "cpu"
    assert [demotion.reason for demotion in policy.demotions] == ["no driver"]


# --- remembering ------------------------------------------------------------------------------------------------------


def test_the_next_start_begins_in_the_mode_that_worked(file: Path) -> None:
    policy = policy_of(file)
    policy.demote("no driver", cause="no_driver", temporary=False)
    policy.demote("SIGILL", cause="crash", temporary=False)
    policy.remember()
    again = policy_of(file)
    assert again.mode.name == "cpu-plain"
    assert again.demotions == policy.demotions
    assert [path.name for path in file.parent.iterdir()] == [file.name], "no temporary file stays"


def test_a_demotion_is_remembered_only_once_a_mode_works(file: Path) -> None:
    policy_of(file).demote("no driver", cause="no_driver", temporary=False)
    assert policy_of(file).mode.name == "gpu"


def test_a_temporary_demotion_ends_with_the_daemon(file: Path) -> None:
    policy = policy_of(file)
    policy.demote("a text crashed it", cause="crash", temporary=True)
    policy.remember()
    assert policy_of(file).mode.name == "gpu"


def test_the_last_mode_is_always_tried_again(file: Path) -> None:
    """Otherwise a model that failed once on every mode would never start again."""
    policy = policy_of(file)
    for _ in THREE:
        policy.demote("no memory", cause="out_of_memory", temporary=False)
    FallbackMemory(file, DIGEST).save(policy.demotions)
    again = policy_of(file)
    assert again.mode.name == "cpu-plain" and not again.exhausted


def test_a_mode_that_no_longer_exists_is_forgotten(file: Path) -> None:
    policy = policy_of(file)
    policy.demote("no driver", cause="no_driver", temporary=False)
    policy.remember()
    assert FallbackPolicy(CPU_MODES, FallbackMemory(file, DIGEST)).mode is CPU_MODES[0]


@pytest.mark.parametrize("changed", ["model", "build", "machine"])
def test_another_model_build_or_machine_begins_with_the_fastest(
    file: Path, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(file)
    policy.demote("SIGILL", cause="crash", temporary=False)
    policy.remember()
    if changed != "model":
        with monkeypatch.context() as patch:
            patch.setattr(fallback_policy, f"{changed}_fingerprint", lambda: "another")
            assert policy_of(file).mode.name == "gpu"
    else:
        assert policy_of(file, "6" * 64).mode.name == "gpu"
    assert policy_of(file).mode.name == "cpu"


def test_each_model_has_its_own_demotions(file: Path) -> None:
    for digest in (DIGEST, "6" * 64):
        policy = policy_of(file, digest)
        policy.demote(digest[0], cause="other", temporary=False)
        policy.remember()
    FallbackMemory(file, DIGEST).save([])  # `doctor --forget`
    assert policy_of(file).mode.name == "gpu"
    assert policy_of(file, "6" * 64).mode.name == "cpu"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[]", b"5", b'"text"'])
def test_a_damaged_file_counts_as_empty_and_is_replaced(file: Path, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    policy = policy_of(file)
    assert policy.mode.name == "gpu"
    policy.demote("no driver", cause="no_driver", temporary=False)
    policy.remember()
    assert policy_of(file).mode.name == "cpu"


@pytest.mark.parametrize("entry", [None, "gpu", {"mode": "gpu"}, [{"mode": "gpu"}], [5]])
def test_a_damaged_entry_counts_as_none(file: Path, entry: object) -> None:
    policy = policy_of(file)
    policy.demote("no driver", cause="no_driver", temporary=False)
    policy.remember()
    known = json.loads(file.read_text())
    file.write_text(json.dumps(dict.fromkeys(known, entry)))
    assert policy_of(file).mode.name == "gpu"


def test_a_folder_that_cannot_be_written_is_only_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    policy = policy_of(tmp_path / "state" / "execution-modes.json")
    policy.demote("no driver", cause="no_driver", temporary=False)
    policy.remember()
    assert policy.mode.name == "cpu"
    assert "cannot remember" in caplog.text


# --- the machine ------------------------------------------------------------------------------------------------------


def test_builds_have_different_fingerprints(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that modes are tried again with a rebuilt library of the same version."""

    class Distribution:
        version = "0.3.36"

        def __init__(self, record: str | None) -> None:
            self.record = record

        def read_text(self, name: str) -> str | None:
            return self.record

    found = []
    for record in ("libllama.so,sha256=AAA,1", "libllama.so,sha256=BBB,1", None):
        monkeypatch.setattr(machine, "find_distribution", lambda record=record: Distribution(record))
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


@pytest.mark.parametrize(("quota", "threads"), [(1.5, 2), (1.0, 1), (0.2, 1), (100.0, 64), (None, 64)])
def test_a_containers_processor_limit_is_respected(
    quota: float | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.cgroups, "processors", lambda: quota)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _pid: set(range(64)), raising=False)
    assert machine.usable_threads() == threads


@pytest.mark.parametrize(("modules", "modes"), [([], 2), (["libggml-cpu-x64.so", "libggml-cpu-haswell.so"], 3)])
def test_a_build_for_many_processors_has_a_mode_with_the_oldest_kernels(
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
