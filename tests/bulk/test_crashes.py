"""Fragments at which workers end again and again: how they are counted and named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgeembed.bulk.crashes import MOST_CRASHES, Beginnings, CrashGuard, FragmentFailedError, place_of
from edgeembed.bulk.fragments import FolderFile, Fragment
from edgeembed.bulk.places import Place
from edgeembed.bulk.records import Position


def fragment(name: str = "a.parquet", **more: Any) -> Fragment:
    given: dict[str, Any] = {"format": "parquet", "start": Position(), "end": None, "rows": None} | more
    place = Place.of(f"/in/{name}")
    return Fragment(input=0, index=0, place=place, name=place.name, relative=name, version="", bytes=9, **given)


def guard_of(beginnings: Beginnings, *, restarted: bool = True) -> CrashGuard:
    """Return the guard of a worker, with what stands for the module `ray`."""
    actor = SimpleNamespace(count=SimpleNamespace(remote=beginnings.count))
    context = SimpleNamespace(was_current_actor_reconstructed=restarted)
    return CrashGuard(SimpleNamespace(get_runtime_context=lambda: context, get=lambda found: found), actor)


async def test_only_restarted_workers_count_and_other_shards_count_anew() -> None:
    beginnings, part = Beginnings(), fragment(rows=100, end=100)
    for _ in range(MOST_CRASHES + 1):
        await guard_of(beginnings, restarted=False).begin(part, Position())
    for shard in (Position(), Position(50, 50)):
        for _ in range(MOST_CRASHES):
            await guard_of(beginnings).begin(part, shard)
    with pytest.raises(FragmentFailedError, match="rows 50 to 99"):
        await guard_of(beginnings).begin(part, Position(50, 50))


@pytest.mark.parametrize(
    ("part", "start", "named"),
    [
        (fragment(rows=2000, start=Position(1000), end=3000), Position(1500), ", rows 1,500 to 2,999"),
        (fragment("a.txt", end=9000), Position(), ", bytes 0 to 9,000"),
        (fragment("a.txt", start=Position(9000)), Position(9500), ", bytes 9,500 to the end"),
        (fragment("a.csv", format="csv"), Position(), ""),
        (fragment("a.csv", format="csv"), Position(70, 7), ", from record 7 on"),
        (
            fragment("", format="text", files=tuple(FolderFile(f"{name}.md", 3, "") for name in "abc")),
            Position(file="b.md"),
            ", from b.md to c.md",
        ),
    ],
)
def test_a_fragment_is_named_from_where_workers_end(part: Fragment, start: Position, named: str) -> None:
    assert place_of(part, start) == part.name + named
