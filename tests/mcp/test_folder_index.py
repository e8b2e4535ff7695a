"""The index of a folder: only what changed is computed, and an update that was cut off is continued."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import anyio
import numpy as np
import pytest

from edgeembed.bulk.computed import Computed
from edgeembed.bulk.embedders import Embedder, EmbedderInfo
from edgeembed.bulk.stores.interface import StoreRows, Where
from edgeembed.bulk.stores.sqlite import SqliteStore
from edgeembed.engine.interface import DENSE
from edgeembed.errors import ConfigError, EngineError
from edgeembed.mcp.folder_index import FolderIndex, describe_indexes
from tests.fakes import fake_row
from tests.mcp.files import written


class FakeEmbedder:
    """Embeds without a model. texts: what it was asked for. left: texts until it fails."""

    def __init__(self, model: str = "fake", digest: str = "1" * 64) -> None:
        self.info = EmbedderInfo(model, digest, DENSE, {"dense": 16}, "a test", 1, context_tokens=40, probe_tokens=3)
        self.texts: list[str] = []
        self.left = 10**9

    async def embed(self, texts: Sequence[str]) -> Computed:
        self.left -= len(texts)
        if self.left < 0:
            raise EngineError("it has ended")
        self.texts += texts
        rows = np.stack([fake_row(text, 16) for text in texts])
        return Computed((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), {})

    async def count(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]


async def said_nothing(_done: int, _total: int, _path: str) -> None:
    """No progress."""


def of(embedder: FakeEmbedder) -> Embedder:
    return cast(Embedder, embedder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "folder", {"a.md": "one\ntwo\n", "b/c.md": "three\n", "b/d.md": " \n"})


@pytest.fixture
def index(folder: Path, tmp_path: Path) -> FolderIndex:
    return FolderIndex(folder, tmp_path / "indexes")


async def test_only_contents_that_changed_are_computed(index: FolderIndex, folder: Path) -> None:
    embedder = FakeEmbedder()
    first = await index.update(of(embedder), said_nothing)
    assert (first.files, first.parts, first.computed, first.removed) == (2, 2, 2, 0)
    assert sorted(embedder.texts) == ["one\ntwo", "three"]

    embedder.texts.clear()
    (folder / "a.md").touch()
    again = await index.update(of(embedder), said_nothing)
    assert (again.files, again.computed, embedder.texts) == (2, 0, [])

    (folder / "a.md").write_text("four\n")
    (folder / "b" / "c.md").unlink()
    (folder / "e.md").write_text("five\n")
    changed = await index.update(of(embedder), said_nothing)
    assert (changed.files, changed.parts, changed.computed, changed.removed) == (2, 2, 2, 1)
    assert sorted(embedder.texts) == ["five", "four"]
    found = await index.search(of(embedder), "four", 5)
    assert (found[0].path, found[0].text) == ("a.md", "four")
    assert {part.path for part in found} == {"a.md", "e.md"}


async def test_an_update_that_was_cut_off_is_continued(index: FolderIndex, folder: Path) -> None:
    """Three requests of 64 parts are needed; the second one fails, as when the process is killed."""
    written(folder, {f"many/{number:03}.md": f"text {number}\n" for number in range(150)})
    failing = FakeEmbedder()
    failing.left = 70
    with pytest.raises(EngineError):
        await index.update(of(failing), said_nothing)
    assert len(failing.texts) == 64
    rest = FakeEmbedder()
    found = await index.update(of(rest), said_nothing)
    assert (found.files, found.parts, found.computed) == (152, 152, 152 - 64)
    assert sorted(failing.texts + rest.texts) == sorted({*failing.texts, *rest.texts})


async def test_parts_have_their_lines_and_are_found_below_a_folder(index: FolderIndex, folder: Path) -> None:
    lines = [f"word{number} " * 7 for number in range(40)]
    written(folder, {"b/long.md": "\n".join(lines)})
    embedder = FakeEmbedder()
    progress = []

    async def noted(done: int, total: int, path: str) -> None:
        progress.append((done, total, path))

    await index.update(of(embedder), noted)
    assert progress[0] == (0, 3, "a.md") and progress[-1] == (3, 3, "")
    found = await index.search(of(embedder), "word7", 50, "b/long.md")
    assert {part.path for part in found} == {"b/long.md"} and len(found) > 5
    for part in found:
        text = "\n".join(lines[part.first_line - 1 : part.last_line])
        assert part.text.strip() in text
    assert {part.path for part in await index.search(of(embedder), "one", 50, "b/")} == {"b/c.md", "b/long.md"}
    with pytest.raises(ConfigError, match="no file 'missing'"):
        await index.search(of(embedder), "one", 50, "missing")


async def test_the_index_of_another_model_is_made_anew_and_never_searched(index: FolderIndex, tmp_path: Path) -> None:
    await index.update(of(FakeEmbedder()), said_nothing)
    other = FakeEmbedder("other", "2" * 64)
    with pytest.raises(ConfigError, match="was made with"):
        await index.search(of(other), "one", 5)
    found = await index.update(of(other), said_nothing)
    assert found.computed == 2 and "was made with fake" in found.rebuilt
    assert await index.search(of(other), "one", 5)
    [(folder, info, files, parts)] = describe_indexes(tmp_path / "indexes")
    assert (folder, info.model, files, parts) == (index.folder, "other", 2, 2)


async def test_an_index_can_be_removed(index: FolderIndex, folder: Path) -> None:
    with pytest.raises(ConfigError, match="has no index yet; call index_folder first"):
        await index.search(of(FakeEmbedder()), "one", 5)
    await index.update(of(FakeEmbedder()), said_nothing)
    assert index.remove() and not index.exists() and not index.remove()
    assert (folder / "a.md").exists()


async def test_the_rows_of_a_model_are_never_written_into_the_index_of_another(
    index: FolderIndex, folder: Path, tmp_path: Path
) -> None:
    """Two agents with different models update the index at the same time; the rows have the same length."""
    written(folder, {f"many/{number:03}.md": f"text {number}\n" for number in range(150)})
    one, other = FakeEmbedder(), FakeEmbedder("other", "2" * 64)

    async def meanwhile(done: int, _total: int, _path: str) -> None:
        if done == 100:
            await FolderIndex(folder, tmp_path / "indexes").update(of(other), said_nothing)

    with pytest.raises(ConfigError, match="made anew by another program"):
        await index.update(of(one), meanwhile)
    assert [info.model for _, info, _, _ in describe_indexes(tmp_path / "indexes")] == ["other"]
    rest = FakeEmbedder("other", "2" * 64)
    assert (await index.update(of(rest), said_nothing)).computed == 0


async def test_an_index_that_another_agent_forgets_is_not_written_any_more(
    index: FolderIndex, folder: Path, tmp_path: Path
) -> None:
    written(folder, {f"many/{number:03}.md": f"text {number}\n" for number in range(150)})

    async def meanwhile(done: int, _total: int, _path: str) -> None:
        if done == 100:
            assert FolderIndex(folder, tmp_path / "indexes").remove()

    with pytest.raises(ConfigError, match="removed or made anew"):
        await index.update(of(FakeEmbedder()), meanwhile)
    assert (await index.update(of(FakeEmbedder()), said_nothing)).computed == 152


async def test_a_cancelled_update_closes_the_index_after_its_last_change(
    index: FolderIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, began, go_on = SqliteStore.replace, threading.Event(), threading.Event()

    def slow(store: SqliteStore, where: Where, rows: StoreRows) -> None:
        began.set()
        assert go_on.wait(20)
        replace(store, where, rows)

    monkeypatch.setattr(SqliteStore, "replace", slow)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(index.update, of(FakeEmbedder()), said_nothing)
        assert await asyncio.to_thread(began.wait, 20)
        tasks.cancel_scope.cancel()
        go_on.set()
    assert (await index.update(of(FakeEmbedder()), said_nothing)).computed == 0


async def test_a_subfolder_with_thousands_of_files_is_searched(index: FolderIndex, folder: Path) -> None:
    """SQLite takes no more than 1000 conditions, and 32,766 parameters."""
    written(folder, {f"many/{number}.md": f"text {number}\n" for number in range(1100)})
    await index.update(of(FakeEmbedder()), said_nothing)
    found = await index.search(of(FakeEmbedder()), "text 7", 3, "many")
    assert found[0].path == "many/7.md" and all(part.path.startswith("many/") for part in found)
    for file in (folder / "many").iterdir():
        file.unlink()
    assert (await index.update(of(FakeEmbedder()), said_nothing)).removed == 1100


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
async def test_the_texts_of_an_index_are_for_its_user_alone(index: FolderIndex) -> None:
    index.file.parent.mkdir(mode=0o755)
    await index.update(of(FakeEmbedder()), said_nothing)
    assert index.file.parent.stat().st_mode & 0o077 == 0
