"""sentence-transformers on the card, bfloat16 with SDPA attention, in a loop without a server: a backend of `raw_peer`.

    python -m tests.benchmarks.gpu.torch_peer sentence-transformers-gpu FOLDER --threads N --batch 128
    python -m tests.benchmarks.gpu.torch_peer peak

The second prints what the card reaches at most: bfloat16 matrix products of random numbers, and copies, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks import raw_peer

SIDE = 8192
COPY_BYTES = 2**32
LONGEST = 512


class OnCard:
    """sentence-transformers as its documentation loads it for speed; on the processor where there is no card."""

    def __init__(self, folder: Path, threads: int, batch: int) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(threads)
        self._batch = batch
        self._model = SentenceTransformer(
            str(folder),
            device="cuda" if torch.cuda.is_available() else "cpu",
            model_kwargs={"dtype": torch.bfloat16, "attn_implementation": "sdpa"},
        )
        self._model.max_seq_length = LONGEST  # some checkpoints cut texts earlier than their weights need to

    def embed(self, texts: list[str]) -> tuple[Any, int, float | None]:
        rows = self._model.encode(texts, batch_size=self._batch, normalize_embeddings=True, show_progress_bar=False)
        return rows, 0, None


def peak() -> dict[str, float]:
    """Measure bfloat16 TFLOP/s of square products and GB/s of copies (read and written), each the mean of twenty."""
    import torch

    one, other = (torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(COPY_BYTES, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)

    def seconds(work: Any) -> float:
        for _ in range(3):
            work()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(20):
            work()
        torch.cuda.synchronize()
        return (time.perf_counter() - began) / 20

    return {
        "tflops": 2 * SIDE**3 / seconds(lambda: one @ other) / 1e12,
        "copy_gbs": 2 * COPY_BYTES / seconds(lambda: target.copy_(source)) / 1e9,
    }


if __name__ == "__main__":
    if sys.argv[1:] == ["peak"]:
        print(json.dumps(peak()))
    else:
        raw_peer.BACKENDS["sentence-transformers-gpu"] = lambda given: OnCard(given.folder, given.threads, given.batch)
        raw_peer.main()
