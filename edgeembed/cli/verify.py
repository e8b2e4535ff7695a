"""`edgeembed verify`."""

from __future__ import annotations

import functools
import json
import sys
from typing import TYPE_CHECKING

import click

from edgeembed.cli.completion import complete_model
from edgeembed.cli.settings import setting_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeembed.config.resolution import Resolved
    from edgeembed.diagnostics.verify import Verification

_STATUS = {True: 0, False: 1, None: 3}
_VERDICT = {
    True: "holds",
    False: "DOES NOT HOLD",
    None: "NOT VERIFIED: it loads and computes, but there is nothing to hold its vectors against",
}


@click.command()
@click.argument("spec", metavar="MODEL", shell_complete=complete_model)
@click.option("--types", metavar="T,T,...", help="Print what these quantisation types cost, against F32, instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@setting_options("threads", "context_tokens", "offline")
def verify(spec: str, types: str | None, as_json: bool, **flags: str | None) -> None:
    """Hold MODEL, a name or a .gguf file, against the rows of its unquantised weights and against published figures.

    A file made by `edgeembed convert` carries canary rows: a few texts with their rows from the weights as they were before
    quantising. The model is loaded, which computes them anew.

    \b
    edgeembed verify all-minilm-l6-v2
    edgeembed verify ./my-model.gguf
    edgeembed verify all-minilm-l6-v2 --types Q8_0,Q5_0,Q4_0     a table: size, cosines, rank agreement, speed
    edgeembed verify all-minilm-l6-v2 --json

    Ends with status 0 when the model holds, with 1 when it does not, with 2 when there is no such model, and with 3 when
    there is nothing to hold it against: no canary rows in the file, and no published figures ("holds" is null in JSON then).
    """
    from edgeembed.common.logs import setup_logging
    from edgeembed.config.resolution import resolve
    from edgeembed.diagnostics.verify import verify as verify_model
    from edgeembed.hub.install import ensure_installed

    resolved = resolve(flags)
    setup_logging("error")
    say = functools.partial(click.echo, err=True)
    if types:
        _print_losses(resolved, spec, types, as_json, say)
        return
    model = ensure_installed(spec, paths=resolved.paths, settings=resolved.settings, report=say)
    found = verify_model(resolved.settings, resolved.paths, model)
    if as_json:
        fields = {name: getattr(found, name) for name in found.__struct_fields__}
        click.echo(json.dumps({**fields, "holds": found.holds}, indent=2))
    else:
        _print(found)
    sys.exit(_STATUS[found.holds])


def _print(found: Verification) -> None:
    click.echo(f"{found.model} {found.type}, on mode {found.mode}")
    if found.canary_cosines:
        cosines = "  ".join(f"{value:.5f}" for value in found.canary_cosines)
        click.echo(f"canary rows, cosine to the unquantised weights: {cosines}  (at least {found.canary_least})")
    else:
        click.echo("canary rows: none in this file; files made by `edgeembed convert` carry them")
    if found.published and found.measured:
        click.echo(f"similarities, published by {found.published_by} and measured here:")
        for published, measured in zip(found.published, found.measured, strict=True):
            click.echo("  " + "    ".join(f"{a:.4f} {b:.4f}" for a, b in zip(published, measured, strict=True)))
    else:
        click.echo("published similarities: none known")
    click.echo(_VERDICT[found.holds])


def _print_losses(resolved: Resolved, spec: str, types: str, as_json: bool, say: Callable[[str], None]) -> None:
    import msgspec

    from edgeembed.diagnostics.verify import format_losses, loss_table
    from edgeembed.hub.install import ensure_installed, parse_spec

    named = parse_spec(spec, resolved.paths)
    if named.path is not None or named.reference is not None:
        raise click.UsageError("--types fetches or converts each type, so it takes the name of a model, not a file")
    name = spec.partition(":")[0]
    wanted = dict.fromkeys(["F32", *(word.strip().upper() for word in types.split(",") if word.strip())])
    models = [
        ensure_installed(f"{name}:{kind}", paths=resolved.paths, settings=resolved.settings, report=say) for kind in wanted
    ]
    losses = loss_table(resolved.settings, resolved.paths, models, say)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(losses), indent=2))
        return
    for line in format_losses(losses):
        click.echo(line)
