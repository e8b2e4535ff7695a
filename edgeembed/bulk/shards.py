"""A job's shards: how records are cut into them, what the job is, and which shards are there already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import msgspec

from edgeembed.bulk.chunking import ChunkRules
from edgeembed.bulk.inputs import Cursor, Step
from edgeembed.bulk.records import Id, Record
from edgeembed.common.files import write_json
from edgeembed.errors import ConfigError

Dtype = Literal["float32", "float16", "int8", "binary"]
IdKind = Literal["int", "string"]

SHARD_ROWS = 8192
SHARD_CHARACTERS = 2**20
"""A shard of long texts ends sooner: this is about a quarter of a million tokens."""
_INT64 = range(-(2**63), 2**63)


class Refused(msgspec.Struct, frozen=True, omit_defaults=True):
    """A row that has no vector, for the file of rejects. It never holds the text."""

    input: str
    place: str
    reason: str
    id: Id | None = None


class JobRow(NamedTuple):
    """A text of a shard. place: for its refusal."""

    id: Id
    text: str
    input: str
    place: str


class Shard(NamedTuple):
    """Rows that follow each other in the inputs. after: where the next shard begins; bytes: of the inputs that it took."""

    number: int
    rows: list[JobRow]
    refused: list[Refused]
    after: Cursor
    bytes: int


def cut(steps: Iterable[Step], number: int, start: Cursor, *, most_rows: int) -> Shard | None:
    """Take the next shard off the records; None when there are no more."""
    rows: list[JobRow] = []
    refused: list[Refused] = []
    after: Cursor | None = None
    characters = 0
    for step in steps:
        after, read = step.after, step.read
        if isinstance(read, Record):
            assert read.id is not None, "the inputs give every record an id"
            if read.text.strip():
                rows.append(JobRow(read.id, read.text, step.input, read.place))
                characters += len(read.text)
            else:
                refused.append(Refused(step.input, read.place, "the text is empty", read.id))
        else:
            refused.append(Refused(step.input, read.place, read.reason, read.id))
        if len(rows) + len(refused) >= most_rows or characters >= SHARD_CHARACTERS:
            break
    if after is None:
        return None
    return Shard(number, rows, refused, after, after.done - start.done)


def kind_of(shard: Shard) -> IdKind:
    """Say what the ids of a job are: what the first one is."""
    return "int" if shard.rows and isinstance(shard.rows[0].id, int) else "string"


def with_ids(shard: Shard, kind: IdKind) -> Shard:
    """Make all ids of one kind; rows whose ids cannot be are refused."""
    if kind == "string":
        return shard._replace(rows=[row._replace(id=str(row.id)) for row in shard.rows])
    fit = [row for row in shard.rows if isinstance(row.id, int) and row.id in _INT64]
    unfit = [row for row in shard.rows if not (isinstance(row.id, int) and row.id in _INT64)]
    reason = "its id is no whole number of 64 bits, as the first one was"
    return shard._replace(
        rows=fit, refused=[*shard.refused, *(Refused(row.input, row.place, reason, row.id) for row in unfit)]
    )


class JobRules(msgspec.Struct, frozen=True, kw_only=True):
    """What the output depends on, besides the inputs and the model."""

    format: str
    dtype: Dtype = "float32"
    column: str | None = None
    id_column: str | None = None
    input_format: str | None = None
    input_type: str | None = None
    instruction: str | None = None
    dimensions: int | None = None
    with_text: bool = False
    shard_rows: int = SHARD_ROWS
    chunks: ChunkRules = ChunkRules()


class JobManifest(msgspec.Struct, frozen=True, kw_only=True):
    """A job, as its work folder remembers it. digest: of the model's file, empty where nobody tells it.

    batch_tokens, engine: as in `edgeembed.bulk.embedders.EmbedderInfo`; they decide about the last digits of the vectors.
    """

    version: Literal[1] = 1
    inputs: list[str]
    rules: JobRules
    model: str
    digest: str
    dimensions: int
    ids: IdKind
    batch_tokens: int = 0
    engine: str = ""

    def require_same(self, other: JobManifest) -> None:
        """Refuse to go on with a job that is not this one. Raises ConfigError naming what differs."""
        if self.inputs != other.inputs:
            raise ConfigError("the inputs are not those that the job began with; --overwrite begins anew")
        if self.digest and other.digest and self.digest != other.digest:
            raise ConfigError(
                f"the job began with another model than {other.model} is now: vectors of two models do not mix. Name "
                f"{self.model} with --model, or begin anew with --overwrite"
            )
        told = [(name, getattr(self.rules, name), getattr(other.rules, name)) for name in JobRules.__struct_fields__]
        told.append(("a vector's length", self.dimensions, other.dimensions))
        if not (self.digest and other.digest):
            told.append(("model", self.model, other.model))
        for name, here, there in told:
            if here != there:
                raise ConfigError(f"the job began with {name} = {here}, and this is {there}; --overwrite begins anew")

    def last_digits(self, other: JobManifest) -> str | None:
        """Say why the vectors of this job may differ in their last digits, if it goes on as the other one says."""
        told = (("engine", self.engine, other.engine), ("batch_tokens", self.batch_tokens, other.batch_tokens))
        for name, here, there in told:
            if here and there and here != there:
                return f"{name} was {here}, is {there}: last digits of vectors may differ from those of an undisturbed job"
        return None


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """Says that a shard is there, whole: it is written after everything else of it."""

    rows: int
    refused: int
    after: Cursor
    bytes: int
    """Of the inputs."""


class WorkFolder:
    """What is kept of a job until it is done: its manifest, a receipt of each finished shard, rejects, mostly the shards."""

    def __init__(self, folder: Path, shards: Path | None = None) -> None:
        """Prepare; nothing is made yet. shards: where the shards' files are, if not in there."""
        self.folder = folder
        self.shards = shards or folder

    @property
    def began(self) -> bool:
        """Whether a job is there."""
        return self._manifest.exists()

    def manifest(self) -> JobManifest:
        """Read what the job is. Raises ConfigError when that cannot be read."""
        return _read(self._manifest, JobManifest)

    def begin(self, manifest: JobManifest) -> None:
        """Note what the job is."""
        write_json(self._manifest, manifest)

    def receipt(self, number: int) -> Receipt | None:
        """Give the receipt of a shard; None when it is not there yet."""
        file = self.folder / f"receipt-{number:07}.json"
        return _read(file, Receipt) if file.exists() else None

    def receipts(self) -> Iterator[tuple[int, Receipt]]:
        """Give the receipts in the shards' order; some may be missing in between."""
        for file in sorted(self.folder.glob("receipt-*.json")):
            yield int(file.stem.removeprefix("receipt-")), _read(file, Receipt)

    def finish(self, number: int, receipt: Receipt, refused: Sequence[Refused]) -> None:
        """Note that a shard's file is there, with its rejects."""
        if refused:
            file = self.rejects(number)
            staged = file.with_suffix(".tmp")
            staged.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in refused))
            staged.replace(file)
        write_json(self.folder / f"receipt-{number:07}.json", receipt)

    def rejects(self, number: int) -> Path:
        """Give the file of a shard's rejects, which is there when it has any."""
        return self.folder / f"rejects-{number:07}.jsonl"

    def shard(self, number: int, suffix: str) -> Path:
        """Give the file of a shard."""
        return self.shards / f"shard-{number:07}{suffix}"

    @property
    def _manifest(self) -> Path:
        return self.folder / "manifest.json"


StructT = TypeVar("StructT", bound=msgspec.Struct)


def _read(file: Path, type_: type[StructT]) -> StructT:
    try:
        return msgspec.json.decode(file.read_bytes(), type=type_)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); --overwrite begins anew") from error
