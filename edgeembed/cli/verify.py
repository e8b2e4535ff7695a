"""`edgeembed verify`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from edgeembed.cli.completion import complete_model
from edgeembed.cli.printing import to_stderr
from edgeembed.cli.settings import setting_options

if TYPE_CHECKING:
    from edgeembed.config.resolution import Resolved
    from edgeembed.diagnostics.verify import Verification

_STATUS = {True: 0, False: 1, None: 3}
_VERDICT = {
    True: "verified: the vectors are as expected",
    False: "FAILED: the vectors differ from what is expected",
    None: "NOT VERIFIED: the model loads and computes, but there is nothing to compare its vectors with",
}


@click.command()
@click.argument("spec", metavar="MODEL", shell_complete=complete_model)
@click.option("--types", metavar="T,T,...", help="Instead, print how much quality these types lose against F32.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@setting_options("threads", "context_tokens", "offline")
def verify(spec: str, types: str | None, as_json: bool, **flags: str | None) -> None:
    """Check the vectors of MODEL, a name or a .gguf file, against its original weights and published figures.

    Files made by `edgeembed convert` contain canary rows: a few texts with their vectors from the weights before
    quantisation. This command loads the model and computes them again.

    \b
    edgeembed verify all-minilm-l6-v2
    edgeembed verify ./my-model.gguf
    edgeembed verify all-minilm-l6-v2 --types Q8_0,Q5_0,Q4_0     a table: size, cosines, rank agreement, speed
    edgeembed verify all-minilm-l6-v2 --json

    Exits with 0 if the vectors are as expected, 1 if they are not, 2 if there is no such model, and 3 if there is nothing to
    compare with: no canary rows in the file and no published figures ("holds" is null in JSON).
    """
    from edgeembed.common.logs import setup_logging
    from edgeembed.config.resolution import resolve
    from edgeembed.diagnostics.verify import verify as verify_model
    from edgeembed.hub.install import ensure_installed

    resolved = resolve(flags)
    setup_logging("error")
    if types:
        _print_losses(resolved, spec, types, as_json)
        return
    model = ensure_installed(spec, paths=resolved.paths, settings=resolved.settings, report=to_stderr)
    found = verify_model(resolved.settings, resolved.paths, model)
    if as_json:
        fields = {name: getattr(found, name) for name in found.__struct_fields__}
        click.echo(json.dumps({**fields, "holds": found.holds}, indent=2))
    else:
        _print(found)
    sys.exit(_STATUS[found.holds])


def _print(found: Verification) -> None:
    click.echo(f"{found.model} {found.type}, in mode {found.mode}")
    if found.canary_cosines:
        cosines = "  ".join(f"{value:.5f}" for value in found.canary_cosines)
        click.echo(f"canary rows, cosine to the original weights: {cosines}  (expected: at least {found.canary_least})")
    else:
        click.echo("canary rows: none in this file; files made by `edgeembed convert` have them")
    for output, value in found.outputs.items():
        click.echo(
            f"output {output!r} of texts alone and together, cosine: {value:.5f}  (expected: at least {found.outputs_least})"
        )
    if found.published and found.measured:
        click.echo(f"similarities, each as published by {found.published_by} and as measured:")
        for published, measured in zip(found.published, found.measured, strict=True):
            click.echo("  " + "    ".join(f"{a:.4f} {b:.4f}" for a, b in zip(published, measured, strict=True)))
    else:
        click.echo("published similarities: none")
    click.echo(_VERDICT[found.holds])


def _print_losses(resolved: Resolved, spec: str, types: str, as_json: bool) -> None:
    import msgspec

    from edgeembed.diagnostics.verify import format_losses, loss_table
    from edgeembed.hub.install import ensure_installed, parse_spec

    named = parse_spec(spec, resolved.paths)
    if named.path is not None or named.reference is not None:
        raise click.UsageError("--types downloads or converts each type, so it needs the name of a model, not a file")
    name = spec.partition(":")[0]
    wanted = dict.fromkeys(["F32", *(word.strip().upper() for word in types.split(",") if word.strip())])
    models = [
        ensure_installed(f"{name}:{kind}", paths=resolved.paths, settings=resolved.settings, report=to_stderr)
        for kind in wanted
    ]
    losses = loss_table(resolved.settings, resolved.paths, models, to_stderr)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(losses), indent=2))
        return
    for line in format_losses(losses):
        click.echo(line)
