"""A model file that is replaced or written to while its model is loaded: what is served, and under which digest."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgeembed.cache import VectorCache
from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.engine.interface import Engine
from edgeembed.errors import EngineUnavailableError, ModelReplacedError
from edgeembed.hub.store import Store
from edgeembed.inference.requests import EmbedRequest
from edgeembed.inference.service import EmbeddingService
from edgeembed.models.pool import ModelPool, PoolRules
from edgeembed.models.served_model import ServedModel, served
from edgeembed.runtime.engines import make_gpus
from edgeembed.runtime.models import ConfiguredModels, make_registry, make_rules
from edgeembed.runtime.replacement import FileWatch, ModelFiles
from tests.fakes import FakeEngine, fake_row
from tests.hub.fakes import model_bytes
from tests.overwriting import WRITES, overwrite, overwrite_in_place, truncate

posix_only = pytest.mark.skipif(os.name == "nt", reason="Windows has no change time")


class Setting:
    """A service of one model file, whose fake engines compute rows that depend on the file's content."""

    def __init__(self, folder: Path) -> None:
        self.file, self.other = folder / "served.gguf", folder / "other.gguf"
        self.file.write_bytes(model_bytes(general__name="one"))
        self.other.write_bytes(model_bytes(general__name="two"))
        self.store = Store(Paths.resolve())
        self.engines: dict[str, FakeEngine] = {}
        self.unfit: set[str] = set()
        """Digests of files that cannot be loaded."""
        settings, configured = Settings(), ConfiguredModels(served(self.store.local(self.file)))
        files = ModelFiles(self.store)
        self.registry = make_registry(settings, configured, self.store, files)
        self.pool = ModelPool(self._make, PoolRules(budget_bytes=1))
        self.service = EmbeddingService(self.registry, self.pool, VectorCache(folder / "cache", memory_mib=1, disk_mib=0))
        self.watch = FileWatch(self.registry, self.pool, files)
        self.old = configured.default

    def _make(self, model: ServedModel) -> Engine:
        if self.store.identify(model.path).sha256 != model.digest:
            self.registry.mark_stale()
            raise ModelReplacedError("replaced")
        if model.digest in self.unfit:
            raise EngineUnavailableError("its canary rows are wrong")
        engine = self.engines[model.digest] = FakeEngine()
        engine.row_of = lambda text: fake_row(f"{model.digest} {text}")
        return engine

    async def is_answered_by(self, digest: str, text: str = "a text") -> bool:
        result = await self.service.embed(EmbedRequest([text]))
        return result.model.digest == digest and np.array_equal(result.rows[0].vector, fake_row(f"{digest} {text}"))

    async def check_twice(self) -> None:
        """Let the watch find that the file has settled."""
        await self.watch.check()
        await self.watch.check()


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


@posix_only
@pytest.mark.parametrize("write", [write for write in WRITES if write not in ("truncate", "overwrite_half")])
async def test_another_file_is_served_under_its_own_digest(setting: Setting, write: str) -> None:
    assert await setting.is_answered_by(setting.old.digest)
    await setting.check_twice()
    WRITES[write](setting.other, setting.file)
    new = setting.store.local(setting.other).digest
    assert await setting.is_answered_by(setting.old.digest, "not yet noticed")
    await setting.watch.check()
    assert await setting.is_answered_by(setting.old.digest, "it may still be written")
    await setting.watch.check()
    assert await setting.is_answered_by(new), "and not from the old one's cache"
    assert setting.engines[setting.old.digest].closed
    assert [slot.model.digest for slot in setting.pool.slots] == [new]
    await setting.pool.close()


@posix_only
async def test_the_old_model_serves_until_the_new_one_is_loaded(setting: Setting) -> None:
    assert await setting.is_answered_by(setting.old.digest)
    overwrite(setting.other, setting.file)
    seen: list[str] = []
    make = setting._make

    def made(model: ServedModel) -> Engine:
        seen.append(setting.registry.default.digest if setting.registry.default else "")
        return make(model)

    setting.pool._make_engine = made
    await setting.check_twice()
    assert seen == [setting.old.digest]
    await setting.pool.close()


@posix_only
async def test_a_file_that_cannot_be_served_changes_nothing_until_it_is_mended(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    content = setting.file.read_bytes()
    assert await setting.is_answered_by(setting.old.digest)
    truncate(setting.other, setting.file)
    for number in range(3):
        await setting.check_twice()
        await setting.registry.refresh()  # as GET /v1/models does
        assert await setting.is_answered_by(setting.old.digest, f"text {number}")
    assert caplog.text.count("so the old one stays") == 1
    overwrite_in_place(setting.other, setting.file)
    setting.unfit.add(new := setting.store.local(setting.other).digest)
    for number in range(3):
        await setting.check_twice()
        await setting.registry.refresh()
        assert await setting.is_answered_by(setting.old.digest, f"text {number + 3}")
    assert caplog.text.count("its canary rows are wrong") >= 1
    assert [slot.model.digest for slot in setting.pool.slots if slot.state == "ready"] == [setting.old.digest]
    setting.file.write_bytes(content)
    await setting.check_twice()
    assert await setting.is_answered_by(setting.old.digest, "restored")
    setting.unfit.clear()
    overwrite(setting.other, setting.file)
    await setting.check_twice()
    assert await setting.is_answered_by(new)
    await setting.pool.close()


@posix_only
async def test_a_change_of_the_mode_alone_is_no_replacement(setting: Setting) -> None:
    assert await setting.is_answered_by(setting.old.digest)
    setting.file.chmod(0o600)
    await setting.check_twice()
    assert [slot.model.digest for slot in setting.pool.slots] == [setting.old.digest]
    assert not setting.engines[setting.old.digest].closed
    await setting.pool.close()


@posix_only
async def test_a_file_that_is_gone_leaves_the_loaded_model(setting: Setting) -> None:
    assert await setting.is_answered_by(setting.old.digest)
    setting.file.unlink()
    await setting.check_twice()
    assert await setting.is_answered_by(setting.old.digest, "another text")
    await setting.pool.close()


@posix_only
async def test_a_request_for_a_model_that_is_not_loaded_gets_the_new_file(setting: Setting) -> None:
    overwrite(setting.other, setting.file)
    await setting.registry.refresh()
    assert await setting.is_answered_by(setting.store.local(setting.other).digest)
    await setting.pool.close()


async def test_the_default_model_stays_loaded_whatever_its_content(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    rules = make_rules(Settings(), ConfiguredModels(setting.old, pinned=(setting.old,)), make_gpus(Settings()), None)
    overwrite(setting.other, setting.file)
    new = served(setting.store.local(setting.file))
    assert new.digest != setting.old.digest
    assert rules.keep_alive(new) is None
    assert rules.pinned(new)
