"""What is worth a notification, told from two looks at the daemon."""

from __future__ import annotations

from collections.abc import Iterator

from edgeembed.common.status import ListedModel
from edgeembed.tray.state import State, View

LONG_START_SECONDS = 20.0
"""A start that took longer has fetched or converted a model, and whoever waits may have looked away."""


def news(before: View | None, now: View, loading_seconds: float = 0.0) -> Iterator[tuple[str, str]]:
    """Give title and text of what happened between two looks; loading_seconds: how long it had been loading before.

    What was so when the tray started is no news.
    """
    if before is None:
        return
    if before.state is State.LOADING and now.state in (State.READY, State.BUSY) and loading_seconds >= LONG_START_SECONDS:
        yield "edgeembed is ready", f"{now.model or 'The model'} answers now."
    if before.state is not State.STOPPED and now.state is State.STOPPED:
        yield "edgeembed has stopped", now.reason or "No daemon answers any more."
    if not (before.answers and now.answers):
        return
    for model in fresh_models(before.models, now.models):
        yield "A model is installed", f"{model.id} can be asked for now; no restart is needed."
    if before.pid == now.pid:
        for demotion in now.demotions[len(before.demotions) :]:
            yield (
                "Slower than before",
                f"{demotion.mode} did not hold, edgeembed goes on with {now.device}: {demotion.reason}",
            )
    if before.model == now.model and before.digest and now.digest and before.digest != now.digest:
        yield (
            "The model's file has changed",
            f"{now.model} is another file than before. Its vectors do not mix with those of the old one.",
        )
    if before.state is not State.DEGRADED and now.state is State.DEGRADED and now.demotions == before.demotions:
        yield "edgeembed is not well", now.reason or "The dashboard says more."


def fresh_models(before: tuple[ListedModel, ...], now: tuple[ListedModel, ...]) -> list[ListedModel]:
    """Give the models that came; a list that was empty had not been read yet."""
    known = {model.id for model in before}
    return [model for model in now if model.id not in known] if known else []
