"""kernels/ggml.h against ggml's own headers."""

from __future__ import annotations

import ctypes
import re
import tomllib
from pathlib import Path

import pytest

from edgeembed.engine.kernels import FOLDER, library_file
from edgeembed.engine.llama import ggml
from tests.engine.contract import Contract

ROOT = Path(__file__).parents[3]


@pytest.mark.e2e
@pytest.mark.slow
def test_structures_numbers_and_functions_are_those_of_ggml(contract: Contract, tmp_path: Path) -> None:
    contract.run(Path(__file__).with_name("contract.cpp"), tmp_path)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize(
    ("declared", "changed"),
    [
        ("int32_t flags;\n", "int64_t flags;\n"),
        ("OP_UNARY = 91", "OP_UNARY = 90"),
        ("void (*barrier)(void * threadpool);", "void (*barrier)(int threadpool);"),
        ("virtual bool work_size(", "virtual bool another();\n    virtual bool work_size("),
    ],
)
def test_a_difference_from_ggml_is_found(contract: Contract, tmp_path: Path, declared: str, changed: str) -> None:
    header = FOLDER / "ggml.h"
    text = header.read_text(encoding="utf-8")
    assert declared in text
    (tmp_path / "changed.h").write_text(text.replace(declared, changed), encoding="utf-8")
    program = Path(__file__).with_name("contract.cpp").read_text(encoding="utf-8")
    program = re.sub(r'#include "[./]*edgeembed/engine/kernels/ggml.h"', '#include "changed.h"', program)
    (tmp_path / "contract.cpp").write_text(program.replace("../signatures.h", "signatures.h"), encoding="utf-8")
    with pytest.raises(AssertionError, match=r"llama\.cpp's headers say something else"):
        contract.run(tmp_path / "contract.cpp", tmp_path)


def test_header_module_and_pyproject_name_the_same_release() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (pinned,) = (each for each in project["dependencies"] if each.startswith("llama-cpp-python"))
    assert pinned == f"llama-cpp-python=={ggml.LLAMA_CPP_PYTHON}"
    header = (FOLDER / "ggml.h").read_text(encoding="utf-8")
    assert re.findall(r'LLAMA_CPP_PYTHON\[\] = "(.+)"', header) == [ggml.LLAMA_CPP_PYTHON]


def test_the_compiled_kernels_are_for_that_release() -> None:
    file = library_file()
    if file is None:
        pytest.skip("there are no compiled kernels here")
    library = ctypes.CDLL(str(file))
    library.edgeembed_kernels_written_for.restype = ctypes.c_char_p
    assert library.edgeembed_kernels_written_for().decode() == ggml.LLAMA_CPP_PYTHON, "compile the kernels again"
