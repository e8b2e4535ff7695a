"""A worker and a model whose queries need no forward pass: their weights are those of its table."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from edgeembed.engine.execution_modes import CPU_BEST
from edgeembed.engine.float_strings import decode_floats
from edgeembed.engine.interface import BULK, INTERACTIVE, Prompted
from edgeembed.engine.outputs import unpack
from edgeembed.engine.supervisor.fallback_policy import FallbackPolicy
from edgeembed.engine.supervisor.worker_engine import WorkerEngine
from edgeembed.engine.worker_options import WorkerOptions
from tests.convert.encoder_texts import TEXTS
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.sparse import make_inference_free

pytestmark = pytest.mark.model


async def test_a_query_is_answered_by_its_tokens(tmp_path: Path) -> None:
    file = convert_checkpoint(make_inference_free(tmp_path / "checkpoint"), tmp_path / "m.gguf", quantization="Q8_0").path
    table = decode_floats(GGUFReader(file).fields["edgeembed.sparse.query.weights"].contents())
    engine = WorkerEngine(
        lambda mode: WorkerOptions(
            path=str(file), threads=1, context_tokens=640, batch_tokens=128, mode=mode.name, extra_buffers=mode.extra_buffers
        ),
        FallbackPolicy((CPU_BEST,)),
    )
    texts = list(TEXTS.values())
    try:
        await engine.start()
        queries = engine.submit([Prompted("", text, role="query") for text in texts], BULK, outputs=("sparse",))
        (document,) = engine.submit([Prompted("", texts[1], role="document")], INTERACTIVE, outputs=("sparse",))
        ids = await asyncio.gather(*engine.tokenize(texts))
        rows = await asyncio.gather(*queries, document)
    finally:
        await engine.close()
    for row, read in zip(rows, ids, strict=False):
        words = np.array([number for number in np.unique(read.ids) if table[number] > 0])
        expected = np.stack([words, table[words]], axis=1).astype(np.float32) if len(words) else np.empty((0, 2))
        assert row.tokens == len(read.ids)
        assert np.array_equal(unpack(row.vector, ("sparse",))["sparse"], expected)
    assert len(unpack(rows[-1].vector, ("sparse",))["sparse"]) > len(unpack(rows[1].vector, ("sparse",))["sparse"])
