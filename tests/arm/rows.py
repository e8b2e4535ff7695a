"""Prints the rows of texts as JSON, computed by the engine of this process: `rows.py MODEL.gguf TEXTS`. Run by check.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.worker_options import WorkerOptions


def modules() -> list[str]:
    """Return the names of the modules of ggml for processors that are loaded."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    paths = {line.partition("/")[2].rpartition("/")[2] for line in lines}
    return sorted(name.removeprefix("libggml-").removesuffix(".so") for name in paths if name.startswith("libggml-cpu-"))


def main(path: str, texts: list[str]) -> None:
    model = LlamaModel(
        WorkerOptions(
            path=path, threads=1, context_tokens=256, batch_tokens=128, mode="cpu", extra_buffers=True, pad_from_tokens=0
        )
    )
    rows = np.stack(model.embed([model.tokenize(text) for text in texts]))
    json.dump({"by": model.info.llama_cpp, "modules": modules(), "rows": rows.tolist()}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
