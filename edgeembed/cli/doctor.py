"""`edgeembed doctor`."""

from __future__ import annotations

import sys

import click

from edgeembed.cli.settings import setting_options
from edgeembed.common.log_content import printable

_MARKS = {"ok": ("ok", "green"), "note": ("note", "blue"), "warning": ("warning", "yellow"), "problem": ("PROBLEM", "red")}


@click.command()
@click.option("--forget", is_flag=True, help="Forget which execution modes failed, and try them again.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@setting_options("model", "port", "threads", "device")
def doctor(forget: bool, as_json: bool, **flags: str | None) -> None:
    """Check this machine, the installation, the model and a running daemon, and suggest fixes.

    \b
    edgeembed doctor                    check everything; loads the configured model once
    edgeembed doctor --forget           after installing another llama.cpp: try the fastest modes again

    Exits with 1 if there is a problem.
    """
    import json

    from edgeembed.config.resolution import resolve
    from edgeembed.diagnostics.doctor import examine

    worst = 0
    found = []
    for finding in examine(resolve(flags), forget=forget):
        worst = max(worst, int(finding.verdict == "problem"))
        if as_json:
            found.append({name: getattr(finding, name) for name in finding.__struct_fields__})
            continue
        word, colour = _MARKS[finding.verdict]
        click.echo(f"{click.style(f'{word:<8}', fg=colour)} {finding.subject}: {printable(finding.text)}")
        if finding.advice:
            click.echo(f"{'':<8}   {printable(finding.advice)}")
    if as_json:
        click.echo(json.dumps(found, indent=2))
    sys.exit(worst)
