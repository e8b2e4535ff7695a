"""`edgeembed rm`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeembed.cli.completion import complete_installed
from edgeembed.cli.printing import print_json, to_stderr
from edgeembed.common.files import expanded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeembed.config.resolution import Resolved
    from edgeembed.config.settings import Settings
    from edgeembed.hub.store import InstalledModel, Store


@click.command()
@click.argument("specs", metavar="NAME[:TYPE]...", nargs=-1, required=True, shell_complete=complete_installed)
@click.option("-y", "--yes", is_flag=True, help="Remove without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rm(specs: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Remove installed models and print how much disk space that frees.

    NAME removes every installed type of a model, NAME:TYPE only one. The same names remove unfinished downloads. Your own
    GGUF files, which were not installed with `edgeembed pull`, are not touched.

    You are asked first if NAME is installed in several types, if the settings name the model, or if a running daemon has
    loaded it. Without a terminal, such a removal needs --yes.

    \b
    Examples:
      edgeembed rm all-minilm-l6-v2:F16
      edgeembed rm bge-small-en-v1.5 bge-m3:Q8_0
      edgeembed rm qwen3-embedding-0.6b --yes   even if it is the default, or loaded

    Exits with 2, and removes nothing, if a model is not installed; with 1 if a file could not be removed or you answered no.
    """
    from edgeembed.common.progress import human_size
    from edgeembed.config.resolution import resolve
    from edgeembed.hub.store import Store

    resolved = resolve()
    store = Store(resolved.paths)
    wanted, parts, several = _find(specs, store, resolved)
    if not yes:
        _confirm(several + _configured(wanted, resolved) + _loaded(wanted, resolved.settings))
    removed, failed = _remove_models(wanted, store, quiet=as_json)
    discarded, failed_parts = _discard_downloads(parts, store, quiet=as_json)
    failed += failed_parts
    total = sum(row["freed_bytes"] for row in (*removed, *discarded))
    if as_json:
        print_json({"removed": removed, "unfinished": discarded, "failed": failed, "freed_bytes": total})
    elif len(removed) + len(discarded) > 1:
        click.echo(f"{human_size(total)} in total")
    sys.exit(1 if failed else 0)


def _remove_models(
    models: list[InstalledModel], store: Store, *, quiet: bool
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Remove models, and return what was removed and what failed, as for --json."""
    from edgeembed.common.progress import human_size
    from edgeembed.errors import HubError

    removed: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for model in models:
        try:
            freed = store.remove(model)
        except HubError as error:
            failed.append({"path": str(model.path), "reason": error.message})
            to_stderr(f"error: {error.message}")
            continue
        removed.append({"name": model.name, "type": model.type, "path": str(model.path), "freed_bytes": freed})
        if not quiet:
            click.echo(f"removed {model.name}:{model.type}, {human_size(freed)}")
    return removed, failed


def _discard_downloads(
    parts: dict[str, list[Path]], store: Store, *, quiet: bool
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Remove the files of unfinished downloads, and return what was removed and what failed, as for --json."""
    from edgeembed.common.progress import human_size
    from edgeembed.errors import HubError

    discarded: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for name, files in parts.items():
        try:
            freed = store.discard(name, files)
        except HubError as error:
            failed += [{"path": str(path), "reason": error.message} for path in files]
            to_stderr(f"error: {error.message}")
            continue
        discarded.append({"name": name, "paths": [str(path) for path in files], "freed_bytes": freed})
        if not quiet:
            click.echo(f"removed the unfinished download of {name}, {human_size(freed)}")
    return discarded, failed


def _find(
    specs: tuple[str, ...], store: Store, resolved: Resolved
) -> tuple[list[InstalledModel], dict[str, list[Path]], list[str]]:
    """Return the models that the arguments name, the files of unfinished downloads by name, and questions to ask first.

    An argument names a download only if it names no installed model. Raises UnknownModelError if it names neither.
    """
    from edgeembed.hub.install import find_installed
    from edgeembed.hub.other_names import meaning
    from edgeembed.hub.references import unfinished_files

    installed, unfinished = store.installed(), store.unfinished()
    wanted: dict[Path, InstalledModel] = {}
    parts: dict[str, list[Path]] = {}
    several = []
    for spec in specs:
        found = [model for model in installed if _means(spec, model)]
        if not found and (meant := meaning(spec)) is not None:
            found = [model for model in installed if _means(meant.spec, model)]
        if spec[:3].lower() == "hf:":
            found = [model] if (model := find_installed(spec, paths=resolved.paths, settings=resolved.settings)) else []
        if not found:
            if not (half := unfinished_files(spec, unfinished)):
                raise _unknown(spec, installed, unfinished)
            for name, files in half.items():
                parts[name] = list(dict.fromkeys([*parts.get(name, []), *files]))
        if len(found) > 1:
            several.append(f"{found[0].name} is installed as {', '.join(model.type for model in found)}; all are removed")
        wanted |= {model.path: model for model in found}
    return list(wanted.values()), parts, several


def _means(spec: str, model: InstalledModel) -> bool:
    name, _, kind = spec.partition(":")
    if (name.lower(), kind.upper()) in ((model.name.lower(), ""), (model.name.lower(), model.type.upper())):
        return True
    return spec.lower().endswith(".gguf") and expanded(spec) == model.path.absolute()


def _unknown(spec: str, installed: list[InstalledModel], unfinished: dict[str, dict[Path, int]]) -> Exception:
    import difflib

    from edgeembed.errors import UnknownModelError

    from_hub = spec[:3].lower() == "hf:"
    if spec.lower().endswith(".gguf") and not from_hub:
        return UnknownModelError(f"{spec} was not installed by edgeembed; delete the file yourself")
    names = sorted({model.name for model in installed})
    name, _, kind = (spec, "", "") if from_hub else spec.partition(":")
    kinds = [model.type for model in installed if model.name.lower() == name.lower()]
    if kinds:
        return UnknownModelError(f"{name} is installed as {', '.join(kinds)}, not as {kind.upper()}; nothing was removed")
    near = difflib.get_close_matches(name.lower(), [*names, *unfinished], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    there = [f"Installed: {', '.join(names)}" if names else "No models are installed"]
    if unfinished:
        there.append(f"unfinished downloads: {', '.join(unfinished)}")
    if names or unfinished:
        there.append("nothing was removed")
    return UnknownModelError(f"no model named {name!r} is installed.{hint} {'; '.join(there)}")


def _configured(wanted: list[InstalledModel], resolved: Resolved) -> list[str]:
    """Return a line for each model that the settings name."""
    settings = resolved.settings
    behind_aliases = [word.removesuffix(":query").removesuffix(":document") for word in settings.aliases.values()]
    naming: list[tuple[str, Sequence[str | None]]] = [
        ("model", [settings.model]),
        ("preload", settings.preload),
        ("pin", settings.pin),
        ("aliases", behind_aliases),
    ]
    found = []
    for setting, words in naming:
        paths = {_path_of(word, resolved) for word in words if word}
        then = "; the daemon installs it again at its next start" if setting == "model" else ""
        found += [
            f"{model.name}:{model.type} is named by the setting {setting} ({resolved.origins[setting]}){then}"
            for model in wanted
            if model.path in paths
        ]
    return found


def _path_of(word: str, resolved: Resolved) -> Path | None:
    """Return the installed file that a setting names, or None if there is none."""
    from edgeembed.errors import EdgeEmbedError
    from edgeembed.hub.install import find_installed

    if word.lower().endswith(".gguf") and not word.lower().startswith("hf:"):
        return expanded(word)
    try:
        model = find_installed(word, paths=resolved.paths, settings=resolved.settings)
    except EdgeEmbedError:
        return None
    return model.path if model else None


def _loaded(wanted: list[InstalledModel], settings: Settings) -> list[str]:
    """Return a line for each model that a running daemon has loaded."""
    from edgeembed.client import ask_status, read_status
    from edgeembed.errors import EdgeEmbedError

    try:
        reply = ask_status(settings, seconds=2.0)
        status = read_status(reply) if reply else None
    except EdgeEmbedError as error:
        to_stderr(f"note: cannot check whether a daemon uses the model: {error.message}")
        return []
    there = {Path(model.path): model for model in status.models} if status else {}
    return [
        f"{model.name}:{model.type} is {loaded.state} in the running daemon (process {status.pid}); once "
        "unloaded, it cannot be loaded again"
        for model in wanted
        if status and (loaded := there.get(model.path)) and loaded.state not in ("failed", "stopped")
    ]


def _confirm(reasons: list[str]) -> None:
    """Ask on the terminal, and exit with 1 if the answer is no. Raises ConfigError without a terminal."""
    from edgeembed.errors import ConfigError

    if not reasons:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"nothing was removed: {'; '.join(reasons)}. Remove anyway with --yes")
    for reason in reasons:
        to_stderr(reason)
    if not click.confirm("Remove?", err=True):
        to_stderr("nothing was removed")
        sys.exit(1)
