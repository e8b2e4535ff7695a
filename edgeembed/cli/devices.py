"""`edgeembed devices`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgeembed.cli.completion import complete_model
from edgeembed.cli.printing import print_fields, print_json, print_prose, print_table
from edgeembed.cli.settings import setting_options
from edgeembed.common.log_content import printable

if TYPE_CHECKING:
    from edgeembed.config.resolution import Resolved
    from edgeembed.engine.gpu.placement import Gpus


@click.command()
@click.option(
    "--plan",
    "planned",
    metavar="MODEL",
    shell_complete=complete_model,
    help="Show which device each part of a model would use.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@setting_options("device", "gpu_layers", "gpu_memory_utilization", "context_tokens", "batch_tokens")
def devices(planned: str | None, as_json: bool, **flags: str | None) -> None:
    """Show the devices that can compute, and why a GPU is not used.

    \b
    edgeembed devices
    edgeembed devices --plan qwen3-embedding-0.6b --gpu-memory-utilization 0.5

    Exits with 1 if the setting `device` asks for a GPU that cannot be used.
    """
    from edgeembed.config.resolution import resolve
    from edgeembed.runtime.engines import make_gpus

    resolved = resolve(flags)
    gpus = make_gpus(resolved.settings)
    inventory = gpus.inventory(fresh=True)
    described = gpus.describe()
    plan = _plan(resolved, gpus, planned) if planned else None
    if as_json:
        print_json({**described, "problem": inventory.problem, **({"plan": plan} if planned else {})})
    else:
        _print(described, inventory.problem)
        if plan is not None:
            click.echo(f"\n{planned}: {printable(str(plan['text']))}")
    if described["why_no_gpu"] and resolved.settings.device not in ("auto", "cpu"):
        raise SystemExit(1)


def _plan(resolved: Resolved, gpus: Gpus, name: str) -> dict[str, Any]:
    """Return where the parts of an installed model would go. Raises HubError when it is not installed."""
    import msgspec

    from edgeembed.engine.execution_modes import ModeUnavailableError
    from edgeembed.hub.gguf.weights import fits_cards, read_weights
    from edgeembed.hub.install import ensure_installed
    from edgeembed.runtime.engines import card_options

    settings = msgspec.structs.replace(resolved.settings, offline=True)  # only installed models
    model = ensure_installed(name, paths=resolved.paths, settings=settings, report=lambda _line: None)
    if not gpus.possible or not fits_cards(model.path) or resolved.settings.gpu_layers == "0":
        return {"text": "all on the CPU", "gpu_layers": 0}
    try:
        plan = gpus.preview(read_weights(model.path), card_options(resolved.settings, model))
    except ModeUnavailableError as error:
        return {"text": f"all on the CPU: {error}", "gpu_layers": 0}
    return {"text": str(plan), **msgspec.to_builtins(plan)}


def _print(described: dict[str, Any], problem: str | None) -> None:
    from edgeembed.common.progress import human_size

    def size(count: int) -> str:
        return human_size(count) if count else "-"

    used = described["used"] or [device["name"] for device in described["devices"] if device["kind"] == "cpu"]
    print_table(
        ("DEVICE", "NAME", "BACKEND", "FREE", "MEMORY", "USED"),
        [
            (
                device["name"], device["description"], device["backend"], size(device["memory_free"]),
                size(device["memory_total"]), "yes" if device["name"] in used else "",
            )
            for device in described["devices"]
        ],
        right=("FREE", "MEMORY"),
        spare=("BACKEND", "FREE"),
    )  # fmt: skip
    nvidia, vulkan = described["nvidia"], described["vulkan"]
    cards = nvidia["cards"]
    click.echo()
    print_fields(
        [
            ("backends", ", ".join(described["backends"]) or "none"),
            ("setting", f"device = {described['setting']}"),
            ("NVIDIA driver", f"{nvidia['driver'] or 'unknown'}, CUDA up to {nvidia['cuda']}" if nvidia["cuda"] else None),
            ("NVIDIA cards", str(cards) if cards else None),
            ("Vulkan loader", vulkan["loader"]),
            ("problem", problem),
        ]
    )
    for reason in described["why_no_gpu"]:
        print_prose(f"{reason['text']}", "no GPU: ", "        ")
        if reason["advice"]:
            print_prose(reason["advice"], "        ")
