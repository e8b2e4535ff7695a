"""Shards of jobs: the outcome depends on their rows alone, not on the order in which an engine finds what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest

from edgeembed.bulk.computed import Computed
from edgeembed.bulk.embedders import Embedder, EmbedderInfo
from edgeembed.bulk.embedding import embed_shard
from edgeembed.bulk.inputs import Cursor
from edgeembed.bulk.shards import JobRow, Shard
from edgeembed.errors import RequestError


class PickyEmbedder:
    """Refuses some texts, one in each answer, the first of a list that is there."""

    info = EmbedderInfo("fake", "", ("dense",), {"dense": 2}, "here", max_requests=4)

    def __init__(self, refused: Sequence[str]) -> None:
        self._refused = refused

    async def embed(self, texts: Sequence[str]) -> Computed:
        for text in self._refused:
            if text in texts:
                raise RequestError("input[0] is wrong", param=f"input[{texts.index(text)}]")
        return Computed(np.ones((len(texts), 2), np.float32), {})


@pytest.mark.parametrize("found", [("b", "d", "e"), ("e", "d", "b")], ids=["in order", "backwards"])
async def test_refused_rows_are_in_the_order_of_the_inputs(found: Sequence[str]) -> None:
    rows = [JobRow(number, text, "in.txt", f"line {number}") for number, text in enumerate("abcdef")]
    embedder = cast(Embedder, PickyEmbedder(found))
    shard = await embed_shard(Shard(0, rows, [], Cursor(), 0), embedder, asyncio.Semaphore(1))
    assert [each.id for each in shard.refused] == [1, 3, 4]
    assert [row.text for row in shard.rows] == ["a", "c", "f"]
