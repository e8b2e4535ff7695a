"""`edgeembed mcp`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeembed.cli.settings import setting_options


@click.command()
@click.option("--http", "over_http", is_flag=True, help="Listen on http://127.0.0.1:PORT/mcp instead of standard input.")
@click.option("--http-port", type=click.IntRange(1, 65535), default=8328, show_default=True, help="The port for --http.")
@click.option(
    "--root",
    "roots",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="A folder that may be searched, with all below it; may be repeated. Without it, any folder of yours, and with "
    "--http the current folder.",
)
@setting_options("model", "host", "port", "uds", "threads", "offline")
def mcp(over_http: bool, http_port: int, roots: tuple[Path, ...], **flags: Any) -> None:
    """Serve coding agents with the Model Context Protocol: embed, rerank, and search folders of this machine.

    The agent starts this command itself and speaks to it over standard input and output. The running daemon computes;
    without one, the model is loaded in this process. Indexes are kept up to date by the contents of files, and stay on this
    machine; the agent gets the parts that a search finds.

    \b
    claude mcp add edgeembed -- edgeembed mcp
    codex mcp add edgeembed -- edgeembed mcp
    edgeembed mcp --http --root ~/src      for programs that take a URL

    In files such as mcp.json: {"mcpServers": {"edgeembed": {"command": "edgeembed", "args": ["mcp"]}}}
    """
    import asyncio

    from edgeembed.bulk.stores.interface import import_extra
    from edgeembed.common.logs import setup_logging
    from edgeembed.config.resolution import resolve

    resolved = resolve(flags)
    setup_logging("warning")
    import_extra("mcp", "mcp", "edgeembed mcp")
    import_extra("sqlite_vec", "mcp", "edgeembed mcp")
    from edgeembed.mcp.server import Machine, make_server, serve_http

    if over_http and not roots:
        roots = (Path.cwd(),)
    server = make_server(Machine(resolved, roots))
    if over_http:
        from edgeembed.cli.printing import to_stderr

        to_stderr(f"listening on http://127.0.0.1:{http_port}/mcp, for {', '.join(map(str, roots))}")
        asyncio.run(serve_http(server, http_port))
    else:
        asyncio.run(server.run_stdio_async())
