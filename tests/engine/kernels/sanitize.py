"""Runs the kernels' own tests under AddressSanitizer and UndefinedBehaviorSanitizer: `python -m
tests.engine.kernels.sanitize`.

It works on a copy of the source tree in a temporary folder, with kernels that are compiled for it. Needs g++ and Linux;
further arguments go to pytest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[3]
KERNELS = Path("edgeembed/engine/kernels")
TESTS = tuple(f"tests/engine/kernels/test_{part}.py" for part in ("kernels", "products", "random_graphs", "rows"))
FLAGS = (
    "-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
    "-std=c++17", "-fvisibility=hidden", "-fPIC", "-shared", "-Wno-uninitialized", "-Wno-maybe-uninitialized",
)  # fmt: skip
NOT_SOURCE = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "*.so")


def build(tree: Path) -> None:
    """Compile the kernels of a source tree with both sanitizers."""
    library = tree / KERNELS / f"_kernels{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run(["g++", *FLAGS, str(tree / KERNELS / "kernels.cpp"), "-o", str(library)], check=True)


def runtime(name: str) -> str:
    """Return the path of a library of g++'s."""
    done = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main(arguments: list[str]) -> int:
    """Print the sanitizers' reports, and return pytest's exit status; not 0 with any report."""
    with tempfile.TemporaryDirectory(prefix="edgeembed-sanitize-") as folder:
        tree = shutil.copytree(ROOT, Path(folder) / "tree", ignore=NOT_SOURCE)
        shutil.copytree(ROOT / ".ci" / "typed", tree / ".ci" / "typed", symlinks=True)
        build(tree)
        environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tree), str(tree / ".ci" / "typed")]),
            # Python is not compiled with AddressSanitizer, so its runtime has to be loaded first; libstdc++ beside it,
            # because the runtime looks up the function that throws exceptions when it starts.
            "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libstdc++.so')}",
            # To files: pytest captures stderr, and loses it when a sanitizer ends the process. Python frees little at exit.
            "ASAN_OPTIONS": f"detect_leaks=0:log_path={folder}/report",
            "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={folder}/report",
            "PYTHONMALLOC": "malloc",  # without Python's own allocator, so that each array has its bounds checked
        }
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", *TESTS, *arguments]
        status = subprocess.run(command, cwd=tree, env=environ, check=False).returncode
        reports = sorted(Path(folder).glob("report.*"))
        for report in reports:
            print(report.read_text(encoding="utf-8", errors="replace"))
        print(f"{len(reports)} reports of the sanitizers")
        return status or len(reports)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
