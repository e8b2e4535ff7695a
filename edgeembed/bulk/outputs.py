"""Where the vectors of a job go, and where unfinished work is kept."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeembed.bulk.shards import MARKS, WORK, WorkFolder, is_shard
from edgeembed.bulk.sinks import FileSink, Sink
from edgeembed.bulk.writers import SUFFIXES, ids_path, join
from edgeembed.common.files import replacing
from edgeembed.errors import ConfigError

_FINISHED, _ = MARKS
_REJECTS = "rejects.jsonl"


@dataclass(frozen=True)
class Output:
    """One file, or a folder in which each shard stays a separate file.

    Complete output stays as it is until other output is complete and replaces it.
    """

    path: Path
    format: str
    folder: bool

    @classmethod
    def of(cls, name: str) -> Output:
        """Return the output that a path names: by suffix, or a folder of Parquet files. Raises ConfigError."""
        path = Path(name)
        if name.endswith(("/", "\\")) or path.is_dir():
            path = path if path.name not in ("", "..") else path.resolve()
            if not path.name:
                raise ConfigError(f"{name} cannot be an output; name a folder in it")
            return cls(path, "parquet", True)
        format_ = SUFFIXES.get(path.suffix.lower())
        if format_ is None:
            suffixes = ", ".join(SUFFIXES)
            raise ConfigError(
                f"unknown output format: {name}; expected {suffixes}, .faiss, a folder that ends with /, or a store"
            )
        return cls(path, format_, False)

    @property
    def suffix(self) -> str:
        """The suffix of a shard's file."""
        return ".parquet" if self.folder else self.path.suffix.lower()

    @property
    def title(self) -> str:
        """The output as messages name it."""
        return str(self.path)

    @property
    def size_bytes(self) -> int | None:
        """The size of complete output; None when unknown. Raises OSError."""
        return sum(file.stat().st_size for file in (self.path.glob("*.parquet") if self.folder else [self.path]))

    def sink(self, work: WorkFolder) -> Sink:
        """Return what takes the shards of a run."""
        return FileSink(None if self.folder else self.path, self.suffix, work)

    @property
    def rejects(self) -> Path:
        """The file of refused rows; it exists only if there are any."""
        if self.folder:
            return self.path / WORK / _REJECTS
        return self.path.with_name(f"{self.path.stem}.rejects.jsonl")

    @property
    def finished(self) -> bool:
        """Whether complete output exists, of this job or of another."""
        return any((self.path / WORK / mark).exists() for mark in MARKS) if self.folder else self.path.exists()

    @property
    def _beside(self) -> Path:
        """Where unfinished work is kept that cannot be in a folder of complete shards."""
        # Where the output is a link to a folder, that folder is replaced, and not the link.
        path = self.path.resolve() if self.folder else self.path
        return path.with_name(f"{path.name}.parts")

    @property
    def _replaced(self) -> Path:
        """Where the old folder is for the moment in which another takes its place."""
        return self._beside.with_suffix(".replaced")

    def work(self) -> WorkFolder:
        """Return the folder of the unfinished job, or of one that is about to begin."""
        if not self.folder:
            return WorkFolder(self._beside)
        folder = self._beside if self.finished or self._beside.exists() else self.path
        return WorkFolder(folder / WORK, folder)

    def require_apart(self, inputs: Sequence[str], format_: str | None) -> None:
        """Raise ConfigError if the job would read what it writes, or write what it reads.

        format_: of the inputs; None when their suffixes decide, and all files of a folder are read.
        """
        for source in (Path(name) for name in inputs if name != "-"):
            for file in self._written():
                if _is_same(source, file):
                    problem = f"{source} is an input and would be replaced"
                elif file.is_dir() and file.resolve() in source.resolve().parents:
                    problem = f"the input {source} is in {file}, where the job writes"
                elif source.is_dir() and source.resolve() in file.resolve().parents and not format_:
                    problem = f"{file} would be in {source}, all of whose files are inputs"
                else:
                    continue
                raise ConfigError(f"{problem}; choose another output")

    def require_replaceable(self) -> None:
        """Raise ConfigError if a device or a pipe has the name of a file that a job writes, which would replace it."""
        for file in self._written():
            if file.exists() and not (file.is_file() or file.is_dir()):
                raise ConfigError(f"{file} is a device or a pipe, which a file would replace; choose another output")

    def _written(self) -> Sequence[Path]:
        """Return the files and folders that a job writes."""
        return [self.path, self._beside, self.rejects, *([ids_path(self.path)] if self.format == "npy" else [])]

    def recover(self) -> None:
        """Tidy up after a run that was killed while it replaced a folder or wrote a file. Raises OSError."""
        if self.folder:
            if not self.path.exists() and self._replaced.exists():
                self._replaced.rename(self.path.resolve())
            elif self._replaced.exists():
                shutil.rmtree(self._replaced)
        work = self.work()
        ours = (f".{self.path.name}.", f".{ids_path(self.path).name}.", f".{self.rejects.name}.")
        beside = [file for file in self.path.parent.glob(".*.tmp") if file.name.startswith(ours)]
        for file in (*work.folder.glob(".*.tmp"), *work.shards.glob(".shard-*.tmp"), *beside):
            file.unlink(missing_ok=True)

    def require_ours(self) -> None:
        """Raise ConfigError when a folder to be replaced holds other files."""
        if not self.folder:
            return
        for file in self.path.glob("*"):
            if file.name != WORK and not is_shard(file.name):
                raise ConfigError(f"{self.path} contains {file.name}, which edgeembed did not write; choose another folder")

    def clear_work(self) -> None:
        """Remove the unfinished job. Complete output is kept. Raises OSError."""
        work = self.work()
        for shard in work.shards.glob("*.parquet") if self.folder else ():
            if is_shard(shard.name):
                shard.unlink()
        if work.folder.exists():
            shutil.rmtree(work.folder)

    def remove_empty(self) -> None:
        """Remove the folders of a job that did not begin."""
        for folder in (self.work().folder, self._beside):
            with contextlib.suppress(OSError):  # not empty, or already gone
                folder.rmdir()

    def finish(self, work: WorkFolder, rejects: Sequence[Path]) -> None:
        """Put the file of rejects in place, mark the output as complete, and remove the work files.

        A folder takes the place of an older one here. rejects: the shards' files. Raises ConfigError, OSError.
        """
        whole = self.join_rejects(work, rejects)
        if not self.folder:
            if rejects:
                whole.replace(self.rejects)
            else:
                self.rejects.unlink(missing_ok=True)  # of the output that was replaced
            shutil.rmtree(work.folder)
            return
        (work.folder / _FINISHED).touch()
        if work.shards == self.path:
            return
        self.require_ours()
        old = self.path.resolve()
        if old.exists():
            old.rename(self._replaced)
        work.shards.rename(old)
        shutil.rmtree(self._replaced, ignore_errors=True)

    def join_rejects(self, work: WorkFolder, rejects: Sequence[Path]) -> Path:
        """Join the shards' files of rejects, if there are any, in the work folder. Returns the whole. Raises OSError."""
        whole = work.folder / _REJECTS
        if rejects:
            with replacing(whole) as staged:
                join(rejects, staged)
        return whole


def _is_same(one: Path, other: Path) -> bool:
    """Return whether two paths are one file, also through links. A file that does not exist is known by its path."""
    try:
        return one.samefile(other)
    except OSError:
        return one.resolve() == other.resolve()
