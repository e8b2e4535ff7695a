"""How a model's worker is configured: a file that is damaged is named, whatever the worker says."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec import structs

from edgeembed.config.paths import Paths
from edgeembed.config.resolution import resolve
from edgeembed.config.settings import Settings
from edgeembed.diagnostics.doctor import Finding, examine
from edgeembed.engine.execution_modes import cpu_modes
from edgeembed.engine.gpu.placement import Gpus
from edgeembed.engine.interface import AutotuneResult
from edgeembed.engine.ipc import activity_table
from edgeembed.errors import DamagedModelError, EngineUnavailableError, WrongFrameError
from edgeembed.hub.gguf import weights
from edgeembed.hub.gguf.frames import Frame
from edgeembed.hub.manifest import ModelManifest
from edgeembed.hub.store import InstalledModel, Store
from edgeembed.models.profiles import Measurement, RunProfile, TuningResult, TuningResults
from edgeembed.runtime import engines
from edgeembed.runtime.engines import WorkerConfigurator
from tests.fakes import FakeEngine
from tests.hub.fakes import model_bytes

FASTEST, NEXT = cpu_modes()[:2]
SAID = r"mine-F16\.gguf is damaged: its SHA-256 .*edgeembed pull mine:F16"


@pytest.fixture
def model() -> InstalledModel:
    store = Store(Paths.resolve())
    content = model_bytes()
    staged = store.folder("mine") / "staged"
    staged.parent.mkdir(parents=True)
    staged.write_bytes(content)
    manifest = ModelManifest(
        name="mine",
        type="F16",
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        mtime_ns=staged.stat().st_mtime_ns,
        source="a test",
        repo="acme/mine",
        installed_at="2026-01-01T00:00:00+00:00",
    )
    return store.add(staged, manifest)


def damage(path: Path) -> None:
    """Change a weight as a failing disk does: size and modification time stay."""
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def configurator(model: InstalledModel) -> WorkerConfigurator:
    return WorkerConfigurator(Settings(), Paths.resolve(), model, None, Gpus("cpu"))


def test_a_file_that_a_worker_cannot_load_is_read_and_found_damaged(model: InstalledModel) -> None:
    configured = configurator(model)
    configured.options(FASTEST)
    damage(model.path)
    with pytest.raises(EngineUnavailableError, match=SAID):
        configured.options(NEXT)
    # From now on it is known, and the next engine is not even made.
    with pytest.raises(DamagedModelError, match=SAID):
        configurator(model)


def test_an_intact_file_that_a_worker_cannot_load_is_tried_in_the_next_mode(model: InstalledModel) -> None:
    configured = configurator(model)
    configured.options(FASTEST)
    assert configured.options(NEXT).mode == NEXT.name


def test_a_file_is_not_read_again_after_it_was_loaded(model: InstalledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    configured = configurator(model)
    configured.options(FASTEST)
    configured.on_ready(FakeEngine().info)
    monkeypatch.setattr(Store, "damage", lambda *_: pytest.fail("a large file takes long to read"))
    configured.options(FASTEST)  # the worker crashed with a text


def test_doctor_names_the_damaged_file_and_not_llama_cpp(model: InstalledModel) -> None:
    damage(model.path)
    found = {finding.subject: finding for finding in examine(resolve({"model": "mine", "port": 9}))}
    assert found["model"].verdict == "problem" and "is damaged" in found["model"].text
    assert found["model"].advice == "Download it again: edgeembed pull mine:F16"
    assert not [subject for subject in found if subject.startswith(("engine", "mode "))]
    assert "cache" in found, "the other checks are done, too"


@pytest.mark.parametrize(
    ("setting", "used", "longest"), [(0, None, 4096), (0, 256, 256), (512, 256, 512), (64, 256, 64), (0, 8192, 4096)]
)
def test_the_length_that_a_model_was_made_for_is_its_limit_unless_the_setting_says_more(
    model: InstalledModel, setting: int, used: int | None, longest: int
) -> None:
    settings = Settings(context_tokens=setting)
    made = WorkerConfigurator(settings, Paths.resolve(), replace(model, max_seq_length=used), None, Gpus("cpu"))
    assert made.options(FASTEST).context_tokens == longest


def test_doctor_names_folders_that_take_no_more_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def findings() -> dict[str, Finding]:
        return {finding.subject: finding for finding in examine(resolve({"port": 9}))}

    assert findings()["folder state"].verdict == findings()["shared memory"].verdict == "ok"
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=4096))
    found = findings()["folder state"]
    assert found.verdict == "problem" and "is full: 4,096 bytes are free" in found.text and found.advice
    monkeypatch.undo()
    monkeypatch.setattr(activity_table, "_folders", lambda: ["/nonexistent/memory"])
    found = findings()["shared memory"]
    assert found.verdict == "problem" and "/nonexistent/memory (No such file or directory)" in found.text


def test_a_file_of_another_converter_is_loaded_with_a_mended_frame(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = Frame(
        family="Qwen3-Embedding", pooling="last", before=None, after="<|endoftext|>", splitter="qwen2", dense=False,
        proven=False, mends={"tokenizer.ggml.add_eos_token": True}, mended=("a key is taken to be true",),
        unchecked=("the pooling",),
    )  # fmt: skip
    monkeypatch.setattr("edgeembed.runtime.engines.frame_of_foreign", lambda _path: frame)
    (tmp_path / "theirs.gguf").write_bytes(model_bytes())
    model = Store(Paths.resolve()).local(tmp_path / "theirs.gguf")
    with caplog.at_level("INFO", "edgeembed"):
        assert configurator(model).options(FASTEST).metadata == {"tokenizer.ggml.add_eos_token": True}
    assert "theirs.gguf: mended: a key is taken to be true" in caplog.text
    assert "theirs.gguf: could not be checked: the pooling" in caplog.text
    monkeypatch.setattr("edgeembed.runtime.engines.frame_of_foreign", lambda _path: replace(frame, refusal="no dense"))
    with pytest.raises(WrongFrameError, match="would give wrong results: no dense"):
        configurator(model)


def test_an_architecture_that_llama_cpp_lacks_is_never_put_on_a_card(
    model: InstalledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gpus, "possible", True)
    monkeypatch.setattr(engines, "read_weights", lambda _path: pytest.fail("nothing is planned for a card"))
    monkeypatch.setattr(weights, "architecture_of", lambda _path: "mpnet")
    assert configurator(model).modes() == cpu_modes()


def test_which_kernels_multiply_is_measured_once(model: InstalledModel) -> None:
    """What the first worker measured is kept, and its successors and those of the next daemon are told."""
    configured = configurator(model)
    assert configured.options(FASTEST).left_types is None, "measure it"
    found = AutotuneResult(pad_from_tokens=None, left_types=(8,), seconds=0.1)
    configured.on_ready(structs.replace(FakeEngine().info, autotune=found))
    assert configured.options(FASTEST).left_types == (8,)
    again = configurator(model).options(FASTEST)
    assert again.left_types == (8,)
    assert again.autotune, "the length from which padding pays was not measured"


def test_a_thorough_tuning_result_is_completed(model: InstalledModel) -> None:
    profile = RunProfile(threads=1, pad_from_tokens=40)
    measured = Measurement(profile=profile, query_ms=1.0, sentence_ms=2.0, tokens_per_second=3.0)
    results = TuningResults(Paths.resolve().state)
    results.keep(model.digest, TuningResult(profile=profile, made_at=1.0, thorough=True, measured=[measured]))
    found = AutotuneResult(pad_from_tokens=None, left_types=(), seconds=0.1)
    configurator(model).on_ready(structs.replace(FakeEngine().info, autotune=found))
    kept = results.find(model.digest)
    assert kept is not None and kept.profile == structs.replace(profile, left_types=())
    assert kept.thorough and kept.gain == 1
