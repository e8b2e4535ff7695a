"""The real all-MiniLM-L6-v2 against rows of sentence-transformers (tests/reference/compare_minilm.py --write)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.convert.llama_vectors import cosine, open_llama
from tests.convert.without_proof import convert_checkpoint

pytestmark = pytest.mark.model

ROWS = Path(__file__).parents[1] / "reference" / "minilm_rows.npz"


@pytest.mark.parametrize(("quantization", "least"), [("F32", 0.9999), ("F16", 0.9999), ("Q8_0", 0.999)])
def test_rows_equal_those_of_sentence_transformers(
    minilm_checkpoint: Path, tmp_path: Path, quantization: str, least: float
) -> None:
    result = convert_checkpoint(minilm_checkpoint, tmp_path / "minilm.gguf", quantization=quantization)
    assert result.source_sha256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert (result.dimensions, result.pooling, result.fallbacks) == (384, "mean", [])
    with np.load(ROWS) as reference, open_llama(result.path) as llama:
        for kind, text, tokens, row in zip(*(reference[key] for key in ("kinds", "texts", "tokens", "rows")), strict=True):
            ids = llama.tokenize(str(text))
            assert len(ids) == tokens, kind
            assert cosine(llama.embed_ids(ids), row) >= least, kind
