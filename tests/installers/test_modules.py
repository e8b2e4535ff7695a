"""Modules for graphics cards: adding one to a wheel, and what the build scripts refuse. No module is compiled here."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64encode
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.installers.loading import INSTALLERS, load

NAME = "llama_cpp_python-0.3.36-py3-none-linux_x86_64.whl"
METADATA = "Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: 0.3.36\nRequires-Dist: numpy\n\nVersion: 1 was slower\n"


def make_wheel(folder: Path, *, modules: bool = True) -> Path:
    wheel = folder / NAME
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("llama_cpp/__init__.py", "")
        made.writestr("llama_cpp/lib/libllama.so", b"library")
        if modules:
            made.writestr("llama_cpp/lib/libggml-cpu-haswell.so", b"kernels")
        made.writestr("llama_cpp_python-0.3.36.dist-info/METADATA", METADATA)
        made.writestr("llama_cpp_python-0.3.36.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\n")
        made.writestr("llama_cpp_python-0.3.36.dist-info/RECORD", "")
    return wheel


def test_pip_installs_the_wheel_with_two_modules_and_their_requirements(tmp_path: Path) -> None:
    module = tmp_path / "libggml-cuda.so"
    module.write_bytes(b"cuda kernels")
    first = load("wheel/add_module.py").add_module(make_wheel(tmp_path), module, "cu130", tmp_path / "out")
    assert first.name == "llama_cpp_python-0.3.36+cu130-py3-none-linux_x86_64.whl"
    module.write_bytes(b"vulkan kernels")
    made = load("wheel/add_module.py").add_module(first, module, "vulkan", tmp_path / "out")
    assert made.name == "llama_cpp_python-0.3.36+cu130.vulkan-py3-none-linux_x86_64.whl"
    # Works on other platforms, too: nothing in it is run.
    options = ["--no-deps", "--no-index", "--quiet", "--target", str(tmp_path / "site")]
    if sys.platform != "linux":
        options += ["--platform", "linux_x86_64", "--only-binary=:all:"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(made)], check=True)
    assert (tmp_path / "site/llama_cpp/lib/libggml-cuda.so").read_bytes() == b"cuda kernels"
    assert (tmp_path / "site/llama_cpp/lib/libggml-vulkan.so").read_bytes() == b"vulkan kernels"
    found = PathDistribution(tmp_path / "site/llama_cpp_python-0.3.36+cu130.vulkan.dist-info")
    assert sorted(found.requires or []) == ["numpy", "nvidia-cublas>=13.0,<14", "nvidia-cuda-runtime>=13.0,<14"]
    assert Requirement("llama-cpp-python==0.3.36").specifier.contains(found.version)
    assert "Version: 1 was slower" in (found.read_text("METADATA") or "")
    with zipfile.ZipFile(made) as archive:
        record = archive.read("llama_cpp_python-0.3.36+cu130.vulkan.dist-info/RECORD").decode()
    digest = urlsafe_b64encode(hashlib.sha256(b"cuda kernels").digest()).rstrip(b"=").decode()
    assert f"llama_cpp/lib/libggml-cuda.so,sha256={digest},12\n" in record


def test_a_module_that_is_added_again_replaces_the_first_one(tmp_path: Path) -> None:
    module, add = tmp_path / "libggml-vulkan.so", load("wheel/add_module.py").add_module
    module.write_bytes(b"old kernels")
    first = add(make_wheel(tmp_path), module, "vulkan", tmp_path / "first")
    module.write_bytes(b"new kernels")
    second = add(first, module, "vulkan", tmp_path / "second")
    assert second.name == first.name == "llama_cpp_python-0.3.36+vulkan-py3-none-linux_x86_64.whl"
    with zipfile.ZipFile(second) as archive:
        assert archive.read("llama_cpp/lib/libggml-vulkan.so") == b"new kernels"
        assert len(set(archive.namelist())) == len(archive.namelist())
    with pytest.raises(ValueError, match="would be overwritten"):
        add(first, module, "vulkan", tmp_path / "first")


def test_a_wheel_that_does_not_load_modules_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not load modules"):
        load("wheel/add_module.py").add_module(make_wheel(tmp_path, modules=False), tmp_path / "x", "cu130", tmp_path)
    with pytest.raises(ValueError, match="invalid label 'rocm'"):
        load("wheel/add_module.py").add_module(make_wheel(tmp_path), tmp_path / "x", "rocm", tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="a recipe for bash")
@pytest.mark.parametrize(
    ("arguments", "release", "output"),
    [
        ([], "13.0", "--arch is required"),
        (["--arch", "hopper", "out"], "13.0", "numbers separated by ;"),
        (["--arch", "90"], "13.0", "usage"),
        (["--arch", "90", "out"], "12.4", "this script needs CUDA 13"),
        (["--arch", "90", "out"], None, "nvcc not found"),
    ],
)
def test_what_cudas_build_script_refuses(tmp_path: Path, arguments: list[str], release: str | None, output: str) -> None:
    nvcc = tmp_path / "nvcc"
    if release:
        nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n")
        nvcc.chmod(0o755)
    bash = shutil.which("bash")
    assert bash
    variables = {"PATH": "/usr/bin:/bin", "NVCC": str(nvcc)}
    command = [bash, str(INSTALLERS / "cuda" / "build.sh"), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path, env=variables)
    assert run.returncode == 1
    assert output in run.stderr


GLSLC = """#!/bin/sh
case $1 in --version) echo "shaderc v2020.5 v2020.5"; exit ;; esac
echo "glslc: error: invalid value 'vulkan1.3' in '--target-env=vulkan1.3'" >&2; exit 1
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a recipe for bash")
@pytest.mark.parametrize(
    ("arguments", "glslc", "output"),
    [
        ([], True, "usage"),
        (["--headers", ".", "--headers-from", "trixie", "out"], True, "exclude each other"),
        (["out"], False, "apt install glslc"),
        (["out"], True, "shaderc v2020.5 v2020.5 cannot compile for Vulkan 1.3"),
    ],
)
def test_what_vulkans_build_script_refuses(tmp_path: Path, arguments: list[str], glslc: bool, output: str) -> None:
    compiler = tmp_path / "glslc"
    if glslc:
        compiler.write_text(GLSLC)
        compiler.chmod(0o755)
    assert output in refusal(tmp_path, arguments, compiler)


HEADERS = {
    "vulkan/vulkan_core.h": "#define VK_HEADER_VERSION 239\n",
    "vulkan/vulkan.hpp": "namespace vk { int at_all; }\n",
}


@pytest.mark.skipif(sys.platform == "win32", reason="a recipe for bash")
@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not on this machine")
@pytest.mark.parametrize(
    ("headers", "output"),
    [
        ({"vulkan/vulkan.hpp": "#error none"}, "vulkan/vulkan.hpp not found"),
        (HEADERS, "too old: release 239 has no vk::LayerSettingEXT"),
    ],
)
def test_vulkans_build_script_names_headers_that_are_missing_or_too_old(
    tmp_path: Path, headers: dict[str, str], output: str
) -> None:
    compiler = tmp_path / "glslc"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    for name, text in headers.items():
        file = tmp_path / "include" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert output in refusal(tmp_path, ["--headers", str(tmp_path / "include"), "out"], compiler)


def refusal(folder: Path, arguments: list[str], glslc: Path) -> str:
    bash = shutil.which("bash")
    assert bash
    variables = {"PATH": "/usr/bin:/bin", "GLSLC": str(glslc), "PYTHON": sys.executable}
    command = [bash, str(INSTALLERS / "vulkan" / "build.sh"), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=folder, env=variables)
    assert run.returncode == 1
    return run.stderr
