#!/usr/bin/env python3
"""Build a wheel of edgeembed with llama.cpp inside for the system that runs this: macOS or Windows (Linux has build.sh).

    build_here.py FOLDER [--llama WHEEL]      writes edgeembed-VERSION-py3-none-PLATFORM.whl to FOLDER and prints its path

--llama names a wheel of llama-cpp-python that was built before. Needs Python 3.11 or later with pip, a C++ compiler (Xcode's
command line tools, Visual Studio's build tools) and network access: CMake and llama.cpp's source come from the package
index. The wheel has no kernels of ours.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import metadata
import pack

SOURCE = Path(__file__).resolve().parents[2]

MACOS = "11.0"
"""The oldest macOS that the libraries are compiled for."""
_COMMON = "-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF -DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON"
CMAKE_ARGS = {
    # All supported Macs have Metal; the CPU kernels are those of the oldest processor of the architecture.
    "darwin": f"{_COMMON} -DGGML_METAL_EMBED_LIBRARY=ON",
    # As in llama.sh: one module for each generation of processors, next to the library.
    "win32": f"{_COMMON} -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON -DCMAKE_INSTALL_BINDIR=llama_cpp/lib",
}
RUNTIME = ("msvcp140.dll", "vcomp140.dll", "vcruntime140.dll", "vcruntime140_1.dll")
"""Microsoft's libraries that the compiler's results need, and that not every Windows has. Programs may ship them."""


def platform_tag(system: str = sys.platform, machine: str | None = None) -> str:
    """Return the platform in the wheel's name. Raises ValueError for a system that has no such wheel."""
    machine = (machine or platform.machine()).lower()
    match system:
        case "darwin":
            return f"macosx_{MACOS.replace('.', '_')}_{machine}"
        case "win32" if machine == "amd64":
            return "win_amd64"
        case "linux":
            return f"linux_{machine}"  # for tests; build.sh makes those that are published
        case _:
            raise ValueError(f"no wheel is made for {system} on {machine}")


def run(*command: str, **environ: str) -> None:
    """Run a program, whose output goes to stderr."""
    subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, **environ})


def unpacked_source(work: Path) -> Path:
    """Return the folder of llama-cpp-python's unpacked source archive."""
    requirement = metadata.VALUES["llama"](metadata.read_project())
    run(
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        "llama-cpp-python",
        "--dest",
        str(work),
        requirement,
    )
    (archive,) = work.glob("llama_cpp_python-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(work / "source", filter="data")
    (source,) = (work / "source").iterdir()
    return source


def llama_wheel(source: Path, work: Path) -> Path:
    """Compile llama.cpp, and return the wheel of llama-cpp-python."""
    machine = platform.machine()
    environ = {"CMAKE_ARGS": CMAKE_ARGS.get(sys.platform, _COMMON)}
    if sys.platform == "darwin":
        environ |= {"MACOSX_DEPLOYMENT_TARGET": MACOS, "ARCHFLAGS": f"-arch {machine}"}
        environ["CMAKE_ARGS"] += f" -DCMAKE_OSX_ARCHITECTURES={machine}"
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(work / "llama"), str(source), **environ)
    (wheel,) = (work / "llama").glob("llama_cpp_python-*.whl")
    return wheel


def plain_wheel(work: Path) -> Path:
    """Return a wheel of edgeembed's Python code, which setuptools builds in a copy of the source tree."""
    copy = work / "plain"
    for name in ("edgeembed", "convert", "models"):
        shutil.copytree(
            SOURCE / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "_kernels*.so", "_kernels*.pyd")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(SOURCE / name, copy)
    project = copy / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    without, count = re.subn(
        r"^\[\[tool\.setuptools\.ext-modules\]\]\n.*?^optional = true\n", "", text, flags=re.MULTILINE | re.DOTALL
    )
    if count != 1:
        raise ValueError("pyproject.toml has no [[tool.setuptools.ext-modules]] that ends with `optional = true`")
    project.write_text(without, encoding="utf-8")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(work), str(copy))
    (wheel,) = work.glob("edgeembed-*.whl")
    return wheel


def extract_libraries(wheel: Path, folder: Path) -> Path:
    """Copy the libraries that a wheel of llama-cpp-python loads into a new folder, and return that."""
    folder.mkdir()
    with zipfile.ZipFile(wheel) as packed:
        for name in packed.namelist():
            path = Path(name)
            if name.startswith("llama_cpp/lib/") and (".so" in path.name or path.suffix in (".dylib", ".dll")):
                (folder / path.name).write_bytes(packed.read(name))
    return folder


def add_runtime(folder: Path, system: Path) -> None:
    """Copy Microsoft's libraries to those of llama.cpp. system: Windows' folder of libraries."""
    for name in RUNTIME:
        shutil.copy(system / name, folder)


def build(folder: Path, llama: Path | None) -> Path:
    """Write the wheel to a folder and return its path."""
    tag = platform_tag()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        source = unpacked_source(work)
        libraries = extract_libraries(llama or llama_wheel(source, work), work / "libraries")
        if sys.platform == "win32":
            add_runtime(libraries, Path(os.environ["SYSTEMROOT"]) / "System32")
        return pack.pack(plain_wheel(work), pack.vendored_files(source, libraries, None), None, tag, folder)


def main() -> None:
    """Build the wheel that the arguments describe."""
    parser = argparse.ArgumentParser(description="Build a wheel of edgeembed with llama.cpp inside.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--llama", type=Path, help="a wheel of llama-cpp-python that was built before")
    given = parser.parse_args()
    try:
        made = build(given.folder, given.llama)
    except (ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"build_here.py: {error}")
    sys.stdout.write(f"{made}\n")


if __name__ == "__main__":
    main()
