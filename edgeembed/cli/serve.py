"""`edgeembed serve`."""

from __future__ import annotations

import gc
import logging
import os
import shlex
import sys
from collections.abc import Callable
from typing import Any

import click

from edgeembed.cli.printing import to_stderr
from edgeembed.cli.settings import SectionedCommand, setting_options
from edgeembed.common.log_content import printable_lines
from edgeembed.common.logs import Format, keep_line, log_anyway
from edgeembed.common.program import start_anew

log = logging.getLogger(__name__)


def _report_to(format_: Format) -> Callable[[str], None]:
    """Return what prints a message between the lines of the log; the name of a model or server in it cannot forge a line."""

    def report(line: str) -> None:
        to_stderr(printable_lines(line))
        keep_line(line)

    return log_anyway if format_ == "json" else report


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

    If no model is configured, the default one is downloaded, or a small one if the model hub cannot be reached. The choice
    is written to config.toml, so it does not change by itself.

    With --upstream, another server computes what is not in the cache; while it is unreachable, a local model answers if
    --upstream-fallback names one with verifiably the same vectors. With --forward, tools need only one base URL for
    embeddings and chat.

    By default the daemon listens on http://127.0.0.1:8327: POST /v1/embeddings as documented by OpenAI, GET /v1/models, GET
    /health, GET /v1/status.
    """
    gc.disable()  # until the daemon listens: nothing that is imported becomes garbage
    from edgeembed.common.logs import provide_stderr, setup_logging
    from edgeembed.config.paths import Paths
    from edgeembed.config.resolution import files_others_can_read, resolve
    from edgeembed.errors import EdgeEmbedError
    from edgeembed.server.address import open_sockets

    provide_stderr(Paths.resolve().logs)
    # For errors in the settings, until all of them are known.
    format_: Format = "json" if "json" in (flags.get("log_format"), os.environ.get("EDGEEMBED_LOG_FORMAT")) else "text"
    setup_logging("warning", format_)
    try:
        resolved = resolve(flags)
        settings = resolved.settings
        format_ = settings.log_format
        setup_logging(settings.log_level, format_)
        for file in files_others_can_read(resolved):
            mend = f"chmod 600 {shlex.quote(str(file))}"
            log.warning("other users of this machine can read %s, which holds a secret: %s", file, mend)
        report = _report_to(format_)
        sockets = open_sockets(settings)
        from edgeembed.runtime import daemon  # clients can connect while the rest is imported

        status = daemon.run(resolved, sockets, report)
        if status == daemon.RESTART:
            start_anew()  # does not return
    except EdgeEmbedError as error:
        _report_to(format_)(f"error: {error.message}")
        status = error.exit_code
    from edgeembed.runtime.default_model import is_finding

    if is_finding():  # Python's own end could stop the thread while it prints, and abort
        logging.shutdown()
        os._exit(status)
    sys.exit(status)
