"""A store as the output of a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeembed.bulk.outputs import Output
from edgeembed.bulk.shards import WorkFolder
from edgeembed.bulk.sinks import Sink, StoreSink
from edgeembed.bulk.stores.faiss_index import FaissOutput, named_by
from edgeembed.bulk.stores.targets import Target, kind_of
from edgeembed.common.files import file_sizes


@dataclass(frozen=True)
class StoreOutput(Output):
    """A table of a database. path: what a job's own files are named after, as `Target.beside` has it."""

    target: Target
    append: bool = False

    def require_library(self) -> None:
        """Raise ConfigError if the library of the database is not installed, or the database cannot be reached."""
        kind_of(self.target).exists(self.target)

    @property
    def title(self) -> str:
        return str(self.target)

    @property
    def rejects(self) -> Path:
        return self.path.with_name(f"{self.path.name}.rejects.jsonl")

    @property
    def finished(self) -> bool:
        return kind_of(self.target).exists(self.target)

    @property
    def size_bytes(self) -> int | None:
        file = self.target.file
        if file is None:
            return None
        return file.stat().st_size if file.is_file() else sum(file_sizes(file).values())

    def sink(self, work: WorkFolder) -> Sink:
        return StoreSink(self.target, append=self.append)

    def require_ours(self) -> None:
        kind = kind_of(self.target)
        if kind.exists(self.target):
            kind.open(self.target).close()

    def _written(self) -> Sequence[Path]:
        return [*super()._written(), *([self.target.file] if self.target.file else [])]


def output_of(name: str, *, append: bool = False) -> Output:
    """Return the output that a user names: a store, a file, or a folder. append: to a store. Raises ConfigError."""
    if (index := named_by(name)) is not None:
        return FaissOutput(path=index, format="faiss", folder=False)
    target = Target.parse(name)
    if target is None:
        return Output.of(name)
    return StoreOutput(path=target.beside, format=target.kind, folder=False, target=target, append=append)
