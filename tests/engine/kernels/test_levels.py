"""The kernels for each kind of processor: which are chosen, and that they need no instructions that the processor lacks.

QEMU plays processors without AVX-512, and 64-bit Arm. It has no AVX-VNNI and no AVX-512: the level AVX-VNNI is compiled
with AVX-512's encoding of the same instruction, and no processor with AVX-VNNI ran it.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import gguf
import numpy as np
import pytest

from edgeembed.engine.kernels import FOLDER, library_file
from edgeembed.engine.llama import ggml, kernel_hook
from tests.engine.kernels.library import RNG, needs_kernels

Q8_0 = gguf.GGMLQuantizationType.Q8_0
JOB = Path(__file__).with_name("qemu_job.py")
AVX2, AVX_VNNI = 1, 2
ARM_ROOT = "/usr/aarch64-linux-gnu"


def tool(*names: str) -> str:
    """Return the path of the first program of these names that is installed; skip the test without any."""
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"{names[0]} is not installed")


def job(*command: str) -> tuple[int, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Run `qemu_job.py`, and return the level and what it computed."""
    done = subprocess.run([*command], capture_output=True, check=True, timeout=100)
    found = json.loads(done.stdout)
    return found["level"], np.array(found["numbers"])


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="this processor is no x86 under Linux")
@pytest.mark.parametrize(
    ("cpu", "level"),
    [
        ("Haswell", AVX2),
        ("EPYC", AVX2),
        ("Skylake-Server", AVX2),
        ("IvyBridge", 0),
        ("Nehalem", 0),
        ("max,-f16c", 0),
        ("max,-fma", 0),
    ],
)
def test_older_processors_get_the_kernels_that_they_can_run(cpu: str, level: int) -> None:
    """QEMU has no AVX-512, so that its Skylake-Server is one for AVX2."""
    qemu = tool("qemu-x86_64-static", "qemu-x86_64")
    needs_kernels()
    python, library = os.path.realpath(sys.executable), str(library_file())
    found, numbers = job(qemu, "-cpu", cpu, python, "-S", "-E", str(JOB), library)
    assert found == level
    if level:
        assert np.array_equal(numbers, job(python, "-S", "-E", str(JOB), library, str(level))[1])
    else:
        assert not numbers.any(), "nothing was computed"


_FUNCTION = re.compile(r"[0-9a-f]+ <(.+)>:")
_OF_LEVELS = {
    r"%zmm|%k[1-7]|%[xy]mm(1[6-9]|2\d|3[01])|\{evex\}": ("width_512",),
    r"\{vex\}": ("width_256_vnni",),
    r"%ymm": ("width_512", "width_256_vnni", "width_256"),
}
"""Operands and encodings that only some levels may use."""


def test_instructions_of_a_level_are_in_its_code_alone() -> None:
    """A function that levels share, such as a template of the standard library, is compiled for the least of them."""
    needs_kernels()
    listing = subprocess.run(
        [tool("objdump"), "-d", "--no-show-raw-insn", str(library_file())],
        capture_output=True,
        check=True,
        text=True,
        timeout=100,
    )
    function, seen = "", set()
    for line in listing.stdout.splitlines():
        if found := _FUNCTION.match(line):
            function = found[1]
        for pattern, homes in _OF_LEVELS.items():
            if re.search(pattern, line):
                assert any(home in function for home in homes), f"{function}: {line}"
                seen.add(pattern)
    assert len(seen) == len(_OF_LEVELS), "the library has no code, or no symbols"


@pytest.fixture(scope="module")
def other_encoding(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Compile the kernels with AVX-512's encoding of the instruction of AVX-VNNI, and return the library."""
    needs_kernels()
    compiler, library = tool("g++"), tmp_path_factory.mktemp("levels") / "kernels.so"
    flags = ("-shared", "-fPIC", "-O1", "-std=c++17", "-w", "-DVNNI_OF_AVX512")
    subprocess.run([compiler, *flags, FOLDER / "kernels.cpp", "-o", library], check=True, timeout=300)
    found = ctypes.CDLL(str(library))
    if not found.edgeembed_kernels_supports(AVX_VNNI):
        pytest.skip("this processor has no AVX-512 VNNI")
    return found


@pytest.mark.parametrize("tokens", [1, 5, 6, 7, 13, 33])
def test_products_with_avx_vnni_are_those_with_avx2(other_encoding: ctypes.CDLL, tokens: int) -> None:
    weights = gguf.quants.quantize(RNG.standard_normal((48, 96)).astype(np.float32), Q8_0)
    given = RNG.standard_normal((tokens, 96)).astype(np.float32)
    found = []
    for level in (AVX2, AVX_VNNI):
        out = np.zeros((tokens, 48), np.float32)
        pointers = (ctypes.c_void_p(array.ctypes.data) for array in (weights, given, out))
        other_encoding.edgeembed_kernels_multiply(level, int(Q8_0), *pointers, *map(ctypes.c_int64, (48, 96, tokens)))
        found.append(out)
    assert np.array_equal(*found) and found[0].any()


_ARM = """
#include <cstdio>
extern "C" {
int edgeembed_kernels_level();
const char * edgeembed_kernels_install(const void *, int);
const char * edgeembed_kernels_written_for();
}
int main() {
    const char * reason = edgeembed_kernels_install(nullptr, 1);
    std::printf("%d;%s;%s", edgeembed_kernels_level(), reason, edgeembed_kernels_written_for());
}
"""


def test_a_processor_without_kernels_keeps_llama_cpp_s_and_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    library = MagicMock()  # as compiled for a processor that it has no kernels for
    library.edgeembed_kernels_level.return_value = 0
    library.edgeembed_kernels_written_for.return_value = ggml.LLAMA_CPP_PYTHON.encode()
    monkeypatch.setattr(kernel_hook, "library_file", lambda: Path(__file__))
    monkeypatch.setattr(ctypes, "CDLL", lambda _file: library)
    monkeypatch.setattr(ctypes, "PyDLL", lambda _file: library)
    kernels = kernel_hook.install_kernels.__wrapped__()
    assert not kernels.ours
    assert kernels.words.startswith("llama.cpp's own kernels") and "need an x86 processor" in kernels.words


def test_on_arm_there_are_no_kernels_and_the_reason_is_said(tmp_path: Path) -> None:
    """They compile, load, and leave everything to llama.cpp."""
    compiler = tool("aarch64-linux-gnu-g++")
    qemu = tool("qemu-aarch64-static", "qemu-aarch64")
    (tmp_path / "main.cpp").write_text(_ARM, encoding="utf-8")
    program = tmp_path / "main"
    sources = (tmp_path / "main.cpp", FOLDER / "kernels.cpp")
    subprocess.run([compiler, "-O1", "-std=c++17", "-Wall", "-Werror", *sources, "-o", program], check=True, timeout=300)
    done = subprocess.run([qemu, "-L", ARM_ROOT, program], capture_output=True, check=True, timeout=100, text=True)
    level, reason, release = done.stdout.split(";")
    assert level == "0"
    assert reason == "this processor lacks the instructions"
    assert release
