"""Installed models: GGUF files under `Paths.models`, each with a manifest beside it, and the digests of any GGUF file."""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeembed.config import Paths
from edgeembed.errors import HubError, UnknownModelError
from edgeembed.hub.catalogue import CatalogueEntry, Matryoshka, Prompts, catalogue, match_general_name
from edgeembed.hub.gguf_header import GgufHeader, read_header

log = logging.getLogger(__name__)

_CHUNK = 4 * 2**20


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
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


class _Digest(msgspec.Struct, frozen=True):
    size: int
    mtime_ns: int
    sha256: str


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

    @property
    def spec(self) -> str:
        """What names exactly this model in settings: NAME:TYPE, or the path of a file that is served in place."""
        return f"{self.name}:{self.type}" if self.path.name == f"{self.name}-{self.type}.gguf" else str(self.path)


class Store:
    """The models below one folder. Reading takes no lock; writing belongs to whoever holds the model's lock."""

    def __init__(self, paths: Paths) -> None:
        self._models = paths.models
        self._digests = paths.state / "digests.json"

    def folder(self, name: str) -> Path:
        """Give the folder of one model; it need not exist."""
        return self._models / name

    def file(self, name: str, kind: str) -> Path:
        """Give the final path of one model in one quantisation type."""
        return self.folder(name) / f"{name}-{kind}.gguf"

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

        Prompts come from the catalogue when the file's manifest or its `general.name` says which model it is, else from the
        file itself, where our converter put those of the checkpoint. Raises
        UnknownModelError when there is no such file, HubError when it is not a GGUF file.
        """
        path = path.expanduser().absolute()
        header = read_header(path)
        manifest = self._manifest(path)
        entry = _entry_of(header, manifest)
        return InstalledModel(
            name=path.stem,
            type=manifest.type if manifest else header.type,
            path=path,
            digest=self.digest(path, progress),
            size_bytes=path.stat().st_size,
            license=entry.license if entry else header.text("general.license"),
            prompts=entry.prompts if entry else _prompts_of(header, path),
            dimensions=header.dimensions,
            matryoshka=entry.matryoshka if entry else _matryoshka_of(header),
            source=manifest.source if manifest else "a local file",
            entry=entry,
        )

    def add(self, staged: Path, manifest: Manifest) -> InstalledModel:
        """Move a finished file from the same disk to its final name, its manifest first, each by an atomic rename."""
        target = self.file(manifest.name, manifest.type)
        target.parent.mkdir(parents=True, exist_ok=True)
        with staged.open("rb+") as file:
            os.fsync(file.fileno())  # a power cut must not leave an empty file under a final name
        _write_atomically(target.with_suffix(".json"), msgspec.json.format(msgspec.json.encode(manifest), indent=2))
        staged.replace(target)
        self._remember(target, manifest.sha256)
        model = self._load(target)
        if model is None:
            raise HubError(f"{target} vanished while it was installed")
        return model

    def digest(self, path: Path, progress: Callable[[int, int], None] | None = None) -> str:
        """Give the SHA-256 of a file in hex; it is read once per path, size and modification time.

        `progress` is called with bytes done and bytes in all. Raises UnknownModelError or HubError when the file
        cannot be read.
        """
        path = path.absolute()
        try:
            before = path.stat()
            known = self._known().get(str(path))
            if known and (known.size, known.mtime_ns) == (before.st_size, before.st_mtime_ns):
                return known.sha256
            sha256 = sha256_of(path, progress)
            after = path.stat()
        except FileNotFoundError as error:
            raise UnknownModelError(f"there is no file {path}") from error
        except OSError as error:
            raise HubError(f"cannot read {path}: {error.strerror or error}") from error
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise HubError(f"{path} changed while it was read; is something still writing it?")
        self._remember(path, sha256)
        return sha256

    def _load(self, path: Path) -> InstalledModel | None:
        if not path.is_file():
            return None
        manifest = self._manifest(path)
        if manifest is None:
            log.warning("%s has no readable manifest; pull it again, or serve it by its path", path)
            return None
        status = path.stat()
        if (manifest.size_bytes, manifest.mtime_ns) == (status.st_size, status.st_mtime_ns):
            digest = manifest.sha256
        elif (digest := self.digest(path)) != manifest.sha256:
            log.warning("%s was changed after it was installed; its digest is now %s", path, digest)
        entry = catalogue().get(manifest.name)
        return InstalledModel(
            name=manifest.name,
            type=manifest.type,
            path=path,
            digest=digest,
            size_bytes=status.st_size,
            license=manifest.license,
            prompts=entry.prompts if entry else Prompts(),
            dimensions=entry.dimensions if entry else read_header(path).dimensions,
            matryoshka=entry.matryoshka if entry else None,
            source=manifest.source,
            entry=entry,
        )

    def _manifest(self, path: Path) -> Manifest | None:
        beside = path.with_suffix(".json")
        try:
            return msgspec.json.decode(beside.read_bytes(), type=Manifest)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            log.warning("cannot read the manifest %s: %s", beside, error)
            return None

    def _known(self) -> dict[str, _Digest]:
        try:
            return msgspec.json.decode(self._digests.read_bytes(), type=dict[str, _Digest])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            log.warning("cannot read %s, files are hashed again: %s", self._digests, error)
            return {}

    def _remember(self, path: Path, sha256: str) -> None:
        """Write one digest down, and drop those of files that are gone."""
        status = path.stat()
        known = {name: digest for name, digest in self._known().items() if Path(name).exists()}
        known[str(path.absolute())] = _Digest(status.st_size, status.st_mtime_ns, sha256)
        try:
            _write_atomically(self._digests, msgspec.json.format(msgspec.json.encode(known), indent=1))
        except OSError as error:
            log.warning("cannot write %s, %s will be hashed again: %s", self._digests, path.name, error)


def sha256_of(path: Path, progress: Callable[[int, int], None] | None = None) -> str:
    """Hash a file of any size with constant memory; `progress` gets bytes done and bytes in all."""
    total = path.stat().st_size
    done = 0
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    return digest.hexdigest()


def _prompts_of(header: GgufHeader, path: Path) -> Prompts:
    """Read `edgeembed.prompt.*`. Raises HubError for a template that cannot be filled."""
    found = {kind: header.text(f"edgeembed.prompt.{kind}") for kind in ("query", "document", "instruction")}
    try:
        return Prompts(**{kind: text for kind, text in found.items() if text is not None})
    except ValueError as error:
        raise HubError(f"{path}: {error}") from error


def _matryoshka_of(header: GgufHeader) -> Matryoshka | None:
    least, most = header.number("edgeembed.matryoshka.min"), header.number("edgeembed.matryoshka.max")
    return Matryoshka(least, most) if least and most else None


def _entry_of(header: GgufHeader, manifest: Manifest | None) -> CatalogueEntry | None:
    if manifest is not None and (entry := catalogue().get(manifest.name)):
        return entry
    entry = match_general_name(header.text("general.name") or "")
    # A name is easily given; the prompts of another model would spoil every vector in silence.
    if entry and (entry.architecture, entry.dimensions) == (header.architecture, header.dimensions):
        return entry
    return None


def _write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are for their owner alone, while models may be shared.
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
