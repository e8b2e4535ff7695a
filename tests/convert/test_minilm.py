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


def test_our_own_types_lose_less_than_plain_ones_of_their_size(minilm_checkpoint: Path, tmp_path: Path) -> None:
    """On multilingual texts, which this English model cuts into letters; docs/converting.md has larger measurements."""
    sizes, losses = {}, {}
    for kind in ("Q8_0", "Q8_E", "Q5_0", "Q5_E", "Q4_0", "Q4_E"):
        result = convert_checkpoint(minilm_checkpoint, tmp_path / f"{kind}.gguf", quantization=kind)
        assert result.quantization == kind
        sizes[kind] = result.size_bytes
        with np.load(ROWS) as reference, open_llama(result.path) as llama:
            rows = zip(reference["texts"], reference["rows"], strict=True)
            losses[kind] = float(np.mean([1 - cosine(llama.embed(str(text)), row) for text, row in rows]))
    assert sizes["Q8_E"] < 0.78 * sizes["Q8_0"] and losses["Q8_E"] < 0.003
    assert sizes["Q5_E"] < 0.94 * sizes["Q5_0"] and losses["Q5_E"] < 0.8 * losses["Q5_0"]
    assert sizes["Q4_E"] < 1.03 * sizes["Q4_0"] and losses["Q4_E"] < 0.5 * losses["Q4_0"]
