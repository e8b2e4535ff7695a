"""Print what this machine lacks for measuring on a graphics card.

python -m tests.benchmarks.gpu.missing
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass

from edgeembed.engine.gpu.inventory import take_inventory

QUERY = "name,driver_version,memory.total,memory.used"


@dataclass(frozen=True)
class Card:
    """The first card, as nvidia-smi describes it. Memory in MiB, of all processes together."""

    name: str
    driver: str
    memory_total: int
    memory_used: int


def card() -> Card | None:
    """Ask nvidia-smi; return None if it is missing or finds no card."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    fields = [field.strip() for field in done.stdout.partition("\n")[0].split(",")]
    if done.returncode or len(fields) != 4:
        return None
    return Card(fields[0], fields[1], int(fields[2]), int(fields[3]))


def missing_requirements() -> list[str]:
    """Return the requirements of edgeembed and llama-cpp-python that are not installed, or in another version."""
    from packaging.requirements import Requirement

    found: list[str] = []
    for package in ("edgeembed", "llama-cpp-python"):
        try:
            wanted = importlib.metadata.requires(package) or []
        except importlib.metadata.PackageNotFoundError:
            found.append(package)
            continue
        for each in map(Requirement, wanted):
            if each.marker and not each.marker.evaluate({"extra": ""}):
                continue
            try:
                version = importlib.metadata.version(each.name)
            except importlib.metadata.PackageNotFoundError:
                version = ""
            if not version or not each.specifier.contains(version, prereleases=True):
                found.append(f"{each.name} {each.specifier} (here: {version or 'none'})")
    return found


def torch_problem(python: str = sys.executable) -> str | None:
    """Return why torch, in the peer's interpreter, cannot be measured on a card; None if it can."""
    look = "import torch, sentence_transformers, transformers; print('cuda', torch.cuda.is_available(), torch.__version__)"
    done = subprocess.run([python, "-c", look], capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["it ends"])[-1]
    found = re.search(r"cuda (True|False) (\S+)", done.stdout)
    return None if found and found[1] == "True" else f"torch {found[2] if found else ''} sees no CUDA device"


def missing(peer_python: str = sys.executable) -> list[str]:
    """Return what is missing, one line each; empty if everything can be measured on a card."""
    lines: list[str] = []
    if card() is None:
        lines.append("no card: nvidia-smi is not there, or finds none")
    inventory = take_inventory()
    if not inventory.gpus:
        found = ", ".join(inventory.backends) or inventory.problem or "nothing"
        lines.append(
            f"llama.cpp finds no GPU (backends: {found})" + "".join(f"; {said}" for said in inventory.messages[-2:])
        )
    if problem := torch_problem(peer_python):
        lines.append(f"no peer: {problem}")
    return lines + [f"package: {each}" for each in missing_requirements()]


if __name__ == "__main__":
    here = card()
    print(f"card: {here.name}, driver {here.driver}, {here.memory_total} MiB" if here else "card: none")
    for line in missing():
        print(f"MISSING {line}")
