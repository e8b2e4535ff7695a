"""The menu as data: labels and what each entry does, for any toolkit to draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from edgeembed.common.progress import human_size
from edgeembed.common.status import ListedModel
from edgeembed.tray.state import State, View


class Do(Enum):
    """What an entry does. Some need an argument, which the entry carries."""

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
class Entry:
    """One line of the menu. Without `do` and without `inner` it only says something."""

    label: str
    do: Do | None = None
    argument: str = ""
    inner: tuple[Entry, ...] = ()
    enabled: bool = True
    checked: bool | None = None
    """None: it is nothing that one switches on and off."""
    radio: bool = False
    default: bool = False
    """What a click on the icon does where the desktop knows that."""


SEPARATOR = Entry("-")


@dataclass(frozen=True)
class Surroundings:
    """What the menu depends on besides the daemon.

    browsable: whether a browser can open the daemon's address. autostart: None where this system has no such thing.
    catalogue: names of models that can be fetched. pulling: those that are being fetched.
    """

    browsable: bool = True
    autostart: bool | None = None
    catalogue: tuple[str, ...] = ()
    pulling: frozenset[str] = frozenset()
    logs: bool = True


def make_menu(view: View, around: Surroundings) -> tuple[Entry, ...]:
    """Make the menu for what there is to show."""
    return (
        Entry(view.line, enabled=False),
        *(Entry(line, enabled=False) for line in _day_lines(view)),
        SEPARATOR,
        Entry("Open dashboard", Do.OPEN_DASHBOARD, enabled=view.answers and around.browsable, default=True),
        Entry("Copy base URL", Do.COPY_BASE_URL),
        Entry(
            "Copy snippet",
            inner=(Entry("curl", Do.COPY_SNIPPET, "curl"), Entry("Python", Do.COPY_SNIPPET, "python")),
        ),
        SEPARATOR,
        Entry("Model", inner=(*_models(view), *_more(view, around))),
        _run_entry(view),
        Entry("Cache", inner=_cache(view)),
        SEPARATOR,
        *([] if around.autostart is None else [Entry("Start at login", Do.AUTOSTART, checked=around.autostart)]),
        Entry("Open logs", Do.OPEN_LOGS, enabled=around.logs),
        Entry("Open settings", Do.OPEN_SETTINGS),
        Entry("Quit" if view.owned or not view.answers else "Quit (edgeembed goes on)", Do.QUIT),
    )


def _day_lines(view: View) -> Iterator[str]:
    day = view.day
    if day is None:
        return
    when = "today" if day.since is None else f"since {day.since:%H:%M}"
    rate = "" if day.hit_rate is None else f", {day.hit_rate:.0%} of texts from the cache"
    plural = "" if day.requests == 1 else "s"
    yield f"{day.requests:,} request{plural} {when}{rate}"


def _run_entry(view: View) -> Entry:
    if not view.answers:
        starting = view.state is State.LOADING
        return Entry("Start", Do.START, enabled=not starting and not view.owned)
    if view.paused:
        return Entry("Resume", Do.RESUME)
    return Entry("Pause", Do.PAUSE, enabled=view.paused is not None)


def _models(view: View) -> Iterator[Entry]:
    embedders = [model for model in view.models if model.task == "embed"]
    for model in embedders:
        yield Entry(model.id, Do.CHOOSE_MODEL, model.id, checked=_is_default(model, view), radio=True)
    if not embedders:
        yield Entry("none known", enabled=False)


def _is_default(model: ListedModel, view: View) -> bool:
    if model.id == f"{view.model}:{view.type}":
        return True
    return model.id == view.model and view.type in (None, model.type)


def _more(view: View, around: Surroundings) -> Sequence[Entry]:
    installed = {model.id.partition(":")[0] for model in view.models}
    offered = [name for name in around.catalogue if name not in installed]
    if not offered:
        return ()
    inner = tuple(
        Entry(f"{name} (is being fetched)", enabled=False) if name in around.pulling else Entry(name, Do.PULL_MODEL, name)
        for name in offered
    )
    return (SEPARATOR, Entry("Get more…", inner=inner))


def _cache(view: View) -> tuple[Entry, ...]:
    if view.cache is None:
        return (Entry("switched off" if view.answers else "not known while stopped", enabled=False),)
    size = f"{human_size(view.cache.memory_bytes + view.cache.answer_bytes)} in memory"
    if view.disk_bytes is not None:
        size += f", {human_size(view.disk_bytes)} on disk"
    # A menu cannot ask whether one is sure; a second step can.
    sure = Entry("Remove all vectors", Do.CLEAR_CACHE)
    return (Entry(size, enabled=False), Entry("Clear…", inner=(sure,)))
