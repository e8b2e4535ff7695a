"""`edgeembed ps`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgeembed.cli.printing import print_json, print_table, short_duration
from edgeembed.cli.settings import setting_options
from edgeembed.common.log_content import printable

if TYPE_CHECKING:
    from edgeembed.common.status import DaemonStatus, LoadedModel


_HISTOGRAM = ("norm_bounds", "norm_buckets")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the daemon's status as JSON.")
@setting_options("host", "port", "uds")
def ps(as_json: bool, **flags: str | None) -> None:
    """Show the models that a running daemon has loaded, their memory and when they are unloaded.

    IDLE is the time since the last request, or "busy". UNLOADS IN is the time until an idle model is unloaded (settings
    keep_alive and keep_alive_of); pinned models stay loaded. If another model needs the memory, an idle one is unloaded
    earlier. The model marked * answers requests that name no model.

    \b
    Examples:
      edgeembed ps
      edgeembed ps --port 9000                a daemon on another port
      edgeembed ps --json                     with counts, paths and digests

    The JSON is that of GET /v1/status without `activity`, the steps of the dashboard's charts, and without the histogram of
    `vectors`, which is a metric.

    Exits with 1 if no daemon is running.
    """
    from edgeembed.cli.address import resolve_address
    from edgeembed.client import ask_status, daemon_url, read_status
    from edgeembed.errors import EdgeEmbedError

    settings = resolve_address(flags).settings
    url = daemon_url(settings)
    reply = ask_status(settings)
    if reply is None:
        hint = "give its port with --port" if settings.port == 0 and not settings.uds else "start one: edgeembed start"
        raise EdgeEmbedError(f"no daemon is running at {url}; {hint}")
    if as_json:
        print_json({"url": url, **_without_charts(reply.body)})
        return
    _print(url, read_status(reply))


def _without_charts(body: dict[str, Any]) -> dict[str, Any]:
    """Return a daemon's status without the hundreds of numbers, most of them 0, of which pages draw charts."""
    vectors = body.get("vectors")
    shorter = (
        {"vectors": [{name: each[name] for name in each if name not in _HISTOGRAM} for each in vectors]}
        if isinstance(vectors, list) and all(isinstance(each, dict) for each in vectors)
        else {}
    )
    return {name: value for name, value in body.items() if name != "activity"} | shorter


def _print(url: str, status: DaemonStatus) -> None:
    from edgeembed.common.progress import human_size

    if status.models:
        print_table(
            ("NAME", "TYPE", "TASK", "STATE", "DEVICE", "MEMORY", "REQUESTS", "IDLE", "UNLOADS IN"),
            [
                (
                    model.name + ("*" if model.default else ""),
                    model.type,
                    model.task,
                    model.state,
                    model.device or "-",
                    human_size(model.memory_bytes) if model.memory_bytes else "-",
                    f"{model.requests:,}",
                    _idle(model),
                    _unloads_in(model),
                )
                for model in status.models
            ],
            right=("MEMORY", "REQUESTS"),
            spare=("TASK", "DEVICE", "REQUESTS", "IDLE", "UNLOADS IN", "TYPE"),
        )
        for model in status.models:
            if model.reason:
                click.echo(printable(f"{model.name}: {model.reason}"))
    elif not status.starting:
        click.echo("No model is loaded. A request that names one loads it.")
    if status.starting:
        click.echo(printable(f"starting: {status.starting}"))
    if status.paused:
        click.echo("paused: only texts in the cache are answered")
    used, budget = status.memory.used_bytes, status.memory.budget_bytes
    memory = f"{human_size(used)} of {human_size(budget)}" if budget else f"{human_size(used)}, no limit"
    click.echo(f"\nmemory {memory}")
    click.echo(f"edgeembed {status.version}, process {status.pid}, up {short_duration(status.uptime_seconds)}, {url}")


def _idle(model: LoadedModel) -> str:
    if model.active:
        return "busy"
    return "-" if model.idle_seconds is None else short_duration(model.idle_seconds)


def _unloads_in(model: LoadedModel) -> str:
    if model.state != "ready":
        return "-"
    if model.pinned or model.keep_alive_seconds is None:
        return "never"
    if model.active or model.idle_seconds is None:
        return short_duration(model.keep_alive_seconds)
    return short_duration(model.keep_alive_seconds - model.idle_seconds)
