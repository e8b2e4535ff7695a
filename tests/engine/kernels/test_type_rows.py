"""Rows of small random models in every type of weights: our kernels against llama.cpp's own, and against F32.

The models have the shapes of BERT and of Qwen3, with rows of 256 numbers, which K types need.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeembed.engine.llama.kernel_hook import PLAIN_KERNELS
from tests.convert.tiny_bert import make_tiny_bert
from tests.convert.tiny_qwen3_checkpoint import Qwen3Shape, make_qwen3_checkpoint
from tests.convert.without_proof import convert_checkpoint
from tests.engine.kernels.library import TEXTS, needs_kernels

Rows = npt.NDArray[np.float64]
TYPES = ("F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q5_0", "Q4_K_M", "Q4_1", "Q4_0", "IQ4_XS")
SHAPE = Qwen3Shape(hidden_size=256, num_attention_heads=4, head_dim=64, intermediate_size=512)

_ROWS = """
import json, sys
import numpy as np
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.worker_options import WorkerOptions
texts, found = json.loads(sys.argv[2]), {}
for path in sys.argv[3:]:
    model = LlamaModel(WorkerOptions(path=path, threads=2, context_tokens=512, batch_tokens=512, mode="cpu",
                                     extra_buffers=sys.argv[1] == "ours", pad_from_tokens=0))
    tokens = [model.tokenize(text) for text in texts]
    rows, alone = model.embed(tokens), [model.embed([each])[0] for each in tokens]
    found[path] = {"by": model.info.llama_cpp, "rows": np.stack(rows).tolist(), "alone": np.stack(alone).tolist()}
    model.close()
json.dump(found, sys.stdout)
"""


def unit(rows: Any) -> Rows:
    array = np.array(rows, dtype=np.float64)
    return np.asarray(array / np.linalg.norm(array, axis=1, keepdims=True))


def compute(files: Mapping[str, Path], kernels: str) -> dict[str, tuple[Rows, Rows]]:
    """Return the rows of each type, in a batch and alone, from a process of its own."""
    command = [sys.executable, "-c", _ROWS, kernels, json.dumps(TEXTS), *map(str, files.values())]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    for each in found.values():
        assert ("edgeembed's kernels" in each["by"]) == (kernels == "ours")
        assert each["by"].endswith(PLAIN_KERNELS.words) == (kernels != "ours")
    return {kind: (unit(found[str(file)]["rows"]), unit(found[str(file)]["alone"])) for kind, file in files.items()}


def cosines(one: Rows, other: Rows) -> Rows:
    return np.asarray((one * other).sum(axis=1))


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda folder: make_tiny_bert(folder, hidden=256, feed_forward=512, heads=4, context=512),
        lambda folder: make_qwen3_checkpoint(folder, shape=SHAPE),
    ],
    ids=["bert", "qwen3"],
)
def test_rows_of_every_type_are_as_good_as_llama_cpps(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    needs_kernels()
    checkpoint = make(tmp_path / "checkpoint")
    files = {kind: tmp_path / f"{kind}.gguf" for kind in ("F32", *TYPES)}
    for kind, file in files.items():
        convert_checkpoint(checkpoint, file, quantization=kind)
    ours, theirs = compute(files, "ours"), compute(files, "llama.cpp's")
    exact = theirs["F32"][0]
    for kind in TYPES:
        rows, alone = ours[kind]
        full = kind in ("F16", "BF16")
        assert not np.array_equal(rows, theirs[kind][0]), kind
        assert cosines(rows, theirs[kind][0]).min() > (0.99998 if full else 0.999), kind
        assert cosines(rows, alone).min() > (0.9999 if full else 0.9995), kind
        lost, allowed = (1 - cosines(found, exact).mean() for found in (rows, theirs[kind][0]))
        assert lost < 1.3 * allowed + 1e-6, kind
