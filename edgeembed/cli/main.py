"""The command `edgeembed`: a group that imports a command only when it is called."""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# name -> module, attribute, summary for `edgeembed --help`, which would be slow if it imported every command.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "serve": ("edgeembed.cli.serve", "serve", "Run the daemon: OpenAI's /v1/embeddings on localhost."),
    "start": ("edgeembed.cli.start", "start", "Start the daemon in the background."),
    "stop": ("edgeembed.cli.start", "stop", "Stop the daemon."),
    "restart": ("edgeembed.cli.start", "restart", "Stop the daemon and start it again."),
    "status": ("edgeembed.cli.status", "status", "Show whether the daemon runs, and where."),
    "logs": ("edgeembed.cli.logs", "logs", "Print the daemon's log."),
    "open": ("edgeembed.cli.open_page", "open_", "Open the dashboard in the browser."),
    "pull": ("edgeembed.cli.pull", "pull", "Download a model, and convert it if necessary."),
    "list": ("edgeembed.cli.list_models", "list_models", "List installed models, or those available."),
    "show": ("edgeembed.cli.show", "show", "Show details of a model, or versions and licences."),
    "rm": ("edgeembed.cli.rm", "rm", "Remove installed models."),
    "ps": ("edgeembed.cli.ps", "ps", "Show which models the daemon has loaded."),
    "convert": ("edgeembed.cli.convert", "convert", "Convert a checkpoint to a GGUF file."),
    "verify": ("edgeembed.cli.verify", "verify", "Check the vectors of a model against its original weights."),
    "embed": ("edgeembed.cli.embed", "embed", "Embed texts or whole files."),
    "rerank": ("edgeembed.cli.rerank", "rerank", "Score documents against a query."),
    "search": ("edgeembed.cli.search", "search", "Search vectors that `embed` has written."),
    "mcp": ("edgeembed.cli.mcp", "mcp", "Serve coding agents: embed, rerank, and search folders (MCP)."),
    "bench": ("edgeembed.cli.bench", "bench", "Measure how fast a model is on this machine."),
    "tune": ("edgeembed.cli.tune", "tune", "Find and save the fastest way to run a model here."),
    "doctor": ("edgeembed.cli.doctor", "doctor", "Check machine, model and daemon, and suggest fixes."),
    "devices": ("edgeembed.cli.devices", "devices", "Show the devices that can compute, and why a GPU is not used."),
    "tray": ("edgeembed.cli.tray", "tray", "Show an icon with a menu for the daemon."),
    "config": ("edgeembed.cli.config", "config", "Show and change settings."),
    "cache": ("edgeembed.cli.cache", "cache", "Inspect, fill, transfer and clear the cache of vectors."),
    "autostart": ("edgeembed.cli.autostart", "autostart", "Start the daemon when you log in."),
    "update": ("edgeembed.cli.update", "update", "Show whether there is a newer version, and how to get it."),
    "completion": ("edgeembed.cli.completion", "completion", "Print a script for completion in your shell."),
}

COMPLETE_VARIABLE = "_EDGEEMBED_COMPLETE"
"""By which click recognises a request of a shell for completions."""


class LazyGroup(click.Group):
    """Imports the module of a command when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        found = [CompletionItem(name, help=line) for name, (_, _, line) in COMMANDS.items() if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)  # click.Group's would import every command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, n=1)
            ctx.fail(f"no such command {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgeembed", prog_name="edgeembed")
def cli() -> None:
    """A private embedding server for your own computer.

    \b
    edgeembed start                     run the daemon in the background, on http://127.0.0.1:8327
    edgeembed open                      its dashboard, in the browser
    edgeembed serve --help              list all settings with their defaults
    edgeembed pull all-minilm-l6-v2     download a model in advance
    edgeembed doctor                    find out why something is slow or fails

    Settings come from flags, EDGEEMBED_* environment variables and config.toml, in this order of precedence. With
    EDGEEMBED_HOME everything that edgeembed writes goes to one folder.
    """
    from edgeembed.common.migration import migrate_state
    from edgeembed.config.paths import Paths

    migrate_state(Paths.resolve().state)


def main() -> None:
    """Run the command line. What a user can cause becomes one line on stderr and an exit status, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # The terminal's encoding may lack a letter, as Windows' code pages do.
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _run()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError as error:
        status = _after_failed_output(error)
    sys.exit(status)


def _run() -> int:
    """Run the command and return its exit status. Raises OSError if even an error cannot be printed."""
    from edgeembed.errors import EdgeEmbedError

    try:
        if os.environ.get(COMPLETE_VARIABLE, "").startswith("powershell"):
            importlib.import_module("edgeembed.cli.completion")  # click knows the other shells
        # The variable does not depend on how the program is called, such as edgeembed.exe.
        returned = cli(standalone_mode=False, complete_var=COMPLETE_VARIABLE)  # the status passed to ctx.exit()
        return returned if isinstance(returned, int) else 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        click.echo(end.code, err=True)
        return 1
    except EdgeEmbedError as error:
        _print_error(error.message)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130


def _after_failed_output(error: OSError) -> int:
    """Report a file that cannot be written or read, such as a full disk behind `>`; return the exit status.

    What is still in the buffers is dropped: Python would try to write it when it ends, and print a traceback.
    """
    from edgeembed.common.files import describe_os_error  # takes longer than `edgeembed --help`

    broken = [number for number, stream in ((1, sys.stdout), (2, sys.stderr)) if not _can_flush(stream)]
    for number in broken:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, number)
        os.close(nothing)
    # A reader that has gone, such as `head`, is no error that its user wants to read about.
    if not isinstance(error, BrokenPipeError):
        _print_error(describe_os_error(error, "standard output" if 1 in broken else None))
    return 1


def _can_flush(stream: TextIO | None) -> bool:
    try:
        if stream is not None:
            stream.flush()
    except OSError:
        return False
    return True


def _print_error(message: str) -> None:
    """Print an error. Names of files and models, and messages of other servers, in it cannot control the terminal."""
    from edgeembed.common.log_content import printable_lines

    click.echo(printable_lines(f"error: {message}"), err=True)
