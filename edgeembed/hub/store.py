"""Installed models: GGUF files under `Paths.models`, each with a manifest beside it, and GGUF files that lie elsewhere."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import msgspec
from filelock import Timeout

from edgeembed.common.files import write_json
from edgeembed.config.paths import Paths
from edgeembed.errors import HubError
from edgeembed.hub.catalogue import CatalogueEntry, Matryoshka, Prompts, catalogue
from edgeembed.hub.digests import Digests
from edgeembed.hub.download.partials import LOCK, PARTIALS, Partials, hold, remove_empty, remove_tree
from edgeembed.hub.facts import GgufFacts, entry_of, facts_of
from edgeembed.hub.gguf.header import read_header
from edgeembed.hub.usage import Usage

log = logging.getLogger(__name__)

Task = Literal["embed", "rerank"]

_STAGING = ".pull-"


class ModelManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is written down beside an installed file. A key of a newer version is ignored, so that one can go back."""

    name: str
    type: str
    sha256: str
    size_bytes: int
    mtime_ns: int
    source: str
    license: str | None = None
    converted_by: str | None = None
    """Program and version that made the GGUF file; None for a file taken as it came."""
    notes: list[str] = []
    """What the converter had to say, such as tensors that took another type."""
    installed_at: str
    """ISO 8601, UTC."""
    repo: str | None = None
    """Of the model hub; None for a file from elsewhere."""
    revision: str | None = None
    """The repository's commit."""
    file: str | None = None
    """The GGUF file in the repository; None for what was converted."""
    facts: GgufFacts | None = None
    """What the file says of itself, kept here because a header with a large vocabulary takes long to read."""


@dataclass(frozen=True)
class InstalledModel:
    """A model that can be served now."""

    name: str
    type: str
    path: Path
    digest: str
    """SHA-256 of the file, in hex."""
    size_bytes: int
    license: str | None
    prompts: Prompts
    dimensions: int | None
    matryoshka: Matryoshka | None
    source: str
    """Where it came from, for humans."""
    entry: CatalogueEntry | None
    task: Task = "embed"
    last_used: float | None = field(default=None, compare=False)
    """Unix seconds; None when it was never used."""

    @property
    def spec(self) -> str:
        """What names exactly this model in settings: NAME:TYPE, or the path of a file that is served in place."""
        return f"{self.name}:{self.type}" if self.path.name == f"{self.name}-{self.type}.gguf" else str(self.path)


class ModelFile(Protocol):
    """A model as far as its file goes."""

    @property
    def path(self) -> Path:
        """The GGUF file."""
        ...

    @property
    def digest(self) -> str:
        """Its SHA-256, in hex."""
        ...


class Store:
    """The models below one folder. Reading takes no lock; writing belongs to whoever holds the model's lock."""

    def __init__(self, paths: Paths) -> None:
        self._models = paths.models
        self._digests = Digests(paths.state / "digests.json")
        self._usage = Usage(paths.state / "last-used.json")

    def folder(self, name: str) -> Path:
        """Give the folder of one model; it need not exist."""
        return self._models / name

    def file(self, name: str, kind: str) -> Path:
        """Give the final path of one model in one quantisation type."""
        return self.folder(name) / f"{name}-{kind}.gguf"

    def contains(self, path: Path) -> bool:
        """Say whether a file is one of the installed ones."""
        return path.parent.parent == self._models and self.manifest(path) is not None

    def partials(self, name: str) -> Partials:
        """Give the place for the model's downloads that are not finished."""
        return Partials(self.folder(name) / PARTIALS)

    @contextlib.contextmanager
    def locked(self, name: str, waiting: Callable[[], object] | None = None) -> Iterator[None]:
        """Hold the lock of one model across processes; see `partials.hold`.

        The model's folder is there meanwhile, and removed at the end if nothing is in it; so the lock lies outside.
        """
        with hold(self._models / ".locks" / f"{name}{LOCK}", waiting):
            self.folder(name).mkdir(parents=True, exist_ok=True)
            try:
                yield
            finally:
                self.partials(name).prune()
                remove_empty(self.folder(name))

    @contextlib.contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """Give an empty folder that goes away again, on the disk of the model's own: the last step is a rename.

        What a killed process left of an earlier one is swept. The model's lock is held.
        """
        for stale in self.folder(name).glob(f"{_STAGING}*"):
            remove_tree(stale)
        with tempfile.TemporaryDirectory(dir=self.folder(name), prefix=_STAGING, ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def installed(self) -> list[InstalledModel]:
        """Give every installed model, by name and type. A file without a readable manifest is left out and logged."""
        return [
            model
            for path in sorted(self._models.glob("*/*.gguf"))
            if not path.parent.name.startswith(".") and (model := self._load(path)) is not None
        ]

    def find(self, name: str, kind: str | None = None) -> InstalledModel | None:
        """Give one installed model; without a type the catalogue's default, else the only or first one there is."""
        if kind is not None:
            return self._load(self.file(name, kind))
        entry = catalogue().get(name)
        if entry is not None and (model := self._load(self.file(name, entry.default_type))) is not None:
            return model
        for path in sorted(self.folder(name).glob(f"{name}-*.gguf")):
            if (model := self._load(path)) is not None:
                return model
        return None

    def local(self, path: Path, progress: Callable[[int, int], None] | None = None) -> InstalledModel:
        """Describe a GGUF file that is served where it lies.

        Prompts are those of the catalogue when the file's manifest names a model of it; else the file's own, where our
        converter put those of the checkpoint; else those of the model that its `general.name` names. Raises
        UnknownModelError when there is no such file, HubError when it is not a GGUF file.
        """
        path = path.expanduser().absolute()
        header = read_header(path)
        manifest = self.manifest(path)
        facts = facts_of(header, path)
        return self._describe(
            path,
            facts,
            manifest,
            name=path.stem,
            type=manifest.type if manifest else header.type,
            digest=self.digest(path, progress),
            license=manifest.license if manifest else facts.license,
            source=manifest.source if manifest else "a local file",
        )

    def add(self, staged: Path, manifest: ModelManifest, *, sound: bool = False) -> InstalledModel:
        """Move a finished file from the same disk to its final name, its manifest first, each by an atomic rename.

        `sound` says that the file passed `check_gguf`.
        """
        target = self.file(manifest.name, manifest.type)
        target.parent.mkdir(parents=True, exist_ok=True)
        with staged.open("rb+") as file:
            os.fsync(file.fileno())  # a power cut must not leave an empty file under a final name
        try:
            write_json(target.with_suffix(".json"), manifest)
            staged.replace(target)
        except PermissionError as error:  # Windows, while the older file is served
            raise HubError(f"{target} cannot be replaced, it is in use; stop what serves it and try again") from error
        self._digests.remember(target, manifest.sha256, sound=sound)
        model = self._load(target)
        if model is None:
            raise HubError(f"{target} vanished while it was installed")
        return model

    def remove(self, model: InstalledModel) -> int:
        """Remove an installed model and what is left of its downloads, and give the bytes that are free now.

        Raises HubError when it lies outside the store, is being fetched, or is in use on a system where files in use
        cannot be removed.
        """
        folder = self.folder(model.name)
        if model.path.parent != folder:
            raise HubError(f"{model.path} is not in the store of edgeembed, so it is yours to remove")
        try:
            with self.locked(model.name):
                freed = self._unlink(model.path)
                freed += self._unlink(model.path.with_suffix(".json"))
                if not any(folder.glob("*.gguf")):
                    freed += sum(self._parts(folder).values())
                    for left in (folder / PARTIALS, *folder.glob(f"{_STAGING}*")):
                        remove_tree(left)
                    (folder / LOCK).unlink(missing_ok=True)  # where versions before 0.2 kept it
        except Timeout as error:
            raise _is_being_fetched(model.name) from error
        self._usage.forget(model.digest)
        return freed

    def unfinished(self) -> dict[str, dict[Path, int]]:
        """Give what lies here of pulls that have not ended: the files and their bytes, by the name of the model."""
        folders = sorted(folder for folder in self._models.glob("*") if not folder.name.startswith("."))
        return {folder.name: parts for folder in folders if (parts := self._parts(folder))}

    def discard(self, name: str, parts: Iterable[Path]) -> int:
        """Remove files that `unfinished` gave, and give the bytes that are free now.

        Raises HubError when the model is being fetched, or a file cannot be removed.
        """
        try:
            with self.locked(name):
                freed = sum(self._unlink(part) for part in parts)
                for staging in self.folder(name).glob(f"{_STAGING}*"):
                    Partials(staging).prune()
                return freed
        except Timeout as error:
            raise _is_being_fetched(name) from error

    def _parts(self, folder: Path) -> dict[Path, int]:
        found: dict[Path, int] = {}
        for left in (PARTIALS, f"{_STAGING}*"):
            for path in sorted(folder.glob(f"{left}/**/*")):
                with contextlib.suppress(FileNotFoundError):  # a pull that is running has just moved it
                    if path.suffix != LOCK and path.is_file():
                        found[path] = path.stat().st_size
        return found

    def mark_used(self, digest_or_model: str | InstalledModel) -> None:
        """Write down that a model is used now; cheap, and never raises."""
        self._usage.mark(digest_or_model if isinstance(digest_or_model, str) else digest_or_model.digest)

    def require_sound(self, model: ModelFile) -> None:
        """Check a model's file before llama.cpp opens it; once for each file and version.

        Raises HubError with the reason when it is damaged or hostile, UnknownModelError when it is gone.
        """
        from edgeembed.hub.gguf.check import check_gguf

        with contextlib.suppress(OSError):
            if self._digests.is_sound(model.path, model.digest):
                return
        check_gguf(model.path)
        with contextlib.suppress(OSError):
            self._digests.remember(model.path, model.digest, sound=True)

    def digest(self, path: Path, progress: Callable[[int, int], None] | None = None) -> str:
        """Give the SHA-256 of a file in hex; it is read once per path, size and modification time.

        `progress` is called with bytes done and bytes in all. Raises UnknownModelError or HubError when the file
        cannot be read.
        """
        return self._digests.of(path, progress)

    def manifest(self, path: Path) -> ModelManifest | None:
        """Read the manifest beside a file; None when there is none that can be read."""
        beside = path.with_suffix(".json")
        try:
            return msgspec.json.decode(beside.read_bytes(), type=ModelManifest)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            log.warning("cannot read the manifest %s: %s", beside, error)
            return None

    def _load(self, path: Path) -> InstalledModel | None:
        if not path.is_file():
            return None
        manifest = self.manifest(path)
        if manifest is None:
            log.warning("%s has no readable manifest; pull it again, or serve it by its path", path)
            return None
        status = path.stat()
        facts = manifest.facts
        if (manifest.size_bytes, manifest.mtime_ns) == (status.st_size, status.st_mtime_ns):
            digest = manifest.sha256
        else:
            facts = None
            if (digest := self.digest(path)) != manifest.sha256:
                log.warning("%s was changed after it was installed; its digest is now %s", path, digest)
        try:
            facts = facts or facts_of(read_header(path), path)
        except HubError as error:
            log.warning("%s is left out: %s", path, error)
            return None
        return self._describe(
            path,
            facts,
            manifest,
            name=manifest.name,
            type=manifest.type,
            digest=digest,
            license=manifest.license,
            source=manifest.source,
        )

    def _describe(
        self,
        path: Path,
        facts: GgufFacts,
        manifest: ModelManifest | None,
        *,
        name: str,
        type: str,  # noqa: A002 - the name of the field
        digest: str,
        license: str | None,  # noqa: A002
        source: str,
    ) -> InstalledModel:
        entry = entry_of(facts, manifest.name if manifest else None)
        curated = entry is not None and manifest is not None and entry.name == manifest.name
        own = GgufFacts() if curated else facts
        ranks = facts.ranks if facts.ranks is not None else entry is not None and entry.pooling == "rank"
        return InstalledModel(
            name=name,
            type=type,
            path=path,
            digest=digest,
            size_bytes=path.stat().st_size,
            license=license or (entry.license if entry else None),
            prompts=own.own_prompts or (entry.prompts if entry else Prompts()),
            dimensions=own.dimensions or (entry.dimensions if entry else None),
            matryoshka=own.own_matryoshka or (entry.matryoshka if entry else None),
            source=source,
            entry=entry,
            task="rerank" if ranks else "embed",
            last_used=self._usage.all().get(digest),
        )

    def _unlink(self, path: Path) -> int:
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        except PermissionError as error:
            raise HubError(
                f"{path} cannot be removed: {error.strerror}. Where it is served by a running edgeembed, stop that first "
                "(edgeembed ps shows it)"
            ) from error
        except OSError as error:
            raise HubError(f"{path} cannot be removed: {error.strerror or error}") from error
        return size


def _is_being_fetched(name: str) -> HubError:
    return HubError(f"{name} is being fetched by another process; try again when that has ended")
