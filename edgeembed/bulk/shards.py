"""Shards of a job: how records are cut into them, what the job is, and which shards are finished."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from edgeembed.bulk.computed import has_token_rows
from edgeembed.bulk.inputs import Cursor, Step
from edgeembed.bulk.kept import fitted, type_of
from edgeembed.bulk.records import Id, Record
from edgeembed.common.files import read_json, write_bytes, write_json
from edgeembed.engine.interface import DENSE, Output
from edgeembed.errors import ConfigError, EdgeEmbedError
from edgeembed.inference.chunking import ChunkRules

Dtype = Literal["float32", "float16", "int8", "binary"]
IdKind = Literal["int", "string"]

WORK = "_edgeembed"
"""The folder of a job's own files in a folder of shards; readers of data sets skip names that begin with an underscore."""
MARKS = ("finished", "finished.json")
"""One of them in that folder says that all is complete: of a job over local files, or over fragments."""
_SHARDS = re.compile(r"shard-\d{7,}\.parquet|part-\d{5,}-\d{6,}-\d{5,}-[0-9a-f]{12}\.parquet")
SHARD_ROWS = 8192
HOPELESS_ROWS = 1000
"""A job ends at its first shard if that has so many rows and all are refused: the inputs are not what the user thinks."""
SHARD_CHARACTERS = 2**20
"""Limit for shards of long texts; about a quarter of a million tokens."""
TOKEN_ROW_SHARD_CHARACTERS = 2**16
"""The same where each token has a row: those of 1,024 numbers take about 64 MiB, and four times as much in scripts with a
token for each character."""
_INT64 = range(-(2**63), 2**63)


def is_shard(name: str) -> bool:
    """Return whether a file in a folder of shards is one of a job, by its name: other programs call theirs part-…, too."""
    return _SHARDS.fullmatch(name) is not None


class Refused(msgspec.Struct, frozen=True, omit_defaults=True):
    """A row without a vector, as written to the file of rejects. It never contains the text."""

    input: str
    place: str
    reason: str
    id: Id | None = None

    @property
    def where(self) -> str:
        """Where the row is, for people: "texts.jsonl, line 17"."""
        return f"{self.input}, {self.place}"


class JobRow(NamedTuple):
    """A text of a shard. place: where in the input, in case it is refused. kept: columns that pass to the output."""

    id: Id
    text: str
    input: str
    place: str
    kept: Mapping[str, Any] = MappingProxyType({})


class Shard(NamedTuple):
    """Consecutive rows of the inputs. after: where the next shard begins. bytes: of the inputs."""

    number: int
    rows: list[JobRow]
    refused: list[Refused]
    after: Cursor
    bytes: int


def cut(steps: Iterable[Step], number: int, start: Cursor, rules: JobRules) -> Shard | None:
    """Return the next shard of the records, or None when there are no more."""
    most_characters = TOKEN_ROW_SHARD_CHARACTERS if has_token_rows(rules.outputs) else SHARD_CHARACTERS
    rows: list[JobRow] = []
    refused: list[Refused] = []
    after: Cursor | None = None
    characters = 0
    for step in steps:
        after, read = step.after, step.read
        if isinstance(read, Record):
            assert read.id is not None, "the inputs give every record an id"
            if read.text.strip():
                rows.append(JobRow(read.id, read.text, step.input, read.place, read.kept))
                characters += len(read.text)
            else:
                refused.append(Refused(step.input, read.place, "the text is empty", read.id))
        else:
            refused.append(Refused(step.input, read.place, read.reason, read.id))
        if len(rows) + len(refused) >= rules.shard_rows or characters >= most_characters:
            break
    if after is None:
        return None
    return Shard(number, rows, refused, after, after.done - start.done)


def kind_of(shard: Shard) -> IdKind:
    """Return the type of a job's ids, which the first one decides."""
    return "int" if shard.rows and isinstance(shard.rows[0].id, int) else "string"


def with_ids(shard: Shard, kind: IdKind) -> Shard:
    """Convert all ids to one type; rows whose ids cannot be converted are refused."""
    if kind == "string":
        return shard._replace(rows=[row._replace(id=str(row.id)) for row in shard.rows])
    fit = [row for row in shard.rows if isinstance(row.id, int) and row.id in _INT64]
    unfit = [row for row in shard.rows if not (isinstance(row.id, int) and row.id in _INT64)]
    reason = "the id is not a 64-bit integer, as the first one is"
    return shard._replace(
        rows=fit, refused=[*shard.refused, *(Refused(row.input, row.place, reason, row.id) for row in unfit)]
    )


def with_kept(shard: Shard, types: Mapping[str, str]) -> Shard:
    """Convert what is kept to the types of the output's columns; rows with a value that cannot be converted are refused."""
    if not types:
        return shard
    rows: list[JobRow] = []
    refused = list(shard.refused)
    for row in shard.rows:
        kept: dict[str, Any] = {}
        try:
            for name in types:
                kept[name] = fitted(row.kept.get(name), types[name])
        except ValueError as error:
            reason = f"the column {list(types)[len(kept)]!r} is {error}"
            refused.append(Refused(row.input, row.place, reason, row.id))
        else:
            rows.append(row._replace(kept=kept))
    return shard._replace(rows=rows, refused=refused)


def kept_types(first: Shard, rules: JobRules, found: Mapping[str, str]) -> dict[str, str]:
    """Return the columns that pass to the output, and their types. Raises ConfigError for one that no row has.

    first: the first shard, whose values decide where the inputs have no types. found: types of the inputs' columns.
    """
    types: dict[str, str] = {}
    for name in rules.keep_columns:
        has = [row for row in first.rows if name in row.kept]
        if not has and name not in found and first.rows:
            raise ConfigError(f"none of the first {len(first.rows):,} rows has the column {name!r} of --keep-columns")
        types[name] = found.get(name) or type_of([row.kept[name] for row in has])
    return types | dict(found)


def require_hope(first: Shard, unfinished: str = "") -> None:
    """Raise ConfigError if no row of a first shard can be embedded. unfinished: words for the job that would be dropped."""
    if not first.rows and (unfinished or len(first.refused) >= HOPELESS_ROWS):
        refused = first.refused[0]
        rows = f"none of the first {len(first.refused):,} rows can be embedded"
        raise ConfigError(f"{rows}, the first ({refused.where}) because: {refused.reason}{unfinished}")


def require_none(refused: Sequence[Refused]) -> None:
    """Raise EdgeEmbedError for the first row that was refused, where none may be."""
    for each in refused[:1]:
        raise EdgeEmbedError(
            f"{each.where}: {each.reason}. --strict ends the job at a row that cannot be embedded; correct the input "
            "and start again, or go on without this row with --resume and without --strict"
        )


class JobRules(msgspec.Struct, frozen=True, kw_only=True):
    """What the output depends on besides the inputs and the model."""

    format: str
    outputs: tuple[Output, ...] = DENSE
    dtype: Dtype = "float32"
    column: str | None = None
    id_column: str | None = None
    input_format: str | None = None
    input_type: str | None = None
    instruction: str | None = None
    dimensions: int | None = None
    int8_range: float | None = None
    """How int8 numbers are scaled; see `edgeembed.inference.number_formats`."""
    with_text: bool = False
    shard_rows: int = SHARD_ROWS
    chunks: ChunkRules = ChunkRules()
    chunk_rows: bool = False
    long_text: str | None = None
    truncate: str | None = None
    store: str | None = None
    """The store that rows are put into."""
    append: bool = False
    """Whether rows are added to a store that exists."""
    keep_columns: tuple[str, ...] = ()
    """Columns of the inputs that pass to the output."""


class JobManifest(msgspec.Struct, frozen=True, kw_only=True):
    """A job as recorded in its work folder.

    digest, batch_tokens, engine: as in `edgeembed.bulk.embedders.EmbedderInfo`; the latter two affect the last digits of
    vectors. type: of the model's file; empty when unknown. dimensions: numbers in a dense row; 0 without dense rows. widths:
    numbers in a row of the other outputs. kept: the columns that pass to the output, and their types as in
    `edgeembed.bulk.kept`. job: a name that no other job has; empty for files.
    """

    version: Literal[1] = 1
    inputs: list[str]
    rules: JobRules
    model: str
    digest: str
    type: str = ""
    dimensions: int
    widths: dict[Output, int] = {}
    ids: IdKind
    batch_tokens: int = 0
    engine: str = ""
    kept: dict[str, str] = {}
    job: str = ""
    fragments: bool = False
    """Whether the job is one over fragments."""

    def require_same(self, other: JobManifest) -> None:
        """Raise ConfigError naming the difference when `other` cannot continue this job."""
        if self.fragments != other.fragments:
            kinds = ("over local files", "over URIs or with --engine ray")
            raise ConfigError(
                f"the unfinished job is one {kinds[self.fragments]}, and this one is {kinds[other.fragments]}; continue it "
                "with the command that began it, or start again with --overwrite"
            )
        if self.inputs != other.inputs:
            raise ConfigError("the inputs have changed since the job began; start again with --overwrite")
        if self.digest and other.digest and self.digest != other.digest:
            raise ConfigError(
                f"the job began with the model file of {self.model}, but {other.model} is another file now; their vectors "
                f"cannot be mixed. Continue with --model {self.model}, or start again with --overwrite"
            )
        compared = [(name, getattr(self.rules, name), getattr(other.rules, name)) for name in JobRules.__struct_fields__]
        compared += [("vector length", self.dimensions, other.dimensions), ("row lengths", self.widths, other.widths)]
        if not (self.digest and other.digest):
            compared.append(("model", self.model, other.model))
        for name, before, now in compared:
            if before != now:
                raise ConfigError(
                    f"the job began with {name} = {_shown(before)}, now it is {_shown(now)}; start again with --overwrite"
                )

    def last_digits(self, other: JobManifest) -> str | None:
        """Return why the last digits of vectors may change if the job is continued as `other`; None when they do not."""
        compared = (("engine", self.engine, other.engine), ("batch_tokens", self.batch_tokens, other.batch_tokens))
        for name, before, now in compared:
            if before and now and before != now:
                return (
                    f"{name} was {before} and is now {now}: the last digits of vectors may differ from an uninterrupted run"
                )
        return None


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """Marks a shard as complete; written after its other files."""

    rows: int
    refused: int
    after: Cursor
    bytes: int
    """Of the inputs."""


class WorkFolder:
    """The files of an unfinished job: its manifest, a receipt for each finished shard, rejects and mostly the shards."""

    def __init__(self, folder: Path, shards: Path | None = None) -> None:
        """shards: the folder of the shards' files; None for `folder`. Nothing is created yet."""
        self.folder = folder
        self.shards = shards or folder

    @property
    def began(self) -> bool:
        """Whether there is an unfinished job."""
        return self._manifest.exists()

    def manifest(self) -> JobManifest:
        """Read the manifest. Raises ConfigError when it cannot be read."""
        return _read(self._manifest, JobManifest)

    def begin(self, manifest: JobManifest) -> None:
        """Write the manifest."""
        write_json(self._manifest, manifest)

    def receipt(self, number: int) -> Receipt | None:
        """Return the receipt of a shard, or None when the shard is not finished."""
        file = self.folder / f"receipt-{number:07}.json"
        return _read(file, Receipt) if file.exists() else None

    def receipts(self) -> Iterator[tuple[int, Receipt]]:
        """Yield numbers and receipts of the finished shards, in order; there may be gaps."""
        for file in sorted(self.folder.glob("receipt-*.json")):
            yield int(file.stem.removeprefix("receipt-")), _read(file, Receipt)

    def finish(self, number: int, receipt: Receipt, refused: Sequence[Refused]) -> None:
        """Record that a shard is complete, and its rejects."""
        if refused:
            write_bytes(self.rejects(number), b"".join(msgspec.json.encode(each) + b"\n" for each in refused))
        write_json(self.folder / f"receipt-{number:07}.json", receipt)

    def rejects(self, number: int) -> Path:
        """Return the file of a shard's rejects, which exists only if it has any."""
        return self.folder / f"rejects-{number:07}.jsonl"

    def first_refused(self, number: int) -> Refused:
        """Return the first reject of a shard that has any. Raises ConfigError when it cannot be read."""
        file = self.rejects(number)
        try:
            with file.open("rb") as lines:
                return msgspec.json.decode(lines.readline(), type=Refused)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {file} ({error}); start again with --overwrite") from error

    def shard(self, number: int, suffix: str) -> Path:
        """Return the file of a shard."""
        return self.shards / f"shard-{number:07}{suffix}"

    @property
    def _manifest(self) -> Path:
        return self.folder / "manifest.json"


def _shown(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


StructT = TypeVar("StructT", bound=msgspec.Struct)


def _read(file: Path, type_: type[StructT]) -> StructT:
    try:
        found = read_json(file, type_)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {file} ({error}); start again with --overwrite") from error
    if found is None:
        raise ConfigError(f"there is no {file}; start again with --overwrite")
    return found
