"""The menu as data: labels and actions, independent of the toolkit that shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from edgeembed.common.progress import human_size
from edgeembed.tray.state import IconState, View


class Action(Enum):
    """What an entry does. Some take an argument, which is in the entry."""

    OPEN_DASHBOARD = "open dashboard"
    COPY_BASE_URL = "copy base url"
    COPY_SNIPPET = "copy snippet"
    CHOOSE_MODEL = "choose model"
    PULL_MODEL = "pull model"
    PAUSE = "pause"
    RESUME = "resume"
    START = "start"
    CLEAR_CACHE = "clear cache"
    AUTOSTART = "autostart"
    OPEN_LOGS = "open logs"
    OPEN_SETTINGS = "open settings"
    QUIT = "quit"


@dataclass(frozen=True)
class MenuEntry:
    """One line of the menu; plain text if it has neither an action nor a submenu."""

    label: str
    action: Action | None = None
    argument: str = ""
    submenu: tuple[MenuEntry, ...] = ()
    enabled: bool = True
    checked: bool | None = None
    """None: not a check box."""
    radio: bool = False
    default: bool = False
    """Whether a click on the icon does this, on desktops that support it."""


SEPARATOR = MenuEntry("-")


@dataclass(frozen=True)
class MenuContext:
    """What the menu depends on besides the daemon."""

    browsable: bool = True
    """Whether a browser can open the daemon's address."""
    autostart: bool | None = None
    """Whether the daemon starts at login; None: not supported on this system."""
    catalogue: tuple[str, ...] = ()
    """Names of models that can be downloaded."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Bytes of their files, as far as known."""
    pulling: frozenset[str] = frozenset()
    """Names of models that are being downloaded."""


def make_menu(view: View, context: MenuContext) -> tuple[MenuEntry, ...]:
    """Return the menu for the current view."""
    return (
        MenuEntry(view.line, enabled=False),
        *(MenuEntry(line, enabled=False) for line in _day_lines(view)),
        SEPARATOR,
        MenuEntry("Open dashboard", Action.OPEN_DASHBOARD, enabled=view.answers and context.browsable, default=True),
        MenuEntry("Copy base URL", Action.COPY_BASE_URL),
        MenuEntry(
            "Copy snippet",
            submenu=(MenuEntry("curl", Action.COPY_SNIPPET, "curl"), MenuEntry("Python", Action.COPY_SNIPPET, "python")),
        ),
        SEPARATOR,
        MenuEntry("Model", submenu=(*_models(view), *_downloads(view, context))),
        _run_entry(view),
        MenuEntry("Cache", submenu=_cache(view)),
        SEPARATOR,
        *([] if context.autostart is None else [MenuEntry("Start at login", Action.AUTOSTART, checked=context.autostart)]),
        MenuEntry("Open logs", Action.OPEN_LOGS),
        MenuEntry("Open settings", Action.OPEN_SETTINGS),
        MenuEntry("Quit" if view.owned or not view.answers else "Quit (the daemon keeps running)", Action.QUIT),
    )


def _day_lines(view: View) -> Iterator[str]:
    day = view.day
    if day is None:
        return
    when = "today" if day.since is None else f"since {day.since:%H:%M}"
    rate = "" if day.hit_rate is None else f", {day.hit_rate:.0%} of texts from the cache"
    plural = "" if day.requests == 1 else "s"
    yield f"{day.requests:,} request{plural} {when}{rate}"


def _run_entry(view: View) -> MenuEntry:
    if not view.answers:
        starting = view.state is IconState.LOADING
        return MenuEntry("Start", Action.START, enabled=not starting and not view.owned)
    if view.paused:
        return MenuEntry("Resume", Action.RESUME)
    return MenuEntry("Pause", Action.PAUSE, enabled=view.paused is not None)


def _models(view: View) -> Iterator[MenuEntry]:
    embedders = [model for model in view.models if model.task == "embed"]
    for model in embedders:
        yield MenuEntry(model.id, Action.CHOOSE_MODEL, model.id, checked=is_default(model.id, view), radio=True)
    if not embedders:
        yield MenuEntry("no models", enabled=False)


def is_default(label: str, view: View) -> bool:
    """Return whether the model with this label, NAME:TYPE or a name that has no type, is the one in use."""
    return label in (f"{view.model}:{view.type}", view.model)


def _downloads(view: View, context: MenuContext) -> Sequence[MenuEntry]:
    installed = {model.id.partition(":")[0] for model in view.models}
    offered = [name for name in context.catalogue if name not in installed]
    if not offered:
        return ()
    submenu = tuple(
        MenuEntry(f"{name} (downloading)", enabled=False)
        if name in context.pulling
        else MenuEntry(f"{name} ({human_size(size)})" if size else name, Action.PULL_MODEL, name)
        for name in offered
        for size in (context.sizes.get(name),)
    )
    return (SEPARATOR, MenuEntry("Get more…", submenu=submenu))


def _cache(view: View) -> tuple[MenuEntry, ...]:
    if view.cache is None:
        return (MenuEntry("off" if view.answers else "unknown while stopped", enabled=False),)
    size = f"{human_size(view.cache.memory_bytes + view.cache.answer_bytes)} in memory"
    if view.disk_bytes is not None:
        size += f", {human_size(view.disk_bytes)} on disk"
    # A menu cannot ask for confirmation, so clearing takes a second step.
    confirm = MenuEntry("Remove all vectors", Action.CLEAR_CACHE)
    return (MenuEntry(size, enabled=False), MenuEntry("Clear…", submenu=(confirm,)))
