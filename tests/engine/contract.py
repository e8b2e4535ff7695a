"""Compiles C++ against the headers of llama.cpp, as its Python package's source archive has them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import NoReturn

import pytest

LLAMA_CPP = "vendor/llama.cpp"
INCLUDE_FOLDERS = ("ggml/include", "ggml/src", "include")
"""The folders of llama.cpp that have the headers; nothing else of the archive is extracted."""
SECONDS = 300


def unavailable(why: str) -> NoReturn:
    """Skip the test with a reason; in CI, fail it: there it has to run."""
    if os.environ.get("CI"):
        pytest.fail(f"{why}, and in CI this test has to run")
    pytest.skip(why)


def fetch_headers(version: str, target: Path) -> None:
    """Download llama-cpp-python's source archive from the user's package index, and put llama.cpp's headers into `target`.

    pip asks the archive for its metadata, which builds nothing.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=llama-cpp-python",
             "--disable-pip-version-check", "--no-input", f"--dest={folder}", f"llama-cpp-python=={version}"],
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        archives = list(Path(folder).glob("*.tar.gz"))
        if not archives:
            unavailable(f"pip cannot download the source of llama-cpp-python {version}: {done.stderr.strip()[-500:]}")
        extract_headers(archives[0], target)


def extract_headers(archive: Path, target: Path) -> None:
    """Extract the headers of llama.cpp from a source archive."""
    with tarfile.open(archive) as source:
        for member in source:
            path = PurePosixPath(*PurePosixPath(member.name).parts[1:])  # without the folder with the version
            if member.isfile() and path.suffix == ".h" and path.is_relative_to(LLAMA_CPP) and ".." not in path.parts:
                content = source.extractfile(member)
                assert content is not None
                file = target / path.relative_to(LLAMA_CPP)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content.read())


class Contract:
    """A C++ compiler with the headers of one llama.cpp. headers: its folder, as `extract_headers` makes it."""

    def __init__(self, headers: Path) -> None:
        self.headers = headers

    def run(self, source: Path, folder: Path) -> None:
        """Compile a program in `folder` and run it; both have to succeed."""
        compiler = shutil.which("g++") or shutil.which("clang++")
        if compiler is None:
            unavailable("there is no g++ or clang++")
        program = folder / source.stem
        # Optimised, so that the headers' inline functions that nothing calls need no library.
        command = [compiler, "-std=c++17", "-O1", f"-I{source.parent}", f"-I{Path(__file__).parent}"]
        command += [f"-I{self.headers / name}" for name in INCLUDE_FOLDERS]
        built = subprocess.run([*command, str(source), "-o", str(program)], capture_output=True, text=True, check=False)
        assert built.returncode == 0, f"llama.cpp's headers say something else:\n{built.stderr}"
        done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"llama.cpp's headers say something else:\n{done.stdout}"
