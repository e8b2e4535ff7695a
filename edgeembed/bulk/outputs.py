"""Where a job's vectors go, and where it keeps what it has until it is done."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from edgeembed.bulk.shards import WorkFolder
from edgeembed.bulk.writers import SUFFIXES, ids_path
from edgeembed.errors import ConfigError

_INSIDE = "_edgeembed"
"""Where a folder of shards keeps what belongs to the job; readers of data sets skip names with an underscore."""
_FINISHED = "finished"


@dataclass(frozen=True)
class Output:
    """Where the vectors go: one file, or a folder in which each shard stays a file of its own."""

    path: Path
    format: str
    folder: bool

    @classmethod
    def of(cls, name: str) -> Output:
        """Tell the format by the suffix; a folder holds Parquet files. Raises ConfigError."""
        path = Path(name)
        if name.endswith(("/", "\\")) or path.is_dir():
            return cls(path, "parquet", True)
        format_ = SUFFIXES.get(path.suffix.lower())
        if format_ is None:
            known = ", ".join(SUFFIXES)
            raise ConfigError(f"{name} does not say what to write: {known}, or a folder with a / at the end")
        return cls(path, format_, False)

    @property
    def suffix(self) -> str:
        """Suffix of a shard's file."""
        return ".parquet" if self.folder else self.path.suffix.lower()

    @property
    def rejects(self) -> Path:
        """The file of rejects; it is there when there are any."""
        if self.folder:
            return self.path / _INSIDE / "rejects.jsonl"
        return self.path.with_name(f"{self.path.stem}.rejects.jsonl")

    @property
    def finished(self) -> bool:
        """Whether a whole output is there, of this job or of another."""
        return (self.path / _INSIDE / _FINISHED).exists() if self.folder else self.path.exists()

    def work(self) -> WorkFolder:
        """Give the folder of the unfinished job."""
        if self.folder:
            return WorkFolder(self.path / _INSIDE, self.path)
        return WorkFolder(self.path.with_name(f"{self.path.name}.parts"))

    def clear(self) -> None:
        """Remove the unfinished job, and what an earlier one left. Raises ConfigError for a folder of other things."""
        work = self.work()
        if self.folder:
            foreign = [file for file in self.path.glob("*") if file.name != _INSIDE and not file.name.startswith("shard-")]
            if foreign:
                raise ConfigError(f"{self.path} holds {foreign[0].name}, which is not of such a job; choose another folder")
            for shard in self.path.glob("shard-*.parquet"):
                shard.unlink()
        else:
            for file in (self.path, self.rejects, *([ids_path(self.path)] if self.format == "npy" else [])):
                file.unlink(missing_ok=True)
        if work.folder.exists():
            shutil.rmtree(work.folder)

    def seal(self) -> None:
        """Note that everything is there, and remove what was needed until now."""
        if self.folder:
            (self.path / _INSIDE / _FINISHED).touch()
        else:
            shutil.rmtree(self.work().folder)
