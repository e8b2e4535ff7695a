"""`edgeembed devices`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgeembed.cli.completion import complete_model
from edgeembed.cli.printing import print_fields, print_json, print_prose, print_table, to_stderr
from edgeembed.cli.settings import setting_options
from edgeembed.common.log_content import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeembed.config.resolution import Resolved
    from edgeembed.config.settings import Settings
    from edgeembed.engine.gpu.placement import Gpus, Sizes
    from edgeembed.engine.worker_options import WorkerOptions
    from edgeembed.hub.references import HubReference, Spec


@click.command()
@click.option(
    "--plan",
    "planned",
    metavar="MODEL",
    shell_complete=complete_model,
    help="Show which device each part of a model would use, and the memory that it takes, also before it is installed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@setting_options("device", "gpu_layers", "gpu_memory_utilization", "context_tokens", "batch_tokens", "offline")
def devices(planned: str | None, as_json: bool, **flags: str | None) -> None:
    """Show the devices that can compute, and why a GPU is not used.

    \b
    edgeembed devices
    edgeembed devices --plan qwen3-embedding-0.6b --gpu-memory-utilization 0.5
    edgeembed devices --plan qwen3-embedding-8b:Q4_K_M    before it is downloaded
    edgeembed devices --plan hf:OWNER/REPO:Q8_0           the same, of any GGUF file of the hub

    For a model of the catalogue that is not installed, sizes are estimates from the numbers in the catalogue. For one of the
    hub, the head of its file is read: its first 1 MiB, and where its vocabulary needs more, its first 8, 32 or 64 MiB.

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
            _print_plan(str(planned), plan)
    if described["why_no_gpu"] and resolved.settings.device not in ("auto", "cpu"):
        raise SystemExit(1)


def _plan(resolved: Resolved, gpus: Gpus, name: str) -> dict[str, Any]:
    """Return where the parts of a model would go, and the memory that it takes: read from its file, here or on the hub, or
    estimated from the catalogue. Raises HubError when it is nowhere.
    """
    from edgeembed.hub.gguf.weights import fits_cards, read_weights
    from edgeembed.hub.install import find_here
    from edgeembed.hub.references import parse_spec
    from edgeembed.models.overview import memory_of_installed
    from edgeembed.runtime.engines import card_options

    settings = resolved.settings
    model = find_here(name, paths=resolved.paths, report=lambda _line: None)
    if model is not None:
        memory = memory_of_installed(model, settings)
        sizes = (lambda: read_weights(model.path)) if fits_cards(model.path) else None
        placed = _place(resolved, gpus, sizes, card_options(settings, model))
        found = {"installed": True, "estimate": False, "file_bytes": model.size_bytes}
        return {**placed, **found, **_memory(gpus, settings, memory)}
    spec = parse_spec(name, resolved.paths)
    return _estimated(resolved, gpus, spec) if spec.reference is None else _of_hub(resolved, gpus, spec.reference)


def _of_hub(resolved: Resolved, gpus: Gpus, reference: HubReference) -> dict[str, Any]:
    from edgeembed.hub.facts import entry_of, facts_of
    from edgeembed.hub.gguf.header import read_header
    from edgeembed.hub.gguf.weights import fits_cards, read_weights
    from edgeembed.hub.remote_head import remote_head
    from edgeembed.models.overview import memory_of_file
    from edgeembed.runtime.engines import PlannedModel, card_options

    settings = resolved.settings
    with remote_head(reference, settings, to_stderr) as path:
        facts = facts_of(read_header(path), path)
        entry = entry_of(facts, None)
        longest = facts.max_seq_length or (entry.max_seq_length if entry else None)
        meant = PlannedModel(path, longest, "embed" if not facts.ranks else "classify" if facts.classes else "rerank")
        placed = _place(
            resolved, gpus, (lambda: read_weights(path)) if fits_cards(path) else None, card_options(settings, meant)
        )
        found = {"installed": False, "estimate": False, "file_bytes": path.stat().st_size}
        return {**placed, **found, **_memory(gpus, settings, memory_of_file(path, longest, settings))}


def _estimated(resolved: Resolved, gpus: Gpus, spec: Spec) -> dict[str, Any]:
    from pathlib import Path

    from edgeembed.engine.stand_ins import STAND_INS
    from edgeembed.errors import HubError
    from edgeembed.hub.file_sizes import size_of
    from edgeembed.hub.planned_weights import planned_weights
    from edgeembed.models.overview import memory_of
    from edgeembed.runtime.engines import PlannedModel, card_options

    settings, entry = resolved.settings, spec.entry
    if entry is None:
        raise HubError(f"{spec} is not installed and not in the catalogue, so its size is not known: edgeembed pull {spec}")
    kind = spec.type or entry.default_type
    planned, size = planned_weights(entry, kind), size_of(entry, kind)
    if planned is None or size is None:
        raise HubError(f"the size of {entry.name}:{kind} is not known before it is installed")
    memory = memory_of(entry, kind, settings)
    sizes = (lambda: planned) if entry.architecture not in STAND_INS else None
    meant = PlannedModel(Path(f"{entry.name}-{kind}.gguf"), entry.max_seq_length, entry.task)
    placed = _place(resolved, gpus, sizes, card_options(settings, meant))
    return {**placed, "installed": False, "estimate": True, "file_bytes": size, **_memory(gpus, settings, memory)}


def _place(resolved: Resolved, gpus: Gpus, sizes: Callable[[], Sizes] | None, options: WorkerOptions) -> dict[str, Any]:
    """Return where the parts of a model would go. sizes: None for a model that only the processor can compute."""
    import msgspec

    from edgeembed.engine.execution_modes import ModeUnavailableError

    if not gpus.possible or sizes is None or resolved.settings.gpu_layers == "0":
        return {"text": "all on the CPU", "gpu_layers": 0}
    try:
        plan = gpus.preview(sizes(), options)
    except ModeUnavailableError as error:
        return {"text": f"all on the CPU: {error}", "gpu_layers": 0}
    return {"text": str(plan), **msgspec.to_builtins(plan)}


def _memory(gpus: Gpus, settings: Settings, memory: int | None) -> dict[str, Any]:
    from edgeembed.models.memory import budget_bytes
    from edgeembed.models.overview import Room

    fits, words = Room.of(budget_bytes(settings.memory_budget_mib), gpus.describe()).fit(memory)
    return {"memory_bytes": memory, "fits": fits, "fits_words": words}


def _print_plan(name: str, plan: dict[str, Any]) -> None:
    from edgeembed.common.progress import human_size

    click.echo(f"\n{printable(name)}: {printable(str(plan['text']))}")
    file = human_size(plan["file_bytes"])
    source = "an estimate from the catalogue" if plan["estimate"] else "read from the head of its file on the hub"
    about = None if plan["installed"] else f"not installed; the sizes are {source}"
    fits = {"yes": "fits", "partly": "fits in part on the card", "no": "does not fit"}.get(plan["fits"] or "", "unknown")
    print_fields([("file", file), ("memory", f"{fits}: {plan['fits_words']}"), ("note", about)], indent="  ")


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
