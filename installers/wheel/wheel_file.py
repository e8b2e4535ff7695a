"""Writing of wheels, for the scripts beside it. Needs only the standard library.

Format: "Binary distribution format" of the Python Packaging User Guide.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from pathlib import Path
from types import TracebackType

DATE = (1980, 1, 1, 0, 0, 0)
"""The same files make the same wheel, whenever it is built."""


def record_row(name: str, data: bytes) -> tuple[str, str, int]:
    """Return the row of a file in RECORD."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return name, f"sha256={digest}", len(data)


def record(rows: list[tuple[str, str, int]], own_name: str) -> bytes:
    """Return the text of RECORD, whose own name has neither digest nor size."""
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([*rows, (own_name, "", "")])
    return table.getvalue().encode()


class WheelWriter:
    """A wheel that is written file by file; on leaving the context, RECORD is added."""

    def __init__(self, path: Path, metadata_folder: str) -> None:
        self._path = path
        self._record = f"{metadata_folder}/RECORD"
        self._rows: list[tuple[str, str, int]] = []

    def __enter__(self) -> WheelWriter:
        self._file = zipfile.ZipFile(self._path, "w", zipfile.ZIP_DEFLATED, compresslevel=9)
        return self

    def add(self, name: str, data: bytes) -> None:
        """Add a file. Shared libraries are marked as executable, as installers expect."""
        info = zipfile.ZipInfo(name, DATE)
        info.external_attr = (0o100755 if name.endswith(".so") or ".so." in name else 0o100644) << 16
        self._file.writestr(info, data, zipfile.ZIP_DEFLATED)
        self._rows.append(record_row(name, data))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            info = zipfile.ZipInfo(self._record, DATE)
            info.external_attr = 0o100644 << 16
            self._file.writestr(info, record(self._rows, self._record), zipfile.ZIP_DEFLATED)
        self._file.close()
        if kind is not None:
            self._path.unlink(missing_ok=True)
