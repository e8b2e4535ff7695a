"""Whether the faster kernels multiply: ours, or llama.cpp's own, for which a pretended buffer type stands in.

No machine with AMX ran these tests.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeembed.engine.kernels import FOLDER
from edgeembed.engine.llama import ggml, product_choice
from edgeembed.engine.llama.kernel_hook import BUFFER_TYPE, install_kernels
from edgeembed.engine.llama.product_choice import LEAST_GAIN, REPEATS, TOKENS, relative_speed, slower_types, weight_shapes
from tests.engine.kernels.library import needs_kernels

FAST, SLOW = 0, 20_000
"""Microseconds of a product of the stand-in."""


def times(*seconds: float) -> Callable[[int], float]:
    """Return a function that takes so many seconds, run after run; the first is the warm-up."""
    left = {tokens: iter(seconds) for tokens in TOKENS}
    return lambda tokens: next(left[tokens])


def test_the_fastest_run_of_each_counts_and_not_the_warm_up() -> None:
    ours = times(0.1, *[5.0] * (REPEATS - 1), 2.0)
    theirs = times(0.1, 1.0, *[9.0] * (REPEATS - 1))
    assert relative_speed(ours, theirs) == pytest.approx(2)


def test_a_lone_query_and_a_batch_count_alike() -> None:
    assert relative_speed(lambda _: 1.0, lambda tokens: {TOKENS[0]: 2.0, TOKENS[1]: 0.5}[tokens]) == pytest.approx(1)


_CHOICE = """
import ctypes, json, sys
from edgeembed.engine.llama import ggml, kernel_hook
from edgeembed.engine.llama.model import LlamaModel, load_libraries
from edgeembed.engine.worker_options import WorkerOptions

path, library, slowness, left = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
options = WorkerOptions(path=path, threads=2, context_tokens=64, batch_tokens=64, mode="cpu", extra_buffers=True,
                        left_types=left)
load_libraries(options)
functions = (ctypes.c_void_p * len(ggml.KERNEL_FUNCTIONS))(*map(kernel_hook._address, ggml.KERNEL_FUNCTIONS))
rival = ctypes.CDLL(library)
rival.rival_install(functions, slowness)
model = LlamaModel(options)
before = rival.rival_weights()
found = model.info.autotune
again = LlamaModel(options)
row = again.embed([again.tokenize("a river at night")])[0]
json.dump({"left": found and found.left_types, "words": model.info.llama_cpp, "weights": before,
           "zero": not row.any()}, sys.stdout)
"""


@pytest.fixture(scope="module")
def rival(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the stand-in, and return its library."""
    needs_kernels()
    compiler = shutil.which("g++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("the stand-in for AMX is compiled on Linux with g++")
    library = tmp_path_factory.mktemp("rival") / "rival.so"
    source = Path(__file__).with_name("rival.cpp")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", f"-I{FOLDER}", source, "-o", library], check=True, timeout=100)
    return library


def load(file: Path, rival: Path, slowness: int, left: list[int] | None = None) -> dict[str, Any]:
    """Load a model twice in a process of its own, and return what was chosen for it."""
    command = [sys.executable, "-c", _CHOICE, str(file), str(rival), str(slowness), json.dumps(left)]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=100).stdout)
    return found


@pytest.mark.model
def test_faster_kernels_of_llama_cpp_get_the_weights(minilm: Callable[[str], Path], rival: Path) -> None:
    found = load(minilm("Q8_0"), rival, FAST)
    assert found["left"] == [ggml.TYPE_Q8_0]
    assert "edgeembed's kernels" in found["words"] and found["words"].endswith(", llama.cpp's for Q8_0")
    assert found["weights"] > 30, "all matrices of the layers"


@pytest.mark.model
def test_slower_kernels_of_llama_cpp_get_no_weights(minilm: Callable[[str], Path], rival: Path) -> None:
    found = load(minilm("Q8_0"), rival, SLOW)
    assert found["left"] == []
    assert "llama.cpp's for" not in found["words"]
    assert found["weights"] <= product_choice._MOST_MATRICES, "only those that were measured"
    assert not found["zero"]


@pytest.mark.model
@pytest.mark.parametrize(("left", "most", "least"), [([], 0, 0), ([ggml.TYPE_Q8_0], 100, 30)])
def test_what_was_measured_before_is_not_measured_again(
    minilm: Callable[[str], Path], rival: Path, left: list[int], most: int, least: int
) -> None:
    found = load(minilm("Q8_0"), rival, FAST, left)
    assert found["left"] is None
    assert least <= found["weights"] <= most


@pytest.mark.model
def test_types_and_shapes_are_those_of_the_layers(minilm: Callable[[str], Path]) -> None:
    shapes = weight_shapes(str(minilm("Q8_0")))
    assert list(shapes) == [ggml.TYPE_Q8_0]
    assert shapes[ggml.TYPE_Q8_0] in {(384, 1536), (1536, 384)}


def test_a_file_that_cannot_be_read_has_no_weights(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(20))
    for name in ("broken.gguf", "missing.gguf"):
        assert not weight_shapes(str(tmp_path / name))
        assert slower_types(str(tmp_path / name), b"", plain=True) is None


@pytest.mark.model
def test_nothing_is_measured_where_only_one_can_multiply(minilm: Callable[[str], Path]) -> None:
    needs_kernels()
    assert install_kernels().ours
    assert slower_types(str(minilm("F32")), BUFFER_TYPE, plain=False) is None
    assert LEAST_GAIN >= 1


@pytest.mark.model
def test_with_avx2_the_plain_kernels_are_a_rival(minilm: Callable[[str], Path]) -> None:
    needs_kernels()
    assert install_kernels().ours
    file, found = str(minilm("Q8_0")), []
    for gain in (LEAST_GAIN - 0.01, LEAST_GAIN):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(product_choice, "relative_speed", lambda _ours, _theirs, gain=gain: gain)
            found.append(slower_types(file, BUFFER_TYPE, plain=True))
    assert found == [(), (ggml.TYPE_Q8_0,)]
