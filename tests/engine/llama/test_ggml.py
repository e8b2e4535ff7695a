"""llama/ggml.py against llama.cpp's own headers."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from edgeembed.engine.llama import ggml
from tests.engine.contract import Contract

HEADERS = ("llama.h", "gguf.h", "ggml-backend-impl.h", "ggml-cpu/ggml-cpu-impl.h", "ggml-cpu/traits.h")
NUMBERS = {
    "TYPE_F32": "GGML_TYPE_F32",
    "TYPE_F16": "GGML_TYPE_F16",
    "TYPE_Q8_0": "GGML_TYPE_Q8_0",
    "OP_SOFT_MAX": "GGML_OP_SOFT_MAX",
    "OP_FLASH_ATTN_EXT": "GGML_OP_FLASH_ATTN_EXT",
    "OP_GLU": "GGML_OP_GLU",
    "GLU_OP_SWIGLU": "GGML_GLU_OP_SWIGLU",
    "GLU_OP_GEGLU_ERF": "GGML_GLU_OP_GEGLU_ERF",
    "LOG_DEBUG": "GGML_LOG_LEVEL_DEBUG",
    "LOG_INFO": "GGML_LOG_LEVEL_INFO",
    "LOG_WARN": "GGML_LOG_LEVEL_WARN",
    "LOG_ERROR": "GGML_LOG_LEVEL_ERROR",
    "LOG_CONTINUED": "GGML_LOG_LEVEL_CONT",
    "DEVICE_CPU": "GGML_BACKEND_DEVICE_TYPE_CPU",
    "DEVICE_GPU": "GGML_BACKEND_DEVICE_TYPE_GPU",
    "DEVICE_IGPU": "GGML_BACKEND_DEVICE_TYPE_IGPU",
    "DEVICE_ACCEL": "GGML_BACKEND_DEVICE_TYPE_ACCEL",
}
KINDS = {
    None: "v", ctypes.c_void_p: "p", ctypes.c_char_p: "p", ctypes.c_bool: "b", ctypes.c_float: "f", ggml.InitParameters: "s",
    ggml.GgufParameters: "s",
}  # fmt: skip
"""As in signatures.h; the kind of other types is their size."""


def kinds(types: tuple[Any, ...]) -> str:
    return "".join(KINDS.get(each) or str(ctypes.sizeof(each)) for each in types)


def same_fields(structure: type[ctypes.Structure], theirs: str, *, but: tuple[str, ...] = ()) -> Iterator[str]:
    for name, *_ in structure._fields_:
        if name not in but:
            field = getattr(structure, name)
            yield f"static_assert(offsetof({theirs}, {name}) == {field.offset});"
            yield f"static_assert(sizeof({theirs}::{name}) == {field.size});"


def program() -> str:
    lines = ["#include <cstddef>", '#include "signatures.h"', *(f'#include "{header}"' for header in HEADERS)]
    lines += same_fields(ggml.Tensor, "ggml_tensor")
    lines += same_fields(ggml.InitParameters, "ggml_init_params")
    lines.append(f"static_assert(sizeof(ggml_init_params) == {ctypes.sizeof(ggml.InitParameters)});")
    lines += same_fields(ggml.GgufParameters, "gguf_init_params")
    lines.append(f"static_assert(sizeof(gguf_init_params) == {ctypes.sizeof(ggml.GgufParameters)});")
    lines += same_fields(ggml.DeviceProperties, "ggml_backend_dev_props", but=("rest",))
    lines.append(f"static_assert(sizeof(ggml_backend_dev_props) <= {ctypes.sizeof(ggml.DeviceProperties)});")
    lines += (f"static_assert({theirs} == {getattr(ggml, ours)});" for ours, theirs in NUMBERS.items())
    lines += (f'static_assert(kinds_of(&{name}) == "{kinds(types)}");' for name, types in ggml.SIGNATURES.items())
    lines.append('static_assert(kinds_of(ggml_backend_score_t{}) == "4");')
    lines.append('static_assert(kinds_of(ggml_backend_set_n_threads_t{}) == "vp4");')
    lines.append('static_assert(kinds_of(ggml_backend_dev_get_extra_bufts_t{}) == "pp");')
    callback = (ggml.EvalCallback._restype_, *ggml.EvalCallback._argtypes_)
    lines.append(f'static_assert(kinds_of(ggml_backend_sched_eval_callback{{}}) == "{kinds(callback).replace("1", "b")}");')
    return "\n".join([*lines, "int main() {}", ""])


@pytest.mark.e2e
@pytest.mark.slow
def test_structures_numbers_and_functions_are_those_of_llama_cpp(contract: Contract, tmp_path: Path) -> None:
    source = tmp_path / "contract.cpp"
    source.write_text(program(), encoding="utf-8")
    contract.run(source, tmp_path)


def test_the_installed_release_is_the_one_that_the_module_is_written_for() -> None:
    assert version("llama-cpp-python") == ggml.LLAMA_CPP_PYTHON
    assert ggml.function("ggml_version")().decode().partition("-")[0] == ggml.GGML


@pytest.mark.parametrize("name", ggml.SIGNATURES)
def test_every_function_is_in_the_installed_llama_cpp(name: str) -> None:
    assert ggml.function(name)


def test_only_this_module_uses_private_parts_of_llama_cpp() -> None:
    private = re.compile(r"\blib\._[a-z]|\bllama_cpp\._[a-z]|\bctypes\.Structure\b|\b_Z\d+\w*ggml")
    package = Path(ggml.__file__).parents[2]
    users = {path.name for path in package.rglob("*.py") if private.search(path.read_text(encoding="utf-8"))}
    assert users == {"ggml.py", "vulkan.py"}  # the structures there are of Vulkan's loader


def test_the_bindings_load_nothing_else_of_their_package() -> None:
    code = "import sys; import edgeembed.engine.llama.bindings; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if name.startswith("llama_cpp")}
    assert loaded <= {"llama_cpp.llama_cpp", "llama_cpp._ctypes_extensions", "llama_cpp._ggml"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows searches one library at a time")
def test_an_absent_function_raises_without_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a release wheel only `bindings` finds the package: an import made the mode `cpu` fail there."""
    monkeypatch.setattr(sys, "meta_path", [])
    with pytest.raises(AttributeError):
        ggml.find_symbol("no_function_of_ggml")
