"""The two-stage search in docs/http-api.md, run as written except for the address and the size of the reranker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.hub.install import pull
from tests.convert.tiny_encoders import make_tiny_cross_encoder
from tests.convert.without_proof import convert_checkpoint
from tests.e2e.daemon import ROOT, running

RAIN = {"An umbrella keeps you dry.", "Rain falls in April."}


@pytest.mark.parametrize("recall", [50, 2])
def test_the_example_runs_and_prints_the_best_passages(
    recall: int, home: Path, tmp_path: Path, minilm: Callable[[str], Path]
) -> None:
    convert_checkpoint(make_tiny_cross_encoder(tmp_path / "tiny"), tmp_path / "tiny.gguf", quantization="F32")
    settings, paths = Settings(), Paths.resolve()
    pull(str(tmp_path / "tiny.gguf"), paths=paths, settings=settings, report=lambda _line: None, name="tiny-reranker")
    page = (ROOT / "docs" / "http-api.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```python\n(import httpx\n.*?)```", page, re.DOTALL)
    with running("--model", str(minilm("Q8_0")), home=home) as daemon:
        changes = {
            "http://127.0.0.1:8327": daemon.url,
            "all-minilm-l6-v2": minilm("Q8_0").stem,
            "qwen3-reranker-0.6b": "tiny-reranker",
            "recall=50": f"recall={recall}",
        }
        for written, here in changes.items():
            assert example.count(written) == 1
            example = example.replace(written, here)
        environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
        done = subprocess.run(
            [sys.executable, "-c", example], capture_output=True, text=True, timeout=120, env=environment, check=False
        )
    assert done.returncode == 0, done.stderr
    lines = [re.fullmatch(r"([01]\.\d{3})  (.+)", line) for line in done.stdout.splitlines()]
    scores, texts = zip(*[(float(line[1]), line[2]) for line in lines if line], strict=True)
    assert len(lines) == len(texts) == min(recall, 3)
    assert list(scores) == sorted(scores, reverse=True)
    if recall == 2:
        assert set(texts) == RAIN, "only the passages nearest to the query are reranked"
