"""Which changes of the daemon are worth a notification."""

from __future__ import annotations

from collections.abc import Iterator

from edgeembed.common.status import ListedModel
from edgeembed.tray.state import IconState, View

LONG_START_SECONDS = 20.0
"""A start that takes longer downloads or converts a model, and the user may be doing something else by then."""


def notifications(before: View | None, now: View, loading_seconds: float = 0.0) -> Iterator[tuple[str, str]]:
    """Yield title and text of a notification for each change between two polls.

    before: None at the start of the tray, which is no change. loading_seconds: how long the daemon had been loading.
    """
    if before is None:
        return
    loaded = before.state is IconState.LOADING and now.state in (IconState.READY, IconState.BUSY)
    if loaded and loading_seconds >= LONG_START_SECONDS:
        yield "edgeembed is ready", f"{now.model or 'The model'} is loaded."
    if before.state is not IconState.STOPPED and now.state is IconState.STOPPED:
        yield "edgeembed has stopped", now.reason or "The daemon does not respond."
    if not (before.answers and now.answers):
        return
    for model in new_models(before.models, now.models):
        yield "Model installed", f"{model.id} is ready to use; no restart needed."
    if before.pid == now.pid:
        for demotion in now.demotions[len(before.demotions) :]:
            yield (
                "Running slower",
                f"{demotion.mode} failed, now using {now.device}: {demotion.reason}",
            )
    if before.model == now.model and before.digest and now.digest and before.digest != now.digest:
        yield (
            "Model file changed",
            f"{now.model} is now a different file. Its vectors are not compatible with the old ones.",
        )
    if before.state is not IconState.DEGRADED and now.state is IconState.DEGRADED and now.demotions == before.demotions:
        yield "edgeembed has a problem", now.reason or "See the dashboard."


def new_models(before: tuple[ListedModel, ...], now: tuple[ListedModel, ...]) -> list[ListedModel]:
    """Return the models that were added; an empty list means that it had not been read yet."""
    old = {model.id for model in before}
    return [model for model in now if model.id not in old] if old else []
