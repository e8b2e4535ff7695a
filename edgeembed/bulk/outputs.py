"""Where the vectors of a job go, and where unfinished work is kept."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from edgeembed.bulk.shards import WorkFolder
from edgeembed.bulk.writers import SUFFIXES, ids_path
from edgeembed.errors import ConfigError

_INSIDE = "_edgeembed"
"""Where a folder of shards keeps the job's own files; readers of data sets skip names that begin with an underscore."""
_FINISHED = "finished"


@dataclass(frozen=True)
class Output:
    """One file, or a folder in which each shard stays a separate file."""

    path: Path
    format: str
    folder: bool

    @classmethod
    def of(cls, name: str) -> Output:
        """Return the output that a path names: by suffix, or a folder of Parquet files. Raises ConfigError."""
        path = Path(name)
        if name.endswith(("/", "\\")) or path.is_dir():
            return cls(path, "parquet", True)
        format_ = SUFFIXES.get(path.suffix.lower())
        if format_ is None:
            suffixes = ", ".join(SUFFIXES)
            raise ConfigError(f"unknown output format: {name}; expected {suffixes}, or a folder that ends with /")
        return cls(path, format_, False)

    @property
    def suffix(self) -> str:
        """The suffix of a shard's file."""
        return ".parquet" if self.folder else self.path.suffix.lower()

    @property
    def rejects(self) -> Path:
        """The file of refused rows; it exists only if there are any."""
        if self.folder:
            return self.path / _INSIDE / "rejects.jsonl"
        return self.path.with_name(f"{self.path.stem}.rejects.jsonl")

    @property
    def finished(self) -> bool:
        """Whether complete output exists, of this job or of another."""
        return (self.path / _INSIDE / _FINISHED).exists() if self.folder else self.path.exists()

    def work(self) -> WorkFolder:
        """Return the folder of the unfinished job."""
        if self.folder:
            return WorkFolder(self.path / _INSIDE, self.path)
        return WorkFolder(self.path.with_name(f"{self.path.name}.parts"))

    def remove_partial_files(self) -> None:
        """Remove the temporary files of an earlier run that was killed while it wrote. Raises OSError."""
        work = self.work()
        ours = (f".{self.path.name}.", f".{ids_path(self.path).name}.", f".{self.rejects.name}.")
        beside = [file for file in self.path.parent.glob(".*.tmp") if file.name.startswith(ours)]
        for file in (*work.folder.glob(".*.tmp"), *work.shards.glob(".shard-*.tmp"), *beside):
            file.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove unfinished work and earlier output. Raises ConfigError when the folder holds other files."""
        work = self.work()
        if self.folder:
            foreign = [file for file in self.path.glob("*") if file.name != _INSIDE and not file.name.startswith("shard-")]
            if foreign:
                raise ConfigError(
                    f"{self.path} contains {foreign[0].name}, which edgeembed did not write; choose another folder"
                )
            for shard in self.path.glob("shard-*.parquet"):
                shard.unlink()
        else:
            for file in (self.path, self.rejects, *([ids_path(self.path)] if self.format == "npy" else [])):
                file.unlink(missing_ok=True)
        if work.folder.exists():
            shutil.rmtree(work.folder)

    def finish(self) -> None:
        """Mark the output as complete and remove the work files."""
        if self.folder:
            (self.path / _INSIDE / _FINISHED).touch()
        else:
            shutil.rmtree(self.work().folder)
