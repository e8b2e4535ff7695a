"""A place: a local path, or a URI of an object store, a model hub or a web server."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from edgeembed.bulk.file_systems import ALIASES, SCHEMES, file_system, import_library, reason_of
from edgeembed.bulk.place_status import PlaceStatus, arrow_status, hub_status, local_status, s3_status
from edgeembed.common.files import replacing
from edgeembed.errors import ConfigError, EdgeEmbedError

READ_BYTES = 8 * 2**20
"""What one request to a store fetches: at 100 MB/s, twice as long as the request takes to arrive there and back."""

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


class PlaceError(EdgeEmbedError):
    """A place cannot be read or written now: the store refuses, fails or stalls."""


class PlaceFile(NamedTuple):
    """A file below a folder. relative: its path there, with slashes."""

    place: Place
    relative: str
    status: PlaceStatus


def is_uri(name: str) -> bool:
    """Return whether a name is a URI, of any scheme, and no local path."""
    return _URI.match(name) is not None


@dataclass(frozen=True, slots=True)
class Place:
    """A local path or a URI. Only `url` can hold a secret: of a web server, with its query and user name.

    scheme: of its kind, so that s3a is s3; empty for a local path. authority: bucket, host or container@host. path: local,
    or what follows the authority.
    """

    scheme: str
    authority: str
    path: str
    url: str = field(default="", repr=False)

    @classmethod
    def of(cls, name: str) -> Place:
        """Return the place of a name. Raises ConfigError for a URI that cannot be used, and without the library for it."""
        found = _URI.match(name)
        if found is None:
            return cls("", "", str(Path(name)))
        written, rest = found[1].lower(), found[2]
        if written == "file":
            if (host := urlsplit(name).netloc) not in ("", "localhost"):
                raise ConfigError(f"{name} names the machine {host}; a file of this one is file:///ABSOLUTE/PATH")
            path = unquote(urlsplit(name).path)
            return cls("file", "", path[1:] if re.match(r"/[A-Za-z]:", path) else path)
        scheme = ALIASES.get(written, written)
        if scheme not in SCHEMES:
            schemes = ", ".join(sorted({"file", *SCHEMES, "https"}))
            raise ConfigError(f"unknown kind of URI: {written}://…; expected a local path or one of: {schemes}")
        authority, _, path = rest.partition("/")
        if scheme == "http":
            query = re.search(r"[?#]", rest)
            shown = rest[: query.start()] if query else rest
            authority, _, path = shown.partition("/")
            authority = authority.rpartition("@")[2]
            place = cls(written, authority, path + ("?…" if query else ""), name.partition("#")[0])
        else:
            place = cls(scheme, authority, path.rstrip("/"))
            if ":" in authority.rpartition("@")[0] or (scheme != "abfs" and "@" in authority and scheme != "hf"):
                host = authority.rpartition("@")[2]
                raise ConfigError(
                    f"the URI {written}://…@{host}/… holds a user name or a password, which others could read in lists of "
                    f"processes; leave it out: {SCHEMES[scheme].remedy}"
                )
        if not authority and scheme != "hdfs":
            raise ConfigError(f"{written}:// names no {'host' if scheme == 'http' else 'bucket or repository'}")
        import_library(scheme, place.name)
        return place

    @classmethod
    def of_path(cls, path: Path) -> Place:
        """Return the place of a local path."""
        return cls("", "", str(path))

    @property
    def name(self) -> str:
        """The place as messages name it, without secrets."""
        return f"{self.scheme}://{self.authority}/{self.path}".rstrip("/") if self.is_remote else self.path

    def __str__(self) -> str:
        return self.name

    @property
    def is_uri(self) -> bool:
        """Whether it was named as a URI, also of a local file."""
        return bool(self.scheme)

    @property
    def is_remote(self) -> bool:
        """Whether it is on no local file system."""
        return self.scheme not in ("", "file")

    @property
    def local(self) -> Path:
        """The local path. Only if it is not remote."""
        assert not self.is_remote
        return Path(self.path)

    @property
    def file_name(self) -> str:
        """The last part of the path."""
        path = self.path.partition("?")[0] if self.is_web else self.path
        return PurePosixPath(path).name if self.is_remote else Path(path).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.file_name).suffix

    @property
    def stem(self) -> str:
        return PurePosixPath(self.file_name).stem

    @property
    def is_web(self) -> bool:
        """Whether a web server has it: one file, to be read only."""
        return self.scheme in ("http", "https")

    def child(self, relative: str) -> Place:
        """Return a place below this one. Raises ConfigError for a web server, which has no folders."""
        if self.is_web:
            raise ConfigError(f"{self.name} is on a web server, which has no folders; name its files")
        if not self.is_remote:
            return Place(self.scheme, "", str(self.local / relative))
        path = f"{self.path}/{relative}" if self.path and not self.path.endswith("/") else f"{self.path}{relative}"
        return Place(self.scheme, self.authority, path)

    def contains(self, other: Place) -> bool:
        """Return whether another place is this one, or below it. Links are followed."""
        if not self.is_remote:
            own = self.local.resolve()
            return not other.is_remote and (other.local.resolve() == own or own in other.local.resolve().parents)
        same = (self.scheme, self.authority) == (other.scheme, other.authority)
        return same and f"{other.path}/".startswith(f"{self.path}/" if self.path else "")

    def status(self) -> PlaceStatus | None:
        """Return what is there, without reading it; None for nothing. Raises PlaceError, ConfigError, OSError."""
        if not self.is_remote:
            try:
                return local_status(self.local.stat())
            except (FileNotFoundError, NotADirectoryError):
                return None
        with self._failures("read"):
            if self.is_web:
                from edgeembed.bulk.web_files import web_status

                return web_status(self._system(), self.url)
            if self.scheme == "hf":
                try:
                    return hub_status(self._system().info(self._inner))
                except FileNotFoundError:
                    return None
            if self.scheme == "s3":
                return s3_status(self._system(), self._inner)
            return arrow_status(self._system().get_file_info(self._inner), self.scheme)

    def require(self) -> PlaceStatus:
        """Return what is there. Raises FileNotFoundError, PlaceError, ConfigError, OSError."""
        if (found := self.status()) is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", self.name)
        return found

    def files(self) -> list[PlaceFile]:
        """Return the files below a folder, sorted, without those whose name, or folder's, begins with _ or a dot.

        Raises PlaceError, ConfigError, OSError.
        """
        found = [file for file in self._files() if not re.search(r"(^|/)[._]", file.relative)]
        return sorted(found, key=lambda file: file.relative.split("/"))

    def _files(self) -> Iterator[PlaceFile]:
        if not self.is_remote:
            for root, folders, names in os.walk(self.local):
                folders[:] = [name for name in folders if not name.startswith((".", "_"))]
                for name in names:
                    file = Path(root) / name
                    if file.is_file():
                        relative = file.relative_to(self.local).as_posix()
                        yield PlaceFile(self.child(relative), relative, local_status(file.stat()))
            return
        with self._failures("list"):
            inner = self._inner
            if self.scheme == "hf":
                listed = self._system().find(inner, detail=True).items()
                statuses = [(path, hub_status(entry)) for path, entry in listed]
            else:
                selector = import_library(self.scheme, self.name).FileSelector(inner, recursive=True)
                entries = self._system().get_file_info(selector)
                statuses = [(entry.path, status) for entry in entries if (status := arrow_status(entry, self.scheme))]
        for path, status in statuses:
            # HDFS lists whole URIs.
            relative = path.partition(f"{inner.strip('/')}/")[2] if inner.strip("/") else path.lstrip("/")
            if status.kind == "file" and not path.endswith("/"):
                yield PlaceFile(self.child(relative), relative, status)

    def open(self, status: PlaceStatus | None = None, buffer_bytes: int = READ_BYTES) -> io.BufferedReader:
        """Open a file to be read. status: if it was asked for already. buffer_bytes: what a request to a store fetches.

        Raises FileNotFoundError, PlaceError, ConfigError, OSError.
        """
        if not self.is_remote:
            return self.local.open("rb")
        with self._failures("read"):
            return io.BufferedReader(_Raw(self, self._file(status)), buffer_bytes)

    def open_arrow(self) -> Any:
        """Open a file as pyarrow reads it. Raises as `open` does, also for a web server that does not answer to ranges."""
        if not self.is_remote:
            pyarrow = import_library("s3", self.name)
            return pyarrow.LocalFileSystem().open_input_file(self.path)
        with self._failures("read"):
            file = self._file(None)
            if not file.seekable():
                raise ConfigError(f"{self.name} can be read from its beginning only: its server has no ranges; download it")
            return file

    def read_bytes(self) -> bytes | None:
        """Return the content of a file; None if there is none. Raises PlaceError, ConfigError, OSError."""
        try:
            with self.open() as file:
                return file.read()
        except FileNotFoundError:
            return None

    def write_bytes(self, content: bytes | memoryview) -> None:
        """Write a file in one step: others find the old one or all of the new one.

        On Azure and HDFS an empty file may be seen before. Raises PlaceError, ConfigError, OSError.
        """
        if not self.is_remote:
            self.local.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.local) as staged:
                staged.write_bytes(content)
            return
        if self.is_web:
            raise ConfigError(f"{self.name} is on a web server, which can only be read; choose another output")
        with self._failures("write"):
            system, inner = self._system(), self._inner
            if self.scheme == "hf":
                system.pipe_file(inner, bytes(content))
                return
            if self.scheme in ("hdfs", "abfs"):
                system.create_dir(inner.rpartition("/")[0], recursive=True)
            target = f"{inner.rpartition('/')[0]}/.{self.file_name}.tmp" if self.scheme == "hdfs" else inner
            # Not in a `with`: after a failed write, closing the stream would complete it.
            stream = system.open_output_stream(target, compression=None)  # by default, a name with .gz compresses
            stream.write(content)
            stream.close()
            if target != inner:
                system.move(target, inner)

    def remove(self) -> None:
        """Remove a file, if there is one. Raises PlaceError, ConfigError, OSError."""
        if not self.is_remote:
            self.local.unlink(missing_ok=True)
            return
        if self.is_web:
            raise ConfigError(f"{self.name} is on a web server, which can only be read")
        with self._failures("remove"):
            try:
                if self.scheme == "hf":
                    self._system().rm_file(self._inner)
                else:
                    self._system().delete_file(self._inner)
            except FileNotFoundError:
                return

    @property
    def _inner(self) -> str:
        """The path as the file system takes it."""
        match self.scheme:
            case "hdfs":
                return f"/{self.path}"
            case "abfs":
                return f"{self.authority.partition('@')[0]}/{self.path}".rstrip("/")
            case _:
                return f"{self.authority}/{self.path}".rstrip("/")

    def _system(self) -> Any:
        return file_system("http" if self.is_web else self.scheme, self.authority, self.name)

    def _file(self, status: PlaceStatus | None) -> Any:
        """Open a remote file as its library does."""
        if self.is_web:
            from edgeembed.bulk.web_files import open_web_file

            return open_web_file(self._system(), self.url, status, READ_BYTES)
        if self.scheme == "hf":
            return self._system().open(self._inner, "rb", block_size=READ_BYTES, cache_type="none")
        return self._system().open_input_file(self._inner)

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """Raise PlaceError for what a library raises in the context, while it reads the place."""
        return self._failures("read")

    @contextlib.contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        """Turn what the libraries raise into errors that name the place, what is wrong and what to look at."""
        try:
            yield
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "no such file", self.name) from None
        except (EdgeEmbedError, NotImplementedError, AssertionError, MemoryError):
            raise
        except Exception as error:  # of any class: each library has its own
            remedy = SCHEMES["http" if self.is_web else self.scheme].remedy
            # Not chained: what the library says may hold the query of the URI.
            raise PlaceError(f"cannot {what} {self.name}: {reason_of(error)}; {remedy}") from None


class _Raw(io.RawIOBase):
    """A file of a library, whose failures name the place."""

    def __init__(self, place: Place, file: Any) -> None:
        self._place = place
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = 0) -> int:
        self._file.seek(offset, whence)
        return self.tell()

    def readinto(self, buffer: Any) -> int:
        with self._place.reading():
            found = self._file.read(len(buffer))
            buffer[: len(found)] = found
            return len(found)

    def readall(self) -> bytes:
        with self._place.reading():  # the inherited one asks for 8 KiB at a time
            return b"".join(iter(lambda: self._file.read(4 * READ_BYTES), b""))

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
