"""Compares the rows that 64-bit Arm computes, under QEMU, with those of this machine.

    python -m tests.arm.check FOLDER MODEL.gguf...

FOLDER: what tests/arm/build.sh has built. Prints a table, and exits with 1 if a row or a module is not as it should be. It
measures no speed: QEMU translates every instruction.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.arm import rows

ROOT = Path(__file__).parents[2]
LEAST_COSINE = 0.999
TEXTS = [
    "hello",
    "where does the river meet the sea",
    "The engine was silent in the early morning, and a letter lay under the window of the copper house.",
    "Überraschung: 12.5 % of 東京's gardens",
    "one two three four five six seven eight nine ten " * 8,
]
PROCESSORS = {
    "cortex-a53": "cpu-armv8.0_1",
    "cortex-a76": "cpu-armv8.2_2",
    "max,sve=off,sme=off": "cpu-armv8.2_2",
    "max,sme=off": "cpu-armv8.6_2",
}
"""QEMU's models of processors, and the module that is best for each."""


def compute(command: list[str], model: Path, environ: dict[str, str]) -> dict[str, Any]:
    """Return what rows.py prints when this command is its interpreter."""
    done = subprocess.run(
        [*command, rows.__file__, str(model), json.dumps(TEXTS)],
        env={**os.environ, **environ}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, timeout=600,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def unit_rows(found: dict[str, Any]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return the rows, each of length 1."""
    array = np.array(found["rows"])
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def main(arguments: list[str]) -> int:
    """Print the table, and return the exit status."""
    if len(arguments) < 2:
        print(__doc__)
        return 2
    folder, *models = map(Path, arguments)
    interpreter = next((folder / "sysroot/usr/bin").glob("python3.*"))
    packages = str(folder / "packages")  # the wheel's edgeembed, not the one beside this file
    wrong = 0
    print("| file | processor | module | least cosine to this machine | |\n|---|---|---|---|---|")
    for model in models:
        here = unit_rows(compute([sys.executable], model, {"PYTHONPATH": str(ROOT)}))
        for processor, module in PROCESSORS.items():
            qemu = ["qemu-aarch64-static", "-cpu", processor, "-L", str(folder / "sysroot"), str(interpreter)]
            began = time.monotonic()
            found = compute(qemu, model, {"PYTHONPATH": packages})
            least = (unit_rows(found) * here).sum(axis=1).min()
            good = least >= LEAST_COSINE and found["modules"] == [module]
            wrong += not good
            verdict = f"{time.monotonic() - began:.0f} s" if good else f"WRONG: expected {module}, {LEAST_COSINE}"
            print(f"| {model.name} | {processor} | {', '.join(found['modules'])} | {least:.5f} | {verdict} |", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
