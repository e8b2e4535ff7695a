"""Installed models: GGUF files under `Paths.models`, each with a manifest beside it, and GGUF files elsewhere."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from edgeembed.common.files import (
    FileIdentity,
    describe_os_error,
    expanded,
    file_sizes,
    matching,
    read_json_or_warn,
    write_json,
)
from edgeembed.config.paths import Paths
from edgeembed.engine.classes import Classes
from edgeembed.engine.interface import DENSE, Output, Task
from edgeembed.errors import DamagedModelError, HubError
from edgeembed.hub.catalogue import CatalogueEntry, Matryoshka, Prompts, catalogue
from edgeembed.hub.digests import Digests, Identified
from edgeembed.hub.download.partials import LOCK, PARTIALS, LockedError, Partials, hold, remove_empty, remove_tree
from edgeembed.hub.facts import GgufFacts, entry_of, facts_of
from edgeembed.hub.gguf.frames import frame_of_foreign
from edgeembed.hub.gguf.header import read_header
from edgeembed.hub.integrity import damaged
from edgeembed.hub.manifest import ModelManifest
from edgeembed.hub.usage import Usage

log = logging.getLogger(__name__)

_STAGING = ".pull-"


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
    """Where it came from, as text."""
    entry: CatalogueEntry | None
    task: Task = "embed"
    classes: Classes | None = None
    """Of a classifier."""
    outputs: tuple[Output, ...] = DENSE
    """What the file has heads for."""
    max_sim: str | None = None
    """How it scores documents by the vectors of tokens: sum or mean; see `edgeembed.engine.late_interaction`."""
    token_dimensions: int | None = None
    """Length of the vectors of tokens."""
    max_seq_length: int | None = None
    """The length in tokens for which its makers use it, if it takes longer texts."""
    notes: list[str] = field(default_factory=list)
    """What the file does in another way than the checkpoint that it was converted from."""
    last_used: float | None = field(default=None, compare=False)
    """Unix seconds; None if it was never used."""
    damage: DamagedModelError | None = field(default=None, compare=False)
    """Why the file must not be served: its bytes are not those that were installed, whose SHA-256 is `digest`."""

    @property
    def mends(self) -> tuple[str, ...]:
        """How the frame of a file of another converter is mended, as "KEY=VALUE"; empty if the file cannot be read."""
        try:
            frame = None if self.damage else frame_of_foreign(self.path)
        except HubError:
            return ()
        return tuple(f"{key}={value}" for key, value in sorted(frame.mends.items())) if frame else ()

    @property
    def spec(self) -> str:
        """The exact name of this model in settings: NAME:TYPE, or the path of a file that is served in place."""
        return f"{self.name}:{self.type}" if self.path.name == f"{self.name}-{self.type}.gguf" else str(self.path)


class ModelFile(Protocol):
    """The file of a model."""

    @property
    def path(self) -> Path:
        """The GGUF file."""
        ...

    @property
    def digest(self) -> str:
        """Its SHA-256, in hex."""
        ...


class Store:
    """The models below one folder. Reading needs no lock; writers hold the model's lock."""

    def __init__(self, paths: Paths) -> None:
        self._models = paths.models
        self._digests = Digests(paths.state / "digests.json")
        self._usage = Usage(paths.state / "last-used.json")

    def folder(self, name: str) -> Path:
        """Return the folder of a model; it need not exist."""
        return self._models / name

    def file(self, name: str, kind: str) -> Path:
        """Return the path of an installed model of one quantisation type."""
        return self.folder(name) / f"{name}-{kind}.gguf"

    def contains(self, path: Path) -> bool:
        """Return whether a file is an installed model."""
        return path.parent.parent == self._models and self.manifest(path) is not None

    def partials(self, name: str) -> Partials:
        """Return the model's folder of partial downloads."""
        return Partials(self.folder(name) / PARTIALS)

    @contextlib.contextmanager
    def locked(self, name: str, waiting: Callable[[], object] | None = None) -> Iterator[None]:
        """Hold the lock of one model across processes; see `partials.hold`.

        Creates the model's folder, and removes it at the end if it is empty; so the lock is outside of it.
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
        """Yield an empty temporary folder on the same disk as the model's, so that the last step is a rename.

        Folders that killed processes left are removed. The caller holds the model's lock.
        """
        for stale in matching(self.folder(name), f"{_STAGING}*"):
            remove_tree(stale)
        with tempfile.TemporaryDirectory(dir=self.folder(name), prefix=_STAGING, ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def installed(self) -> list[InstalledModel]:
        """Return all installed models, by name and type, damaged ones included.

        A file without a readable manifest is skipped and logged.
        """
        return [
            model
            for path in matching(self._models, "*/*.gguf")
            if not path.parent.name.startswith(".") and (model := self._load(path)) is not None
        ]

    def find(self, name: str, kind: str | None = None) -> InstalledModel | None:
        """Return an installed model; without a type, that of the catalogue's default type, or else the first one."""
        if kind is not None:
            return self._load(self.file(name, kind))
        entry = catalogue().get(name)
        if entry is not None and (model := self._load(self.file(name, entry.default_type))) is not None:
            return model
        for path in matching(self.folder(name), f"{name}-*.gguf"):
            if (model := self._load(path)) is not None:
                return model
        return None

    def local(self, path: Path, progress: Callable[[int, int], None] | None = None) -> InstalledModel:
        """Return the model in a GGUF file that is served in place.

        Its prompts are those of the catalogue if its manifest names a catalogue model; else the file's own, written by our
        converter; else those of the catalogue model in its `general.name`. Raises UnknownModelError if there is no such
        file, HubError if it is not a GGUF file.
        """
        path = expanded(str(path))
        if self.contains(path) and (installed := self._load(path)) is not None and installed.damage:
            return installed
        header = read_header(path)
        manifest = self.manifest(path)
        facts = facts_of(header, path)
        kind = manifest.type if manifest else header.type
        return self._describe(path, facts, manifest, digest=self.identify(path, progress).sha256, name=path.stem, kind=kind)

    def at(self, path: Path) -> InstalledModel:
        """Return the model in a file, whether it was installed or is served in place. Raises what `local` raises."""
        return (self._load(path) if self.contains(path) else None) or self.local(path)

    def add(self, staged: Path, manifest: ModelManifest, *, sound: bool = False) -> InstalledModel:
        """Move a finished file on the same disk to its final path, after its manifest, each with an atomic rename.

        sound: whether the file passed `check_gguf`. Raises HubError if a file in use cannot be replaced.
        """
        target = self.file(manifest.name, manifest.type)
        target.parent.mkdir(parents=True, exist_ok=True)
        with staged.open("rb+") as file:
            os.fsync(file.fileno())  # a power cut must not leave an empty file under a final name
        try:
            write_json(target.with_suffix(".json"), manifest)
            staged.replace(target)
        except PermissionError as error:  # Windows, while the older file is served
            raise HubError(
                f"cannot replace {target}, which is in use; stop the program that serves it and try again"
            ) from error
        self._digests.remember(target, Identified(manifest.sha256, FileIdentity.of(target)), sound=sound)
        model = self._load(target)
        if model is None:
            raise HubError(f"{target} disappeared while it was installed")
        return model

    def remove(self, model: InstalledModel) -> int:
        """Remove an installed model and its partial downloads, and return the bytes that were freed.

        Raises HubError if it is outside the store, is being downloaded, or is in use on a system that cannot remove files in
        use.
        """
        folder = self.folder(model.name)
        if model.path.parent != folder:
            raise HubError(f"{model.path} was not installed by edgeembed; remove the file yourself")
        try:
            with self.locked(model.name):
                freed = self._unlink(model.path)
                freed += self._unlink(model.path.with_suffix(".json"))
                if not matching(folder, "*.gguf"):
                    freed += sum(self._parts(folder).values())
                    for left in (folder / PARTIALS, *matching(folder, f"{_STAGING}*")):
                        remove_tree(left)
                    (folder / LOCK).unlink(missing_ok=True)  # where versions before 0.2 kept it
        except LockedError as error:
            raise _is_being_downloaded(model.name) from error
        self._usage.forget(model.digest)
        return freed

    def unfinished(self) -> dict[str, dict[Path, int]]:
        """Return the files of unfinished pulls and their sizes in bytes, by the name of the model."""
        folders = [folder for folder in matching(self._models, "*") if not folder.name.startswith(".")]
        return {folder.name: parts for folder in folders if (parts := self._parts(folder))}

    def discard(self, name: str, parts: Iterable[Path]) -> int:
        """Remove files that `unfinished` returned, and return the bytes that were freed.

        Raises HubError if the model is being downloaded, or a file cannot be removed.
        """
        try:
            with self.locked(name):
                freed = sum(self._unlink(part) for part in parts)
                for staging in matching(self.folder(name), f"{_STAGING}*"):
                    Partials(staging).prune()
                return freed
        except LockedError as error:
            raise _is_being_downloaded(name) from error

    def _parts(self, folder: Path) -> dict[Path, int]:
        lefts = (folder / PARTIALS, *matching(folder, f"{_STAGING}*"))
        return {path: size for left in lefts for path, size in file_sizes(left).items() if path.suffix != LOCK}

    def mark_used(self, digest_or_model: str | InstalledModel) -> None:
        """Record that a model is used now; cheap, and never raises."""
        self._usage.mark(digest_or_model if isinstance(digest_or_model, str) else digest_or_model.digest)

    def require_sound(self, model: ModelFile) -> None:
        """Check a model's file before llama.cpp opens it, once per file and version of edgeembed.

        Raises HubError with the reason if it is damaged or hostile, UnknownModelError if it does not exist.
        """
        from edgeembed.hub.gguf.check import check_gguf

        found = self.identify(model.path)
        if self._digests.is_sound(model.path, found):
            return
        check_gguf(model.path)
        if self.identify(model.path) != found:
            raise HubError(f"{model.path} changed while it was checked; wait until it is complete and try again")
        self._digests.remember(model.path, found, sound=True)

    def identify(self, path: Path, progress: Callable[[int, int], None] | None = None) -> Identified:
        """Return the SHA-256 and the identity of a file; see `Digests.of`."""
        return self._digests.of(path, progress)

    def damage(
        self, model: ModelFile, progress: Callable[[int, int], None] | None = None, *, read_again: bool = True
    ) -> DamagedModelError | None:
        """Return what is wrong with a file if its SHA-256 is not `model.digest`; None if it is, or if it was replaced.

        read_again: read all of it, as size and time do not show what a failing disk does; the result is remembered. Raises
        HubError if it cannot be read.
        """
        manifest = self.manifest(model.path) if self.contains(model.path) else None
        found = self._digests.of(model.path, progress, read_again=read_again).sha256
        replaced = not read_again if manifest is None else manifest.sha256 != model.digest
        if found == model.digest or replaced:
            return None
        return damaged(model.path, model.digest, found, manifest)

    def manifest(self, path: Path) -> ModelManifest | None:
        """Return the manifest beside a file; None if there is no readable one."""
        beside = path.with_suffix(".json")
        return read_json_or_warn(beside, ModelManifest, "its model counts as not installed")

    def _load(self, path: Path) -> InstalledModel | None:
        """Return the model in a file; None if there is no file, or with a warning if it cannot be served."""
        try:
            return self._read(path) if path.is_file() else None
        except FileNotFoundError:  # another process has just removed it
            return None

    def _read(self, path: Path) -> InstalledModel | None:
        manifest = self.manifest(path)
        if manifest is None or self.file(manifest.name, manifest.type) != path:
            log.warning("%s has no readable manifest; pull it again, or serve it by its path", path)
            return None
        try:
            damage = self._damage(path, manifest)
            facts = manifest.facts
            if facts is None or (facts.ranks is None and not damage):  # an earlier version knew no pooling of it
                facts = GgufFacts() if damage else facts_of(read_header(path), path)
        except HubError as error:
            log.warning("skipping %s: %s", path, error)
            return None
        model = self._describe(path, facts, manifest, digest=manifest.sha256, name=manifest.name, kind=manifest.type)
        return replace(model, damage=damage)

    def _damage(self, path: Path, manifest: ModelManifest) -> DamagedModelError | None:
        """Return what is wrong with an installed file; it is read only if size, time and earlier reads do not show that."""
        status = path.stat()
        if status.st_size != manifest.size_bytes:
            return damaged(path, manifest.sha256, None, manifest)
        if self._digests.last(path) is None and status.st_mtime_ns == manifest.mtime_ns:
            return None  # it was never read here, as after its folder was moved; it will be before it is served
        found = self.identify(path).sha256
        return None if found == manifest.sha256 else damaged(path, manifest.sha256, found, manifest)

    def _describe(
        self,
        path: Path,
        facts: GgufFacts,
        manifest: ModelManifest | None,
        *,
        digest: str,
        name: str,
        kind: str,
    ) -> InstalledModel:
        entry = entry_of(facts, manifest.name if manifest else None)
        curated = entry is not None and manifest is not None and entry.name == manifest.name
        own = GgufFacts() if curated else facts
        ranks = facts.ranks if facts.ranks is not None else entry is not None and entry.pooling == "rank"
        return InstalledModel(
            name=name,
            type=kind,
            path=path,
            digest=digest,
            size_bytes=path.stat().st_size,
            license=(manifest.license if manifest else facts.license) or (entry.license if entry else None),
            prompts=own.own_prompts or (entry.prompts if entry else Prompts()),
            dimensions=own.dimensions or (entry.dimensions if entry else None),
            matryoshka=own.own_matryoshka or (entry.matryoshka if entry else None),
            source=manifest.source if manifest else "a local file",
            entry=entry,
            task="embed" if not ranks else "classify" if facts.classes else "rerank",
            classes=facts.own_classes if ranks else None,
            outputs=facts.outputs,
            max_sim=facts.max_sim,
            token_dimensions=facts.token_dimensions,
            max_seq_length=facts.max_seq_length or (entry.max_seq_length if entry else None),
            notes=facts.notes,
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
                f"cannot remove {describe_os_error(error, path)}. If a running edgeembed serves it, stop that first "
                "(edgeembed ps shows it)"
            ) from error
        except OSError as error:
            raise HubError(f"cannot remove {describe_os_error(error, path)}") from error
        return size


def _is_being_downloaded(name: str) -> HubError:
    return HubError(f"{name} is being downloaded by another process; try again when that has finished")
