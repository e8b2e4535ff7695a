"""The store from installation to removal: tasks, last use, checks of files, removal."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import msgspec
import pytest

from edgeembed.config.paths import Paths
from edgeembed.errors import HubError, UnknownModelError
from edgeembed.hub.catalogue import Matryoshka, Prompts, catalogue
from edgeembed.hub.download.partials import hold
from edgeembed.hub.gguf import check
from edgeembed.hub.gguf.header import GgufHeader
from edgeembed.hub.manifest import ModelManifest
from edgeembed.hub.store import InstalledModel, Store
from tests.hub.fakes import gguf_bytes, model_bytes


def install(paths: Paths, name: str = "mine", kind: str = "F16", content: bytes | None = None) -> InstalledModel:
    content = model_bytes() if content is None else content
    store = Store(paths)
    store.folder(name).mkdir(parents=True, exist_ok=True)
    staged = store.folder(name) / "staged"
    staged.write_bytes(content)
    status = staged.stat()
    manifest = ModelManifest(
        name=name,
        type=kind,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        source="a test",
        installed_at="2026-01-01T00:00:00+00:00",
    )
    return store.add(staged, manifest)


def test_rerankers_and_embedders_are_distinguished(paths: Paths, tmp_path: Path) -> None:
    assert install(paths).task == "embed"
    assert install(paths, "ranker", content=model_bytes(pooling=4)).task == "rerank"
    assert Store(paths).local(install(paths, "other", content=model_bytes(pooling=4)).path).task == "rerank"
    # If the file does not state its task, the catalogue does.
    ranker = next(entry for entry in catalogue().values() if entry.pooling == "rank")
    content = gguf_bytes(general__architecture=ranker.architecture)
    assert install(paths, ranker.name, content=content).task == "rerank"


def test_the_prompts_of_an_installed_file_are_used(paths: Paths) -> None:
    own: dict[str, str | int] = {
        "edgeembed__prompt__query": "Instruct: {instruction}\nQuery:{text}",
        "edgeembed__prompt__instruction": "find it",
        "edgeembed__prompt__of_a_newer_version": "{whatever}",
        "edgeembed__matryoshka__min": 2,
        "edgeembed__matryoshka__max": 8,
    }
    model = install(paths, content=model_bytes(**own))
    assert model.prompts == Prompts(query="Instruct: {instruction}\nQuery:{text}", instruction="find it")
    assert (model.matryoshka, model.dimensions) == (Matryoshka(min=2, max=8), 8)
    # For its own models, the catalogue takes precedence.
    entry = catalogue()["all-minilm-l6-v2"]
    curated = install(paths, entry.name, content=model_bytes(**own))
    assert (curated.prompts, curated.matryoshka, curated.dimensions) == (entry.prompts, entry.matryoshka, entry.dimensions)


def test_last_use(paths: Paths) -> None:
    model = install(paths)
    other = install(paths, "other", content=model_bytes(5_000))
    store = Store(paths)
    assert model.last_used is None
    before = time.time()
    store.mark_used(model)
    store.mark_used(other.digest)
    for found in Store(paths).installed():
        assert found.last_used is not None and before <= found.last_used <= time.time()
    file = paths.state / "last-used.json"
    written = file.read_bytes()
    store.mark_used(model)
    assert file.read_bytes() == written, "not for every request"
    file.write_text("no JSON")
    assert Store(paths).installed()[0].last_used is None


def test_marking_never_fails(paths: Paths, caplog: pytest.LogCaptureFixture) -> None:
    model = install(paths)
    (paths.state / "last-used.json").mkdir()
    Store(paths).mark_used(model)
    assert "last-used.json" in caplog.text


def test_removing(paths: Paths) -> None:
    one, two = install(paths, kind="F16"), install(paths, kind="Q8_0", content=model_bytes(5_000))
    store = Store(paths)
    store.mark_used(one)
    sizes = {model.type: model.size_bytes + model.path.with_suffix(".json").stat().st_size for model in (one, two)}
    assert store.remove(one) == sizes["F16"]
    assert store.installed() == [two]
    assert "F16" not in (paths.state / "last-used.json").read_text()
    assert one.digest not in (paths.state / "last-used.json").read_text()
    half = store.partials("mine").folder("acme/mine", "a" * 40) / "half.part"
    half.write_bytes(bytes(1000))
    assert store.remove(two) == sizes["Q8_0"] + 1000
    assert not store.folder("mine").exists()
    assert store.remove(two) == 0


def test_a_file_outside_the_store_is_not_removed(paths: Paths, tmp_path: Path) -> None:
    file = tmp_path / "own.gguf"
    file.write_bytes(model_bytes())
    store = Store(paths)
    with pytest.raises(HubError, match="remove the file yourself"):
        store.remove(store.local(file))
    assert file.exists()


def test_a_model_that_is_being_downloaded_is_not_removed(paths: Paths) -> None:
    model = install(paths)
    store = Store(paths)
    with store.locked("mine"), pytest.raises(HubError, match="downloaded by another process"):
        Store(paths).remove(model)
    assert store.remove(model) > 0


def test_a_file_in_use_on_windows(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    model = install(paths)
    real = Path.unlink

    def in_use(self: Path, missing_ok: bool = False) -> None:
        if self == model.path:
            raise PermissionError(13, "The process cannot access the file because it is being used by another process")
        real(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", in_use)
    with pytest.raises(HubError, match=r"cannot remove .*: The process cannot .*edgeembed ps"):
        Store(paths).remove(model)
    assert Store(paths).installed() == [model]


def test_a_file_is_checked_once(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Path] = []
    real = check.check_gguf

    def counted(path: Path) -> GgufHeader:
        checked.append(path)
        return real(path)

    monkeypatch.setattr(check, "check_gguf", counted)
    model = install(paths)
    for _ in range(3):
        Store(paths).require_sound(model)
    assert checked == [model.path]
    # Another version may check more.
    monkeypatch.setattr("edgeembed.hub.digests.__version__", "99.0")
    Store(paths).require_sound(model)
    assert len(checked) == 2


def test_a_file_that_was_swapped_is_checked_again(paths: Paths) -> None:
    model = install(paths)
    store = Store(paths)
    store.require_sound(model)
    hostile = model_bytes(bert__attention__head_count=0)
    model.path.write_bytes(hostile)
    with pytest.raises(HubError, match="head_count"):
        store.require_sound(model)
    [found] = store.installed()
    for _ in range(2):
        with pytest.raises(HubError, match="head_count"):
            store.require_sound(found)
    model.path.unlink()
    with pytest.raises(UnknownModelError):
        store.require_sound(model)


def test_a_damaged_file_in_the_store_does_not_hide_others(paths: Paths) -> None:
    good, bad = install(paths, "good"), install(paths, "bad")
    bad.path.write_bytes(b"GGUF" + b"\xff" * 30)
    assert [(model.name, model.damage is None) for model in Store(paths).installed()] == [("bad", False), ("good", True)]
    assert good in Store(paths).installed()


def test_manifests_of_older_and_newer_versions(paths: Paths) -> None:
    model = install(paths)
    beside = model.path.with_suffix(".json")
    manifest = msgspec.json.decode(beside.read_bytes())
    for key in ("repo", "revision", "file", "facts"):
        manifest.pop(key)
    beside.write_bytes(msgspec.json.encode(manifest | {"novelty": [1]}))
    assert Store(paths).installed() == [model]


def test_locks_survive_the_folder(paths: Paths) -> None:
    """The model's folder is removed while other processes may wait for its lock."""
    model = install(paths)
    store = Store(paths)
    with store.locked("mine"):
        pass
    store.remove(model)
    assert [path.name for path in paths.models.iterdir()] == [".locks"]
    with hold(paths.models / ".locks" / "mine.lock"):
        pass
