#!/usr/bin/env python3
"""Put llama.cpp, its bindings and our kernels into a wheel of edgeembed's Python code.

    pack.py --wheel WHEEL --source FOLDER --libraries FOLDER --kernels FILE --notices FILE --arch ARCH TARGET

WHEEL is the plain wheel that setuptools builds, --source llama-cpp-python's unpacked source archive, --libraries the folder
with llama.cpp's shared libraries and libgomp, --notices a text about the parts of GCC among them. Writes
edgeembed-VERSION-py3-none-linux_ARCH.whl to TARGET and prints its path; auditwheel then finds out which manylinux it is.
Needs only the standard library.

llama-cpp-python cannot be a requirement of this wheel, as the package index has no wheel of it: its bindings are in
`edgeembed/engine/vendored`, beside their own metadata, whose name no installer sees (edgeembed/engine/llama_package.py).
"""

from __future__ import annotations

import argparse
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from wheel_file import WheelWriter, record, record_row

VENDORED = "edgeembed/engine/vendored"
KERNELS = "edgeembed/engine/kernels/_kernels.so"
BINDINGS = ("llama_cpp.py", "_ctypes_extensions.py", "_ggml.py")
"""The modules that edgeembed imports; the rest of the package (chat formats, templates, a server) needs more packages."""
BINDINGS_NEED = "typing-extensions>=4.5.0"
_LLAMA = re.compile(r"^Requires-Dist: llama[-_.]cpp[-_.]python\b.*\n", re.MULTILINE | re.IGNORECASE)


def pack(wheel: Path, vendored: dict[str, bytes], kernels: bytes | None, platform: str, target: Path) -> Path:
    """Write the wheel with the vendored package to a folder and return its path.

    vendored: files of `vendored_files`. platform: as in wheels' names, such as linux_x86_64.
    Raises ValueError for a wheel that does not require llama-cpp-python.
    """
    name, version, *_ = wheel.name.split("-")
    folder = f"{name}-{version}.dist-info"
    tag = f"py3-none-{platform}"
    target.mkdir(parents=True, exist_ok=True)
    made = target / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel) as plain, WheelWriter(made, folder) as writer:
        for info in plain.infolist():
            data = plain.read(info)
            if info.is_dir() or info.filename == f"{folder}/RECORD" or "/kernels/_kernels." in info.filename:
                continue
            if info.filename == f"{folder}/METADATA":
                data = without_llama(data)
            elif info.filename == f"{folder}/WHEEL":
                data = f"Wheel-Version: 1.0\nGenerator: edgeembed installers\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
            writer.add(info.filename, data)
        if kernels is not None:
            writer.add(KERNELS, kernels)
        for path, data in vendored.items():
            writer.add(f"{VENDORED}/{path}", data)
    return made


def without_llama(metadata: bytes) -> bytes:
    """Return METADATA that requires what the bindings need instead of llama-cpp-python. Raises ValueError if it did not."""
    headers, blank, description = metadata.decode("utf-8").partition("\n\n")
    changed, count = _LLAMA.subn(f"Requires-Dist: {BINDINGS_NEED}\n", headers + "\n")
    if count != 1:
        raise ValueError("the wheel does not require llama-cpp-python: it is not the plain wheel of the source tree")
    return (changed.rstrip("\n") + blank + description).encode()


def vendored_files(source: Path, libraries: Path, notices: Path | None) -> dict[str, bytes]:
    """Return the files of the vendored package with its metadata and licences: path -> content.

    notices: about the parts of GCC; None where another compiler was used.
    """
    version = re.search(r'__version__ = "([^"]+)"', (source / "llama_cpp" / "__init__.py").read_text(encoding="utf-8"))
    if version is None:
        raise ValueError(f"{source}/llama_cpp/__init__.py states no version")
    folder = f"llama_cpp_python-{version[1]}.dist-info"
    metadata = (source / "PKG-INFO").read_text(encoding="utf-8").partition("\n\n")[0]
    kept = [
        line for line in metadata.splitlines() if not line.startswith(("Requires-Dist:", "Provides-Extra:", "Description"))
    ]
    files = {
        # Empty: edgeembed imports the modules without it, and so can whoever looks at them.
        "llama_cpp/__init__.py": f'__version__ = "{version[1]}"\n'.encode(),
        **{f"llama_cpp/{name}": (source / "llama_cpp" / name).read_bytes() for name in BINDINGS},
        **{f"llama_cpp/lib/{path.name}": path.read_bytes() for path in _libraries(libraries)},
        f"{folder}/METADATA": "\n".join([*kept, f"Requires-Dist: {BINDINGS_NEED}", ""]).encode(),
        f"{folder}/licenses/LICENSE.md": (source / "LICENSE.md").read_bytes(),
        f"{folder}/licenses/llama.cpp.txt": (source / "vendor" / "llama.cpp" / "LICENSE").read_bytes(),
    }
    if notices is not None:
        files[f"{folder}/licenses/gcc.txt"] = notices.read_bytes()
    files[f"{folder}/RECORD"] = record([record_row(name, data) for name, data in files.items()], f"{folder}/RECORD")
    return files


_NEEDED = (
    ("libllama.so", "libggml.so", "libggml.so.0", "libggml-base.so.0"),
    ("libllama.dylib", "libggml.dylib", "libggml-base.dylib"),
    ("llama.dll", "ggml.dll", "ggml-base.dll"),
)
"""Of Linux, macOS and Windows."""


def _libraries(folder: Path) -> Iterator[Path]:
    found = sorted(path for path in folder.iterdir() if ".so" in path.name or path.suffix in (".dylib", ".dll"))
    names = [path.name for path in found]
    needed_here = next((names_of for names_of in _NEEDED if names_of[0] in names), _NEEDED[0])
    for needed in needed_here:
        if needed not in names:
            raise ValueError(f"{folder} has no {needed}")
    # Apple's processors of one architecture have one module, which is linked in.
    if not any("ggml-cpu-" in name or name == "libggml-cpu.dylib" for name in names):
        raise ValueError(f"{folder} has no modules for processors: it was built without GGML_CPU_ALL_VARIANTS")
    yield from found


def main() -> int:
    """Pack the wheel that the arguments name."""
    parser = argparse.ArgumentParser(description="Put llama.cpp into a wheel of edgeembed.")
    for name in ("wheel", "source", "libraries", "kernels", "notices"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--arch", required=True)
    parser.add_argument("target", type=Path)
    found = parser.parse_args()
    try:
        vendored = vendored_files(found.source, found.libraries, found.notices)
        made = pack(found.wheel, vendored, found.kernels.read_bytes(), f"linux_{found.arch}", found.target)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{made}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
