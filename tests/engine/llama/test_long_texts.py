"""Memory of long texts: it is taken when a text needs it, and returned to the system behind it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgeembed.engine.kernels import library_file
from tests.engine.kernels.library import needs_kernels
from tests.engine.tiny_qwen3 import Qwen3Sizes, make_tiny_qwen3

pytestmark = [pytest.mark.model, pytest.mark.skipif(sys.platform != "linux", reason="memory of a process as Linux tells it")]

CELLS = 8192
SIZES = Qwen3Sizes(layers=4, kv_heads=8, heads=8, head=64, context=CELLS)
CACHE_MEBIBYTES = SIZES.layers * SIZES.kv_heads * 2 * SIZES.head * 2 * CELLS / 2**20

_SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from edgeembed.engine.llama.library import send_log_to
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.reading import Prefix, Reading
from edgeembed.engine.worker_options import WorkerOptions

def resident():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024

send_log_to(lambda _: None, verbose=False)
path, tokens, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
options = WorkerOptions(path=path, threads=2, context_tokens=limit, batch_tokens=128, mode="cpu", extra_buffers=True)
found = {"before": resident()}
model = LlamaModel(options)
ids = np.random.default_rng(0).integers(0, 250, tokens, dtype=np.int32)
short = Reading(ids[:40], Prefix(ids[:20]), 20)
rows = [model.wide.compute([short, short])[0]]
kept = [model.wide.kept_prefixes]
found["loaded"] = resident()
long = [model.wide.compute([Reading(ids)])[0]]
found["behind"] = resident()
kept.append(model.wide.kept_prefixes)
rows += [*model.wide.compute([short, short]), model.wide.compute([Reading(ids[:40])])[0]]
kept.append(model.wide.kept_prefixes)
long.append(model.wide.compute([Reading(ids)])[0])
unit = lambda row: row / np.linalg.norm(row)
found["likeness"] = [float(unit(one) @ unit(group[0])) for group in (rows, long) for one in group]
print(json.dumps(found | {"kept": kept}))
"""


def test_cells_take_memory_only_while_a_text_uses_them(tmp_path: Path) -> None:
    needs_kernels()
    assert library_file() is not None
    file = make_tiny_qwen3(tmp_path / "decoder.gguf", sizes=SIZES)
    command = [sys.executable, "-c", _SCRIPT, str(file), "3000", str(CELLS)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert found["loaded"] - found["before"] < CACHE_MEBIBYTES / 2
    assert found["behind"] - found["loaded"] < CACHE_MEBIBYTES / 4
    assert min(found["likeness"]) > 0.99999
    assert found["kept"] == [1, 0, 1]  # a prefix is computed again when it is needed
