"""The store: manifests, digests, and GGUF files that are served in place."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeembed.config.paths import Paths
from edgeembed.errors import HubError, UnknownModelError
from edgeembed.hub import digests as digests_module
from edgeembed.hub.catalogue import Prompts, catalogue
from edgeembed.hub.gguf.header import read_header
from edgeembed.hub.manifest import ModelManifest
from edgeembed.hub.store import InstalledModel, Store
from tests.hub.fakes import gguf_bytes
from tests.overwriting import WRITES, overwrite_in_place, removed_when_listed

CONTENT = gguf_bytes(general__architecture="bert", general__name="mine", bert__embedding_length=8)


def install(paths: Paths, name: str = "all-minilm-l6-v2", kind: str = "F16", content: bytes = CONTENT) -> InstalledModel:
    store = Store(paths)
    staged = store.folder(name) / ".pull-x" / "file.gguf"
    staged.parent.mkdir(parents=True)
    staged.write_bytes(content)
    status = staged.stat()
    model = store.add(
        staged,
        ModelManifest(
            name=name,
            type=kind,
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            source="a test",
            license="MIT",
            installed_at="2026-01-01T00:00:00+00:00",
        ),
    )
    staged.parent.rmdir()
    return model


def test_an_added_model_is_found(paths: Paths) -> None:
    added = install(paths)
    store = Store(paths)
    assert store.installed() == [added]
    assert store.find("all-minilm-l6-v2", "F16") == added
    assert store.find("all-minilm-l6-v2") == added  # not the default type, but the only one installed
    assert store.find("all-minilm-l6-v2", "Q8_0") is None
    assert store.find("other") is None
    assert added.path == paths.models / "all-minilm-l6-v2" / "all-minilm-l6-v2-F16.gguf"
    assert (added.digest, added.size_bytes) == (hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    assert (added.license, added.source, added.dimensions) == ("MIT", "a test", 384)
    assert added.entry is catalogue()["all-minilm-l6-v2"]
    assert added.spec == "all-minilm-l6-v2:F16"


def test_the_default_type_goes_first(paths: Paths) -> None:
    install(paths)
    default = install(paths, kind="Q8_0")
    assert Store(paths).find("all-minilm-l6-v2") == default


def test_a_model_that_is_not_in_the_catalogue(paths: Paths) -> None:
    model = install(paths, "mine")
    assert (model.entry, model.prompts, model.dimensions) == (None, Prompts(), 8)
    assert Store(paths).find("mine") == model


def test_a_manifest_of_a_newer_version_is_read(paths: Paths) -> None:
    model = install(paths)
    manifest = model.path.with_suffix(".json")
    manifest.write_text(manifest.read_text().replace("{", '{"new": 1,', 1))
    assert Store(paths).installed() == [model]


def test_a_file_without_manifest_is_skipped_and_logged(paths: Paths, caplog: pytest.LogCaptureFixture) -> None:
    model = install(paths)
    model.path.with_suffix(".json").write_text("{")
    assert Store(paths).installed() == []
    assert "manifest" in caplog.text


@pytest.mark.parametrize("gone", [".partial", ".partial/repo@1", ".pull-y/parts", "."])
def test_what_another_process_removes_meanwhile_is_left_out(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    stays = install(paths, "stays")
    folder = install(paths, "goes").path.parent
    for part in (folder / ".partial" / "repo@1" / "x.part", folder / ".pull-y" / "parts" / "y"):
        part.parent.mkdir(parents=True)
        part.write_bytes(b"123")
    store = Store(paths)
    assert sum(store.unfinished()["goes"].values()) == 6
    removed_when_listed(folder / gone, tmp_path / "aside", monkeypatch)
    left = store.unfinished()
    assert sum(sum(sizes.values()) for sizes in left.values()) == (0 if gone == "." else 3)
    assert stays in store.installed()


def test_a_model_that_is_removed_while_its_manifest_is_read(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    model = install(paths)
    real = Store.manifest

    def manifest(store: Store, path: Path) -> ModelManifest | None:
        found = real(store, path)
        path.unlink()
        return found

    monkeypatch.setattr(Store, "manifest", manifest)
    assert Store(paths).installed() == [], model


def test_digests_are_computed_once_and_again_when_the_file_changes(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []
    real = digests_module.sha256_of

    def counted(path: Path, progress: Callable[[int, int], None] | None) -> str:
        hashed.append(path)
        return real(path, progress)

    monkeypatch.setattr(digests_module, "sha256_of", counted)
    file = tmp_path / "x.gguf"
    file.write_bytes(b"one")
    assert Store(paths).identify(file).sha256 == hashlib.sha256(b"one").hexdigest()
    assert Store(paths).identify(file).sha256 == hashlib.sha256(b"one").hexdigest()
    assert len(hashed) == 1
    file.write_bytes(b"two")  # of the same size
    assert Store(paths).identify(file).sha256 == hashlib.sha256(b"two").hexdigest()
    assert len(hashed) == 2
    (paths.state / "digests.json").write_text("no JSON")
    assert Store(paths).identify(file).sha256 == hashlib.sha256(b"two").hexdigest()
    assert len(hashed) == 3
    other = tmp_path / "y.gguf"
    other.write_bytes(b"three")
    file.unlink()
    Store(paths).identify(other)
    assert "x.gguf" not in (paths.state / "digests.json").read_text()
    with pytest.raises(UnknownModelError):
        Store(paths).identify(file)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no change time")
@pytest.mark.parametrize("write", WRITES)
def test_a_digest_follows_the_content_however_it_was_written(paths: Paths, tmp_path: Path, write: str) -> None:
    file, other = tmp_path / "x.gguf", tmp_path / "y.gguf"
    file.write_bytes(bytes(1000))
    other.write_bytes(b"x" * 1000)
    Store(paths).identify(file)
    WRITES[write](other, file)
    assert Store(paths).identify(file).sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no change time")
def test_an_installed_file_that_was_overwritten_is_found_damaged_when_its_times_were_kept(paths: Paths) -> None:
    model = install(paths)
    other = paths.models / "other"
    other.write_bytes(gguf_bytes(general__architecture="bert", general__name="mind", bert__embedding_length=8))
    overwrite_in_place(other, model.path)
    [found] = Store(paths).installed()
    assert found.damage is not None and found.digest == model.digest


def test_digests_of_an_earlier_version_are_not_believed(paths: Paths, tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"one")
    status = file.stat()
    earlier = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": "0" * 64, "checked_by": "0.1.0"}
    paths.state.mkdir(parents=True, exist_ok=True)
    (paths.state / "digests.json").write_text(json.dumps({str(file): earlier}))
    assert Store(paths).identify(file).sha256 == hashlib.sha256(b"one").hexdigest()


def test_a_file_that_is_written_while_it_is_read_has_no_digest(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"one")
    real = digests_module.sha256_of

    def read_and_write(path: Path, progress: Callable[[int, int], None] | None) -> str:
        found = real(path, progress)
        path.write_bytes(b"two")
        return found

    monkeypatch.setattr(digests_module, "sha256_of", read_and_write)
    with pytest.raises(HubError, match="changed while it was read"):
        Store(paths).identify(file)


def test_progress_of_a_digest(paths: Paths, tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(bytes(9 * 2**20))
    seen: list[tuple[int, int]] = []
    Store(paths).identify(file, lambda done, total: seen.append((done, total)))
    assert seen == [(4 * 2**20, 9 * 2**20), (8 * 2**20, 9 * 2**20), (9 * 2**20, 9 * 2**20)]


def test_a_local_file_is_served_in_place(paths: Paths, tmp_path: Path) -> None:
    file = tmp_path / "My Model.gguf"
    file.write_bytes(
        gguf_bytes(
            general__architecture="bert",
            bert__dims=[],
            general__license="mit",
            bert__embedding_length=8,
            tokenizer__ggml__tokens=["a", "b"],
            general__file_type=1,  # llama.cpp's own tools write it after the tokenizer
        )
    )
    model = Store(paths).local(file)
    assert (model.name, model.type, model.path, model.dimensions) == ("My Model", "F16", file, 8)
    assert (model.license, model.prompts, model.entry) == ("mit", Prompts(), None)
    assert model.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert model.spec == str(file)


def test_a_local_file_of_a_catalogue_model_gets_its_prompts(paths: Paths, tmp_path: Path) -> None:
    entry = catalogue()["qwen3-embedding-0.6b"]
    file = tmp_path / "x.gguf"
    values: dict[str, str | int | list[str]] = {"general__architecture": "qwen3", "qwen3__embedding_length": 1024}
    file.write_bytes(gguf_bytes(general__name="Qwen3 Embedding 0.6b", **values))
    model = Store(paths).local(file)
    assert (model.entry, model.prompts, model.matryoshka) == (entry, entry.prompts, entry.matryoshka)
    # A file with the name but other dimensions does not get the prompts.
    file.write_bytes(gguf_bytes(general__name="Qwen3 Embedding 0.6b", **{**values, "qwen3__embedding_length": 8}))
    assert Store(paths).local(file).entry is None


def test_the_length_that_a_model_was_made_for_is_that_of_its_file_or_of_the_catalogue(paths: Paths, tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    values: dict[str, str | int] = {"general__architecture": "bert", "bert__embedding_length": 384}
    assert [local_length(paths, file, values), local_length(paths, file, {**values, "edgeembed__max_seq_length": 128})] == [
        None,
        128,
    ]
    values["general__name"] = "all-MiniLM-L6-v2"
    assert local_length(paths, file, values) == 256
    assert local_length(paths, file, {**values, "edgeembed__max_seq_length": 0}) == 256


def local_length(paths: Paths, file: Path, values: dict[str, str | int]) -> int | None:
    file.write_bytes(gguf_bytes(**values))
    return Store(paths).local(file).max_seq_length


def test_an_installed_file_named_by_its_path(paths: Paths) -> None:
    model = install(paths)
    local = Store(paths).local(model.path)
    assert (local.entry, local.type, local.source, local.digest) == (model.entry, "F16", "a test", model.digest)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"<html>", "web page"),
        (b"PK\x03\x04", "zip archive"),
        (b"GGUF\x03\x00", "damaged or incomplete"),
        (b"GGUF" + bytes([1, 0, 0, 0]) + bytes(16), "version 1"),
        (CONTENT[:-1], "damaged or incomplete"),
        (CONTENT[:24] + b"\xff" * 8 + CONTENT[32:], "damaged or incomplete"),  # a key of 2**64 - 1 bytes
        (CONTENT[:16] + b"\xff" * 8 + CONTENT[24:], "key-value pairs"),
    ],
)
def test_a_file_that_is_not_gguf_is_an_error(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(content)
    with pytest.raises(HubError, match=said):
        read_header(file)


def test_the_prompts_of_a_converted_file_are_used(paths: Paths, tmp_path: Path) -> None:
    path = tmp_path / "own.gguf"
    values: dict[str, str | int] = {
        "general__architecture": "qwen3",
        "edgeembed__prompt__query": "Instruct: {instruction}\nQuery:{text}",
        "edgeembed__prompt__document": "{text}",
        "edgeembed__prompt__instruction": "find it",
        "edgeembed__matryoshka__min": 32,
        "edgeembed__matryoshka__max": 1024,
    }
    path.write_bytes(gguf_bytes(**values))
    model = Store(paths).local(path)
    assert (model.prompts.query, model.prompts.instruction) == ("Instruct: {instruction}\nQuery:{text}", "find it")
    assert model.matryoshka is not None and (model.matryoshka.min, model.matryoshka.max) == (32, 1024)
    path.write_bytes(gguf_bytes(**{**values, "edgeembed__prompt__query": "{nothing}"}))
    with pytest.raises(HubError, match=r"own\.gguf: the prompt"):
        Store(paths).local(path)
