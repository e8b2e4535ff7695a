#!/usr/bin/env python3
"""Add a module of llama.cpp for graphics cards to a wheel of llama-cpp-python, with its requirements in the metadata.

    add_module.py WHEEL MODULE LABEL FOLDER      prints the path of the new wheel, NAME-VERSION+LABEL-…

LABEL is cu and CUDA's release without its dot, such as cu130, or vulkan. A wheel may get both modules: +cu130.vulkan. Wheels
differ in the local part of the version; pins of a version accept all (PEP 440). The libraries that CUDA's module needs are
requirements from the package index: the wheel does not contain NVIDIA's. Vulkan's needs the system's loader, which no index
has. Format: "Binary distribution format" of the Python Packaging User Guide. Needs only the standard library.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import sys
import zipfile
from pathlib import Path

LIBRARIES = "llama_cpp/lib"
LABEL = re.compile(r"vulkan|cu(\d+)(\d)")


def add_module(wheel: Path, module: Path, label: str, folder: Path) -> Path:
    """Write the wheel with the module to the folder and return its path.

    Raises ValueError for an invalid label, and for a wheel whose llama.cpp does not load modules.
    """
    match = LABEL.fullmatch(label)
    if not match:
        raise ValueError(f"invalid label {label!r}; expected vulkan or a CUDA release such as cu130")
    place = f"{LIBRARIES}/libggml-{'vulkan' if label == 'vulkan' else 'cuda'}.so"
    name, version, *tags = wheel.name.split("-")
    release, _, local = version.partition("+")
    labelled = f"{release}+{'.'.join(dict.fromkeys([*filter(None, local.split('.')), label]))}"
    old, new = f"{name}-{version}.dist-info/", f"{name}-{labelled}.dist-info/"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "-".join((name, labelled, *tags))
    if target.exists() and target.samefile(wheel):
        raise ValueError(f"{wheel} would be overwritten; choose another folder")
    with zipfile.ZipFile(wheel) as source:
        if not any(re.fullmatch(rf"{LIBRARIES}/libggml-cpu-.*\.so", entry) for entry in source.namelist()):
            raise ValueError(f"{wheel.name} does not load modules; build it with installers/bundle/build-llama.sh")
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as made:
            records: list[tuple[str, str, int | str]] = []

            def write(info: zipfile.ZipInfo, data: bytes) -> None:
                made.writestr(info, data, zipfile.ZIP_DEFLATED)
                digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                records.append((info.filename, f"sha256={digest}", len(data)))

            for info in source.infolist():
                data = source.read(info)
                if info.filename in (place, f"{old}RECORD"):
                    continue
                if info.filename == f"{old}METADATA":
                    data = _metadata(data, labelled, match)
                info.filename = info.filename.replace(old, new)
                write(info, data)
            library = zipfile.ZipInfo(place)
            library.external_attr = 0o100755 << 16
            write(library, module.read_bytes())
            table = io.StringIO()
            csv.writer(table, lineterminator="\n").writerows([*records, (f"{new}RECORD", "", "")])
            made.writestr(f"{new}RECORD", table.getvalue())
    return target


def _metadata(data: bytes, version: str, label: re.Match[str]) -> bytes:
    major, minor = label.groups()
    packages = ("cublas", "cuda-runtime") if major else ()
    needs = "".join(f"Requires-Dist: nvidia-{each}>={major}.{minor},<{int(major) + 1}\n" for each in packages)
    # The first match is the header; the description follows later.
    text = data.decode("utf-8")
    return re.sub(r"^Version: .*\n", f"Version: {version}\n{needs}", text, count=1, flags=re.MULTILINE).encode()


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(f"usage: {sys.argv[0]} WHEEL MODULE LABEL FOLDER")
    try:
        made = add_module(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
    except ValueError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{made}\n")
