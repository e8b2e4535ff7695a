"""`edgeembed serve`."""

from __future__ import annotations

import sys
from typing import Any

import click

from edgeembed.cli.settings import SectionedCommand, setting_options


@click.command(cls=SectionedCommand)
@setting_options()
def serve(**flags: Any) -> None:
    """Run the daemon until Ctrl-C or SIGTERM.

    \b
    edgeembed serve
    edgeembed serve --model all-minilm-l6-v2:F16 --port 9000
    edgeembed serve --model ./my-model.gguf
    edgeembed serve --upstream http://gpu-box:30000/v1 --model Qwen/Qwen3-Embedding-8B
    edgeembed serve --forward http://gpu-box:8000/v1

    Without a model in the settings the default one is fetched; where the model hub cannot be reached, a small starter is
    taken instead. The choice is written to config.toml, so that it never changes by itself.

    With --upstream another server computes what the cache does not have, and a local model answers while that is away, if
    --upstream-fallback names one that is shown to give the same vectors. With --forward tools need one base URL for
    embeddings and for chat.

    The daemon answers on http://127.0.0.1:8327 unless told otherwise: POST /v1/embeddings as OpenAI documents it, GET
    /v1/models, GET /health, GET /v1/status.
    """
    from edgeembed.common.logs import log_anyway, provide_stderr, setup_logging
    from edgeembed.config.paths import Paths
    from edgeembed.config.resolution import resolve
    from edgeembed.hub.install import ensure_installed, first_model
    from edgeembed.runtime import daemon
    from edgeembed.server.address import check_address

    provide_stderr(Paths.resolve().logs)
    resolved = resolve(flags)
    settings, paths = resolved.settings, resolved.paths
    setup_logging(settings.log_level, settings.log_format)
    say = _say if settings.log_format == "text" else log_anyway
    check_address(settings)
    model = None
    if settings.upstream:
        pass  # its model is not on this machine
    elif settings.model is None:
        model = first_model(paths=paths, settings=settings, report=say)
    else:
        model = ensure_installed(settings.model, paths=paths, settings=settings, report=say)
    sys.exit(daemon.run(settings, paths, model, say))


def _say(line: str) -> None:
    click.echo(line, err=True)
