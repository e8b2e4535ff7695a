"""Where the peers are installed, and how: virtual environments, the source of llama.cpp."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ModelName = Literal["minilm", "qwen3", "qwen3-short", "bert12", "bert768"]
"""All but minilm have random weights. qwen3: Qwen3-Embedding-0.6B's shape and vocabulary; qwen3-short: two of its 28 layers.
bert12, bert768: MiniLM's vocabulary, 12 layers of 384 numbers, as bge-small and multilingual-e5-small have, and 6 of 768."""
LLAMA_CPP_PYTHON = "llama-cpp-python==0.3.36"
"""The version in pyproject.toml: every peer that runs llama.cpp runs the same one."""
REPAIRED = {"CXXFLAGS": "-fno-tree-dse -fno-dse"}
"""Cures GCC 12 on processors with AMX, as pyproject.toml does for us."""


@dataclass(frozen=True)
class Weights:
    """One model in the forms that the peers read. gguf: with the weights in Q8_0."""

    name: ModelName
    gguf: Path
    checkpoint: Path

    def typed(self, kind: str) -> Path:
        """Return the file with the weights in another type."""
        return self.gguf.with_name(f"model-{kind}.gguf")


@dataclass(frozen=True)
class Place:
    """Where peers are installed and how they run. torch: the requirement that pip installs as torch."""

    folder: Path
    threads: int
    torch: str = "torch"

    def python(self, environment: str) -> Path:
        """Return the interpreter of a virtual environment."""
        return self.folder / "venvs" / environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def environment(self) -> dict[str, str]:
        """Return the environment variables of all peers: the number of threads, and no access to a model hub."""
        threads = str(self.threads)
        return {
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": "",
        }

    def log(self, peer: str) -> Path:
        return self.folder / "logs" / f"{peer}.log"


def install(place: Place, environment: str, requirements: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
    """Make a virtual environment and install into it; one that is finished is kept. Raises CalledProcessError."""
    python = place.python(environment)
    finished = python.parents[1] / "finished"
    if finished.exists() and finished.read_text() == "\n".join(requirements):
        return
    if not finished.exists():
        shutil.rmtree(python.parents[1], ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *requirements], check=True, env=variables)
    finished.write_text("\n".join(requirements))


def absent(place: Place, environment: str, peer: str) -> str | None:
    """Return a message if a virtual environment is missing; else None."""
    if (place.python(environment).parents[1] / "finished").exists():
        return None
    return f"its virtual environment is not made; `compare setup --peers {peer}` does it"


def llama_cpp_source(folder: Path) -> Path:
    """Fetch llama-cpp-python's sdist with pip and return the folder of llama.cpp inside it."""
    for found in folder.glob("llama_cpp_python-*/vendor/llama.cpp"):
        return found
    folder.mkdir(parents=True, exist_ok=True)
    options = ["-q", "--no-deps", "--no-binary", "llama-cpp-python", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, LLAMA_CPP_PYTHON], check=True)
    (archive,) = folder.glob("llama_cpp_python-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()
    (found,) = folder.glob("llama_cpp_python-*/vendor/llama.cpp")
    return found
