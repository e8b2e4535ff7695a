#!/usr/bin/env python3
"""Make a folder with a Python and packages relocatable: `relocate.py copy | link FOLDER`.

`copy` copies the interpreter that runs this script and its standard library, without parts that a daemon never uses.
`link` then copies all shared libraries that files in the folder need, except glibc's and Vulkan's loader, and makes the
files find them in FOLDER/lib. The result runs on any Linux of this architecture with a glibc at least as new as this
machine's. Needs patchelf, ldd and strip.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

NEVER_USED = (
    "site-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "turtle.py", "lib2to3", "config-*", "__pycache__",
    "_tkinter*.so", "_test*.so", "xxlimited*.so", "pydoc_data", "EXTERNALLY-MANAGED",
    "readline*.so", "_curses*.so", "_gdbm*.so", "_dbm*.so", "nis*.so",
)  # fmt: skip
"""Parts of the standard library that are not copied; those in the last line because of their libraries, one of which is
under the GPL. `ensurepip` is copied, because it installs pip."""

SYSTEM_LIBRARIES = re.compile(
    r"(ld-linux.*|linux-vdso|libc|libm|libdl|libpthread|librt|libresolv|libutil|libnsl|libanl|libmvec|libvulkan)\.so"
)
"""glibc: its parts must match each other and the loader, and every Linux has them. Vulkan's loader: it belongs to the
system's drivers; the module that needs it is not loaded without it."""

ELF_MAGIC = b"\x7fELF"


def copy_python(folder: Path) -> Path:
    """Copy interpreter and standard library; return the path of the new interpreter."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    (folder / "bin").mkdir(parents=True)
    interpreter = folder / "bin" / "python3"
    shutil.copy(Path(sys.executable).resolve(), interpreter)
    interpreter.chmod(0o755)
    shutil.copytree(
        sysconfig.get_path("stdlib"), folder / "lib" / version, symlinks=False, ignore=shutil.ignore_patterns(*NEVER_USED)
    )
    return interpreter


def link_libraries(folder: Path) -> set[str]:
    """Copy the libraries that files below the folder need; return their names."""
    copied: set[str] = set()
    waiting = list(elf_files(folder))
    while waiting:
        file = waiting.pop()
        needed = {name: path for name, path in libraries_of(file).items() if not _is_below(path, folder)}
        for name, path in needed.items():
            target = folder / "lib" / name
            if not target.exists():
                shutil.copy(path.resolve(), target)
                target.chmod(0o644)
                # Before patchelf: strip damages files that it has changed.
                subprocess.run(["strip", "--strip-unneeded", str(target)], check=True)
                waiting.append(target)
            copied.add(name)
        if needed or file.parent == folder / "bin":
            _add_search_path(file, os.path.relpath(folder / "lib", file.parent))
    return copied


def elf_files(folder: Path) -> Iterator[Path]:
    """Yield programs and shared libraries."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == ELF_MAGIC:
                    yield path


def libraries_of(file: Path) -> dict[str, Path]:
    """Return the libraries that the loader finds for a file, except SYSTEM_LIBRARIES, as name -> path.

    Raises RuntimeError if one is missing.
    """
    output = subprocess.run(["ldd", str(file)], capture_output=True, text=True, check=False).stdout
    found = {}
    for line in output.splitlines():
        name, arrow, path = (part.strip() for part in line.partition("=>"))
        if not arrow or SYSTEM_LIBRARIES.match(name):
            continue
        if path.startswith("not found"):
            if (file.parent / name).exists():
                continue  # already loaded when this file is
            raise RuntimeError(f"{file} needs {name}, which is not installed on this machine")
        found[name] = Path(path.rsplit(" (", 1)[0])
    return found


def _add_search_path(file: Path, relative: str) -> None:
    """Add a folder, relative to that of the file, to the search path for its libraries."""
    current = subprocess.run(
        ["patchelf", "--print-rpath", str(file)], capture_output=True, text=True, check=True
    ).stdout.strip()
    # Absolute folders of the build machine do not exist elsewhere, or belong to somebody else there.
    paths = [part for part in current.split(":") if part.startswith("$ORIGIN")]
    wanted = f"$ORIGIN/{relative}"
    subprocess.run(["patchelf", "--set-rpath", ":".join(dict.fromkeys([*paths, wanted])), str(file)], check=True)


def _is_below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


if __name__ == "__main__":
    task, target = sys.argv[1], Path(sys.argv[2]).resolve()
    if task == "copy":
        copy_python(target)
    elif task == "link":
        sys.stderr.write(f"copied: {', '.join(sorted(link_libraries(target)))}\n")
    else:
        sys.exit(f"unknown task {task!r}; expected copy or link")
