"""Installed files whose bytes have changed: found, named with what to do, not served, and fetched anew by a pull."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from edgeembed.cli.list_models import list_models
from edgeembed.cli.rm import rm
from edgeembed.cli.show import show
from edgeembed.common.files import FileIdentity
from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.errors import DamagedModelError, HubError
from edgeembed.hub.catalogue import DEFAULT_MODEL
from edgeembed.hub.install import ensure_installed, pull
from edgeembed.hub.store import InstalledModel, Store
from tests.fakes import Lines
from tests.hub.fakes import DEFAULT_FILE, FakeHub, model_bytes

pytestmark = pytest.mark.usefixtures("small_catalogue")

REPO = "acme/Nice-Model-GGUF"
FETCH = f"edgeembed pull {DEFAULT_MODEL}:Q8_0"


def damage(path: Path) -> None:
    """Change the last byte as a failing disk does: size and modification time stay."""
    status = path.stat()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def model(paths: Paths, settings: Settings, report: Lines, hub: FakeHub) -> InstalledModel:
    return ensure_installed(DEFAULT_MODEL, paths=paths, settings=settings, report=report)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (DEFAULT_FILE[:-7], "bytes, not"),  # truncated
        (b"", "it has 0 bytes"),
        (DEFAULT_FILE[:-1] + b"!", "its SHA-256 begins with"),
        (b"GGUF" + b"\xff" * (len(DEFAULT_FILE) - 4), "its SHA-256 begins with"),  # a header that cannot be read
    ],
)
def test_a_file_with_other_bytes_is_damaged_and_not_served(
    content: bytes, said: str, model: InstalledModel, paths: Paths, settings: Settings, report: Lines
) -> None:
    model.path.write_bytes(content)
    store = Store(paths)
    for found in (store.find(DEFAULT_MODEL), store.installed()[0], store.local(model.path)):
        assert found is not None and found.damage is not None
        assert said in found.damage.what and FETCH in found.damage.advice
        assert found.digest == model.digest, "rows of other bytes must not be cached under another digest as if it were fine"
    for name in (DEFAULT_MODEL, str(model.path)):
        with pytest.raises(DamagedModelError, match=FETCH):
            ensure_installed(name, paths=paths, settings=settings, report=report)


def test_damage_that_changes_neither_size_nor_time_is_found_by_reading_and_remembered(
    model: InstalledModel, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, before = Store(paths), FileIdentity.of(model.path)
    monkeypatch.setattr(FileIdentity, "of", lambda _path: before)  # as with a failing disk
    damage(model.path)
    assert store.installed()[0].damage is None, "only reading the file can show it"
    assert store.damage(model) is not None
    for again in (store, Store(paths)):
        assert again.installed()[0].damage is not None
    damage(model.path)  # the same byte: it is as it was
    assert store.damage(model) is None
    assert store.installed()[0].damage is None


def test_the_same_bytes_with_another_time_are_not_damaged(model: InstalledModel, paths: Paths) -> None:
    os.utime(model.path, ns=(1, 1))  # a copy of the folder, from a backup
    assert Store(paths).installed() == [model]
    assert Store(paths).installed()[0].damage is None


def test_a_file_elsewhere_may_change(paths: Paths, tmp_path: Path) -> None:
    file = tmp_path / "own.gguf"
    file.write_bytes(model_bytes())
    store = Store(paths)
    before = store.local(file)
    file.write_bytes(model_bytes(5_000))
    assert store.local(file).damage is None
    assert store.damage(before, read_again=False) is None
    # Bytes that change although size and time do not are no new version of the file.
    model = store.local(file)
    damage(file)
    found = store.damage(model)
    assert found is not None and "when it was first read" in found.what and "again from where you got it" in found.advice


def test_a_pull_fetches_a_damaged_file_anew(
    model: InstalledModel, paths: Paths, settings: Settings, report: Lines, hub: FakeHub
) -> None:
    damage(model.path)
    fetched = pull(DEFAULT_MODEL, paths=paths, settings=settings, report=report)
    assert (fetched.damage, fetched.path.read_bytes()) == (None, DEFAULT_FILE)
    assert f"{model.path} is damaged" in str(report) and "is already installed" not in str(report)
    seen = len(hub.requests)
    assert pull(DEFAULT_MODEL, paths=paths, settings=settings, report=report) == fetched
    assert "is already installed" in str(report) and len(hub.requests) == seen


def test_a_failed_pull_leaves_the_damaged_file_and_its_error(
    model: InstalledModel, paths: Paths, settings: Settings, report: Lines, hub: FakeHub
) -> None:
    damage(model.path)
    offline = msgspec.structs.replace(settings, offline=True)
    with pytest.raises(DamagedModelError, match=FETCH):
        pull(DEFAULT_MODEL, paths=paths, settings=offline, report=report)
    hub.files.clear()
    with pytest.raises(HubError, match="could not be downloaded"):
        pull(DEFAULT_MODEL, paths=paths, settings=settings, report=report)
    with pytest.raises(DamagedModelError, match=FETCH):
        ensure_installed(DEFAULT_MODEL, paths=paths, settings=settings, report=report)


@pytest.mark.parametrize("spec", [f"hf:{REPO}", "ours", "ours:Q8_0"])
def test_a_pull_fetches_exactly_the_damaged_file_of_a_repository(
    spec: str, paths: Paths, settings: Settings, report: Lines, hub: FakeHub
) -> None:
    content = model_bytes(9_000)
    hub.files[REPO] = {"Nice-Model-Q8_0.gguf": content, "Nice-Model-Q4_0.gguf": model_bytes(7_000, general__file_type=2)}
    model = pull(f"hf:{REPO}", name="ours", paths=paths, settings=settings, report=report)
    damage(model.path)
    assert pull(spec, paths=paths, settings=settings, report=report) == model
    assert model.path.read_bytes() == content
    assert [found.spec for found in Store(paths).installed()] == ["ours:Q8_0"]


def test_a_damaged_copy_is_copied_again(paths: Paths, settings: Settings, report: Lines, tmp_path: Path) -> None:
    file = tmp_path / "own-Q8_0.gguf"
    file.write_bytes(model_bytes())
    model = pull(str(file), paths=paths, settings=settings, report=report)
    damage(model.path)
    for spec in ("own", str(model.path)):
        with pytest.raises(DamagedModelError, match=f"copied from {file}.*edgeembed pull FILE --name own"):
            pull(spec, paths=paths, settings=settings, report=report)
    assert pull(str(file), paths=paths, settings=settings, report=report).path.read_bytes() == file.read_bytes()
    assert Store(paths).installed()[0].damage is None


def test_the_commands_name_a_damaged_file(model: InstalledModel, paths: Paths) -> None:
    model.path.write_bytes(b"GGUF")
    for command, words in ((list_models, []), (show, [DEFAULT_MODEL])):
        output = CliRunner().invoke(command, words).output
        assert f"{model.path} is damaged" in output and FETCH in output
    assert CliRunner().invoke(rm, [DEFAULT_MODEL, "--yes"]).exit_code == 0
    assert Store(paths).installed() == []
