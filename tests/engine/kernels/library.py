"""What the tests of the kernels share: the compiled library, and rows of texts with our kernels or llama.cpp's."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeembed.engine.kernels import library_file
from edgeembed.engine.llama.kernel_hook import LEVELS

Array = npt.NDArray[Any]
RNG = np.random.default_rng(7)

WORDS = ["river", "engine", "night", "copper", "letter", "window", "early", "cloud", "paper", "garden", "silent", "stone"]
TEXTS = ["hello", *(" ".join(RNG.choice(WORDS, count)) for count in (3, 9, 14, 30, 47, 62, 90))]


def library() -> ctypes.CDLL:
    file = library_file()
    assert file is not None
    return ctypes.CDLL(str(file))


def needs_kernels() -> list[int]:
    """Return the levels that this processor supports; skip the test without any."""
    found = [level for level in LEVELS if library_file() and library().edgeembed_kernels_supports(level)]
    if not found:
        pytest.skip("this processor has no AVX2, or there is no C++ compiler: there are no kernels to test")
    return found


def address(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


_ROWS = """
import json, sys
import numpy as np
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.worker_options import WorkerOptions
texts = json.loads(sys.argv[3])
model = LlamaModel(WorkerOptions(path=sys.argv[1], threads=2, context_tokens=512,
                                 batch_tokens=int(sys.argv[4]), mode="cpu", extra_buffers=sys.argv[2] == "ours",
                                 pad_from_tokens=0))
rows = model.embed([model.tokenize(text) for text in texts])
json.dump({"by": model.info.llama_cpp, "rows": np.stack(rows).tolist()}, sys.stdout)
"""


def rows_of_texts(file: Path, kernels: str, texts: Sequence[str], *, batch: int) -> tuple[str, Array]:
    """Return rows from a separate process: once our kernels are installed, every model in the process uses them."""
    command = [sys.executable, "-c", _ROWS, str(file), kernels, json.dumps(texts), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    rows = np.array(found["rows"])
    return found["by"], rows / np.linalg.norm(rows, axis=1, keepdims=True)
