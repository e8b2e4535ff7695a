"""Asks an engine for rows, and compares them with those that a fake upstream computes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeembed.engine.interface import INTERACTIVE, Row, Text
from edgeembed.errors import EdgeEmbedError
from edgeembed.upstream.engine import RemoteEngine
from tests.fake_upstreams import unit_row


async def rows_of(engine: RemoteEngine, texts: Sequence[Text], priority: Any = INTERACTIVE) -> list[Row]:
    return list(await asyncio.gather(*engine.submit(texts, priority)))


async def errors_of(engine: RemoteEngine, texts: Sequence[Text]) -> list[Any]:
    found = await asyncio.gather(*engine.submit(texts, INTERACTIVE), return_exceptions=True)
    return [error if isinstance(error, EdgeEmbedError) else None for error in found]


def same(rows: Sequence[Row], texts: Sequence[str]) -> None:
    np.testing.assert_allclose(np.stack([row.vector for row in rows]), np.stack([unit_row(t) for t in texts]), atol=1e-6)
