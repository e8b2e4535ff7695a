"""What a file holds, known by its first bytes and not by its name: compression, and content that is no text."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Literal

from edgeembed.bulk.places import READ_BYTES, Place
from edgeembed.errors import ConfigError

HEAD_BYTES = 8192
SKIP_BYTES = 2**20

Content = Literal["text", "parquet", "pdf", "zip", "utf-16", "binary"]
"""What a file holds, apart from compression. zip: of any kind, also a .docx; binary: anything else that is no text."""

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
}
_BLOCK_MAGIC = (b"1AY&SY", b"\x17rE8P\x90")
"""Behind the magic of bzip2, which a text could begin with, and one digit: of the first block, or of the end."""
COMPRESSED_SUFFIXES = (".gz", ".gzip", ".zst", ".zstd", ".bz2", ".xz")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")

# Names for people of content that is refused. All but those of _ALWAYS are known to be binary by the zero bytes in them.
_NAMES = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"{\\rtf": "an RTF document",
    b"\x7fELF": "a program (ELF)",
    b"MZ": "a program for Windows",
    b"GIF8": "a GIF image",
    b"RIFF": "audio, video or an image (RIFF)",
    b"ID3": "audio (MP3)",
    b"OggS": "audio or video (Ogg)",
    b"PK": "a ZIP archive",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"ARROW1": "an Arrow file, which is not read; convert it to Parquet",
    b"\x93NUMPY": "a NumPy array",
    b"SQLite format 3": "an SQLite database",
    b"GGUF": "a GGUF model",
    b"\xd0\xcf\x11\xe0": "an old Office document; save it as .docx",
}
_ALWAYS = (b"\x89PNG", b"\xff\xd8\xff", b"{\\rtf")


class ByteStream:
    """The decompressed bytes of a file or of standard input, from the beginning."""

    def __init__(self, source: io.BufferedReader, name: str, size: int | None) -> None:
        """source: at its beginning. size: of the file; None for standard input. Raises ConfigError."""
        self._source = source
        self._size = size
        head = source.peek(HEAD_BYTES)[:HEAD_BYTES]
        self.compression = compression_of(head)
        self.file: Any = source
        if self.compression:
            self.file = io.BufferedReader(_Decompressed(source, self.compression, name), 2**16)

    def head(self) -> bytes:
        """Return the first bytes, without reading them. Only before anything else is read."""
        found: bytes = self.file.peek(HEAD_BYTES)
        return found[:HEAD_BYTES]

    @property
    def plain(self) -> bool:
        """Whether positions in the content are those in the file; also for standard input, of which only content counts."""
        return self.compression is None or self._size is None

    def position(self) -> int:
        """Return how many bytes of the file were read; 0 for standard input."""
        return 0 if self._size is None else min(self._source.tell(), self._size)

    def skip_to(self, at: int, offset: int) -> int:
        """Go from an offset to a later one, and return what was reached: less if the content ends before."""
        if self.compression is None and self._size is not None and self._source.seekable():
            return int(self.file.seek(offset))
        while at < offset and (skipped := len(self.file.read(min(SKIP_BYTES, offset - at)))):
            at += skipped
        return at


@contextlib.contextmanager
def opened(place: Place, buffer_bytes: int = READ_BYTES) -> Iterator[ByteStream]:
    """Open a file to read its decompressed bytes. buffer_bytes: as in `Place.open`.

    Raises ConfigError for one that is damaged; PlaceError, OSError.
    """
    status = place.status()
    with place.open(status, buffer_bytes) as file:
        yield ByteStream(file, place.name, (status.size or 0) if status else 0)


def opened_stdin() -> ByteStream:
    """Return the decompressed bytes of standard input, which can be read only once."""
    return ByteStream(sys.stdin.buffer, "standard input", None)  # type: ignore[arg-type]


def compression_of(head: bytes) -> str | None:
    """Return the compression of a file that begins with `head`; None for none that is known."""
    found = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    if found == "bzip2" and not head[4:].startswith(_BLOCK_MAGIC):
        return None
    if head[1:4] == b"*M\x18" and head[0] in range(0x50, 0x60):
        return "zstd"  # a frame to be skipped, with which pzstd begins
    return found


def content_of(head: bytes) -> Content:
    """Return what a file holds whose decompressed bytes begin with `head`."""
    if head.startswith(b"PAR1") and b"\0" in head:
        return "parquet"
    if head.startswith(b"%PDF-"):
        return "pdf"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(_UTF16) or _is_utf16(head):
        return "utf-16"
    if b"\0" in head or head.startswith(_ALWAYS) or compression_of(head):
        return "binary"
    return "text"


def problem_of(head: bytes) -> str | None:
    """Return why a file whose decompressed bytes begin with `head` is no text; None if it is."""
    content = content_of(head)
    if content == "text":
        return None
    if content == "utf-16":
        return "is UTF-16; convert it to UTF-8, for example with iconv -f UTF-16 -t UTF-8"
    if content in ("pdf", "parquet"):
        return f"holds {'a PDF document' if content == 'pdf' else 'Parquet'}, not text"
    if compression := compression_of(head):
        return f"is compressed twice ({compression} inside); decompress it once"
    if head[257:262] == b"ustar":
        return "holds a tar archive, not text; unpack it and name its files or their folder"
    name = next((name for magic, name in _NAMES.items() if head.startswith(magic)), None)
    return f"holds {name}, not text" if name else "is binary, not text"


def without_compression(name: str) -> str:
    """Return a file's name without the suffix of a compressed file."""
    suffix = next((suffix for suffix in COMPRESSED_SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


class _Decompressed(io.RawIOBase):
    """Decompressed bytes. What is wrong with the compressed ones is an error that says where."""

    def __init__(self, source: BinaryIO, compression: str, name: str) -> None:
        self._source = source
        self._compression = compression
        self._name = name
        self._at = 0
        self._file: Any = _OPENERS[compression](source)
        self._errors: tuple[type[Exception], ...] = (OSError, zlib.error, lzma.LZMAError, *_zstd_errors(compression))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            found = self._file.read1(len(buffer))
        except EOFError as error:
            raise ConfigError(self._damage("is truncated: its end is missing")) from error
        except self._errors as error:
            raise ConfigError(self._damage(f"is damaged ({error})")) from error
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)

    def _damage(self, what: str) -> str:
        place = f"after {self._at:,} bytes of text"
        if self._source.seekable():
            place += f", before byte {self._source.tell():,} of the compressed file"
        return f"{self._name} ({self._compression}) {what}, {place}; the rest cannot be read"


def _open_zstd(source: BinaryIO) -> Any:
    return _zstd().ZstdFile(source)


def _zstd() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _zstd_errors(compression: str) -> tuple[type[Exception], ...]:
    return (_zstd().ZstdError,) if compression == "zstd" else ()


_OPENERS: dict[str, Callable[[BinaryIO], Any]] = {
    "gzip": lambda source: gzip.GzipFile(fileobj=source),
    "zstd": _open_zstd,
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}


def _is_utf16(head: bytes) -> bool:
    """Return whether every other byte of Western text is zero, as in UTF-16 without a byte order mark."""
    pairs = len(head) // 2
    counts = head[: 2 * pairs : 2].count(0), head[1 : 2 * pairs : 2].count(0)
    return pairs >= 2 and min(counts) == 0 and max(counts) > pairs * 0.7


__all__ = [
    "ByteStream",
    "Content",
    "compression_of",
    "content_of",
    "opened",
    "opened_stdin",
    "problem_of",
    "without_compression",
]
