"""Names of models: how users write them, which file of a repository they mean, and the name it is installed under."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeembed.common.files import expanded
from edgeembed.config.paths import Paths
from edgeembed.errors import HubError, UnknownModelError
from edgeembed.hub.catalogue import STARTER_MODEL, CatalogueEntry, HubCheckpoint, HubGguf, catalogue, lookup
from edgeembed.hub.gguf.split import parts_of, whole_name
from edgeembed.hub.other_names import LATEST, meaning
from edgeembed.hub.store import Store

DEFAULT_TYPE = "Q8_0"
"""Taken from a repository by default: nearly the same vectors at a quarter of the size."""

_REFERENCE = re.compile(
    r"hf:(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>\w[\w./-]*))?(?::(?P<rest>.+))?",
    re.ASCII | re.IGNORECASE,
)
_TYPE = re.compile(r"[A-Za-z0-9_]+")
# Types as llama.cpp names them, with the prefixes that people use in file names.
_TYPE_IN_NAME = re.compile(
    r"(?:^|[-._ ])(?:i1-)?((?:ud-)?(?:i?q\d(?:_[0-9a-z]+)*|tq\d_\d|mxfp4(?:_moe)?|b?f16|f32|fp16|fp32))$", re.IGNORECASE
)
_GENERIC = {"", "model", "ggml-model", "gguf", "ggml", "default"}
_NO_MODEL = re.compile(r"mmproj|imatrix", re.IGNORECASE)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,94}")
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
_LISTED = 20


@dataclass(frozen=True)
class HubReference:
    """A repository of the model hub, and a revision, file or type in it."""

    repo: str
    revision: str | None = None
    file: str | None = None
    """Path of a GGUF file in the repository."""
    type: str | None = None

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        what = self.file or self.type
        return f"hf:{self.repo}{at}{f':{what}' if what else ''}"


@dataclass(frozen=True)
class Spec:
    """What a user named: a catalogue or installed model (`name`), a GGUF file (`path`) or one of the hub (`reference`)."""

    name: str
    type: str | None = None
    path: Path | None = None
    entry: CatalogueEntry | None = None
    reference: HubReference | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return str(self.path)
        if self.reference is not None:
            return str(self.reference)
        return f"{self.name}:{self.type}" if self.type else self.name


def looks_like_path(text: str) -> bool:
    """Return whether the name of a model is written as that of a file is, which those of the hub may be, too."""
    return text.lower().endswith(".gguf") or "/" in text or "\\" in text or text.startswith("~")


def parse_spec(text: str, paths: Paths | None = None) -> Spec:
    """Parse `NAME`, `NAME:TYPE`, `hf:OWNER/REPO[@REVISION][:FILE-or-TYPE]` or the path of a GGUF file.

    Names of models installed under `paths` are accepted, too, and names that other programs have for the catalogue's models.
    Raises UnknownModelError for a missing file and for an unknown name, with the known ones.
    """
    if text[:3].lower() == "hf:":
        reference = parse_reference(text)
        return Spec(str(reference), reference.type, reference=reference)
    if text.lower().startswith(("http://", "https://")):
        raise UnknownModelError(f"{text}: URLs are not supported; write a model of the hub as hf:OWNER/REPO[:FILE]")
    if looks_like_path(text):
        path = expanded(text)
        if not path.exists() and (found := meaning(text)) is not None:
            return Spec(found.entry.name, found.type, entry=found.entry)
        if not path.is_file():
            repository = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text, re.ASCII) and not path.exists()
            hint = f"; for a repository of the model hub, write hf:{text}" if repository else ""
            raise UnknownModelError(f"there is no file {path}{hint}")
        return Spec(path.stem, path=path)
    installed = {model.name for model in Store(paths).installed()} if paths else set()
    name, colon, kind = text.partition(":")
    if name not in installed - catalogue().keys():
        if (found := meaning(text)) is not None:
            return Spec(found.entry.name, found.type, entry=found.entry)
        if name.lower() not in catalogue() and (found := meaning(name)) is not None:
            raise UnknownModelError(f"{text} is not in the catalogue; {name} is {found.entry.name} here")
    if colon + kind.lower() == LATEST:
        colon = kind = ""
    if colon and not _TYPE.fullmatch(kind):
        raise UnknownModelError(
            f"invalid model {text!r}; expected NAME, NAME:TYPE (such as {STARTER_MODEL}:F16) or a .gguf file"
        )
    entry = lookup(name, installed)
    return Spec(entry.name if entry else name, kind.upper() or None, entry=entry)


def parse_reference(text: str) -> HubReference:
    """Parse `hf:OWNER/REPO[@REVISION][:FILE-or-TYPE]`. Raises UnknownModelError."""
    found = _REFERENCE.fullmatch(text)
    rest = found["rest"] if found else None
    if found is None or ".." in found["repo"] or ".." in (found["revision"] or ""):
        raise UnknownModelError(
            f"invalid reference {text!r}; expected hf:OWNER/REPO[@REVISION], followed by :FILE.gguf or :TYPE if needed"
        )
    if rest is None or rest.lower().endswith(".gguf"):
        return HubReference(found["repo"], found["revision"], file=rest)
    if not _TYPE.fullmatch(canonical_type(rest)):
        raise UnknownModelError(f"{rest!r} is neither a .gguf file nor a type such as {DEFAULT_TYPE}")
    return HubReference(found["repo"], found["revision"], type=canonical_type(rest))


def canonical_type(text: str) -> str:
    """Return a type in llama.cpp's spelling; a dash, which would end it in a file name, becomes an underscore."""
    word = text.upper().replace("-", "_")
    return {"FP16": "F16", "FP32": "F32"}.get(word, word)


def type_in_name(file: str) -> str | None:
    """Return the quantisation type at the end of a file name, if there is one."""
    found = _TYPE_IN_NAME.search(Path(whole_name(file)).name[: -len(".gguf")])
    return canonical_type(found[1]) if found else None


def choose_file(files: Collection[str], reference: HubReference) -> str | None:
    """Return the GGUF file of a repository that is meant; None if it has none, but a checkpoint to convert.

    Of a model in several parts it is the first one.

    Without a file or type it is the only GGUF file, or the one of DEFAULT_TYPE. Raises UnknownModelError with the list of
    files if there is no such file or more than one, HubError for a model of which a part is missing.
    """
    ggufs = sorted(
        file
        for file in files
        if file.lower().endswith(".gguf")
        and not _NO_MODEL.search(file.rpartition("/")[2])
        and file in (parts_of(file) or [file])[:1]
    )
    if reference.file is not None:
        if reference.file not in files:
            raise UnknownModelError(f"{reference.repo} has no file {reference.file}{_listed(ggufs)}")
        return _complete(files, reference.file, reference.repo)
    if not ggufs:
        if any(file.endswith((".safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json")) for file in files):
            return None
        raise UnknownModelError(f"{reference.repo} contains neither GGUF nor safetensors files, nor pytorch_model.bin")
    if reference.type is None and len(ggufs) == 1:
        return _complete(files, ggufs[0], reference.repo)
    wanted = reference.type or DEFAULT_TYPE
    of_type = [file for file in ggufs if type_in_name(whole_name(file)) == wanted]
    if len(of_type) > 1:
        raise UnknownModelError(f"{reference.repo} has several files of type {wanted}; name one{_listed(of_type)}")
    if not of_type:
        asked = f"no file of type {wanted}" if reference.type else f"several GGUF files and none of type {wanted}; name one"
        raise UnknownModelError(f"{reference.repo} has {asked}{_listed(ggufs)}")
    return _complete(files, of_type[0], reference.repo)


def _complete(files: Collection[str], file: str, repo: str) -> str:
    """Return a file, or the first part of its model. Raises HubError if a part is missing."""
    parts = parts_of(file)
    if missing := [part for part in parts if part not in files]:
        raise HubError(f"{file} in {repo} is one of {len(parts)} parts of a model, and the repository has no {missing[0]}")
    return parts[0] if parts else file


def _listed(files: list[str]) -> str:
    if not files:
        return "; it contains no GGUF file"
    more = f"\n  and {len(files) - _LISTED} more" if len(files) > _LISTED else ""
    return ":" + "".join(f"\n  {file}" for file in files[:_LISTED]) + more


def name_from(repo: str | None, file: str | None) -> str | None:
    """Return a model name made from the file's name or, if that is generic, the repository's; None if neither works."""
    owner, _, title = (repo or "").rpartition("/")
    own, of_repo = _bare(Path(whole_name(file)).name[: -len(".gguf")] if file else ""), _bare(title)
    if own.lower() not in _GENERIC and (name := _sanitised(own)):
        return name
    return _sanitised(of_repo if of_repo.lower() not in _GENERIC else f"{owner}-{of_repo}") or None


def _bare(title: str) -> str:
    """Return a title without the type and format at its end."""
    title = re.sub(r"[-._]gguf$", "", title, flags=re.IGNORECASE)
    return re.sub(r"[-._]gguf$", "", _TYPE_IN_NAME.sub("", title), flags=re.IGNORECASE)


def installed_name(asked: str | None, repo: str | None, file: str | None, entry_name: str | None = None) -> str:
    """Return the name under which a model is installed that is not pulled by its catalogue name.

    asked: the user's --name. entry_name: the catalogue entry with exactly this file. Names of the catalogue are reserved for
    its own models: `entry_name`, or a repository that is one of the entry's sources; others are prefixed with their owner.
    Raises HubError for an invalid name.
    """
    if entry_name is not None and asked in (None, entry_name):
        return entry_name
    if asked is not None:
        return _checked(asked, repo)
    name = name_from(repo, file)
    if name is None:
        raise HubError(f"cannot derive a model name from {file or repo}; choose one with --name")
    entry = catalogue().by_any_name.get(name)
    if entry is not None and not is_source(entry, repo):
        owner = _sanitised(repo.partition("/")[0]) if repo else "local"
        name = f"{owner}-{name}"
    return name if _WINDOWS_DEVICES.fullmatch(name) is None else f"model-{name}"


def is_source(entry: CatalogueEntry, repo: str | None) -> bool:
    """Return whether a repository of the hub is one of the entry's sources."""
    repos = {source.repo.lower() for source in entry.sources if isinstance(source, HubGguf | HubCheckpoint)}
    return repo is not None and repo.lower() in repos


def unfinished_files(spec: str, unfinished: Mapping[str, Mapping[Path, int]]) -> dict[str, list[Path]]:
    """Return the files left by an unfinished download of NAME or NAME:TYPE, by the name of the model.

    The files of a checkpoint belong to every type: they are converted once all have arrived. unfinished: see
    `Store.unfinished`.
    """

    def belongs(path: Path, kind: str) -> bool:
        file, gguf, _ = path.name.partition(".gguf")
        return not gguf or type_in_name(file + gguf) in (kind.upper(), None)

    if spec[:3].lower() == "hf:":
        return {}
    name, _, kind = spec.lower().partition(":")
    files = [path for path in unfinished.get(name, ()) if not kind or belongs(path, kind)]
    return {name: files} if files else {}


def _checked(name: str, repo: str | None) -> str:
    if not _NAME.fullmatch(name) or name.endswith(".") or _WINDOWS_DEVICES.fullmatch(name):
        raise HubError(
            f"invalid --name {name!r}: a name begins with a letter or digit and contains only a-z, 0-9, '.', '_' and '-'"
        )
    entry = catalogue().get(name)
    if entry is not None and not is_source(entry, repo):
        raise HubError(
            f"--name {name} is the name of another model, which `edgeembed pull {name}` installs; choose another one"
        )
    return name


def _sanitised(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("._-")[:95].rstrip("._-")
