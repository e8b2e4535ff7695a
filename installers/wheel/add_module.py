#!/usr/bin/env python3
"""Add a module of llama.cpp for graphics cards to a release wheel, with its requirements in the metadata.

    add_module.py WHEEL MODULE LABEL FOLDER      prints the path of the new wheel, NAME-VERSION+LABEL-…

WHEEL is a wheel of build.sh, or one of llama-cpp-python whose llama.cpp loads modules. LABEL is cu and CUDA's release
without its dot, such as cu130, or vulkan. A wheel may get both modules: +cu130.vulkan. Wheels differ in the local part of
the version; pins of a version accept all (PEP 440). The libraries that CUDA's module needs are requirements from the package
index: the wheel does not contain NVIDIA's. Vulkan's needs the system's loader, which no index has. Needs only the standard
library.
"""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from wheel_file import WheelWriter, record_row

MODULES = re.compile(r"(.*llama_cpp/lib)/libggml-cpu-.*\.so")
LABEL = re.compile(r"vulkan|cu(\d+)(\d)")


def add_module(wheel: Path, module: Path, label: str, folder: Path) -> Path:
    """Write the wheel with the module to the folder and return its path.

    Raises ValueError for an invalid label, and for a wheel whose llama.cpp does not load modules.
    """
    match = LABEL.fullmatch(label)
    if not match:
        raise ValueError(f"invalid label {label!r}; expected vulkan or a CUDA release such as cu130")
    name, version, *tags = wheel.name.split("-")
    release, _, local = version.partition("+")
    labelled = f"{release}+{'.'.join(dict.fromkeys([*filter(None, local.split('.')), label]))}"
    old, new = f"{name}-{version}.dist-info/", f"{name}-{labelled}.dist-info/"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "-".join((name, labelled, *tags))
    if target.exists() and target.samefile(wheel):
        raise ValueError(f"{wheel} would be overwritten; choose another folder")
    with zipfile.ZipFile(wheel) as source:
        libraries = next((found[1] for entry in source.namelist() if (found := MODULES.fullmatch(entry))), None)
        if libraries is None:
            raise ValueError(f"{wheel.name} does not load modules; build it with installers/wheel/build.sh")
        place = f"{libraries}/libggml-{'vulkan' if label == 'vulkan' else 'cuda'}.so"
        data = module.read_bytes()
        with WheelWriter(target, new.rstrip("/")) as writer:
            for info in source.infolist():
                if info.filename in (place, f"{old}RECORD"):
                    continue
                content = source.read(info)
                if info.filename == f"{old}METADATA":
                    content = _metadata(content, labelled, match)
                elif info.filename.endswith("/RECORD"):  # of the vendored package: edgeembed knows a build by it
                    content = _record(content, place, data)
                writer.add(info.filename.replace(old, new), content)
            writer.add(place, data)
    return target


def _metadata(data: bytes, version: str, label: re.Match[str]) -> bytes:
    major, minor = label.groups()
    packages = ("cublas", "cuda-runtime") if major else ()
    needs = "".join(f"Requires-Dist: nvidia-{each}>={major}.{minor},<{int(major) + 1}\n" for each in packages)
    # The first match is the header; the description follows later.
    text = data.decode("utf-8")
    return re.sub(r"^Version: .*\n", f"Version: {version}\n{needs}", text, count=1, flags=re.MULTILINE).encode()


def _record(rows: bytes, place: str, module: bytes) -> bytes:
    name = place[place.index("llama_cpp/") :]
    others = [line for line in rows.decode().splitlines() if line.partition(",")[0] != name]
    return "\n".join([",".join(map(str, record_row(name, module))), *others, ""]).encode()


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(f"usage: {sys.argv[0]} WHEEL MODULE LABEL FOLDER")
    try:
        made = add_module(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
    except ValueError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{made}\n")
