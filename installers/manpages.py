#!/usr/bin/env python3
"""Write the manual pages from the help texts of the commands: `manpages.py FOLDER`.

One page for `edgeembed` and one for each command, so that `man edgeembed-serve` lists every setting. They
always match the program. Run it with the Python in which edgeembed is installed.
"""

from __future__ import annotations

import gzip
import re
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path

import click

from edgeembed.cli.main import COMMANDS, cli

VERBATIM = "\b"
"""click's mark for a paragraph with fixed lines."""


def write_pages(folder: Path) -> list[Path]:
    """Write all pages to the folder, compressed; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    root = click.Context(cli, info_name="edgeembed", **cli.context_settings)
    pages = {"edgeembed": page(root, tuple(COMMANDS))}
    for name in COMMANDS:
        command = cli.get_command(root, name)
        assert command is not None
        pages[f"edgeembed-{name}"] = page(click.Context(command, info_name=name, parent=root), ())
    written = []
    for name, text in pages.items():
        path = folder / f"{name}.1.gz"
        path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
        written.append(path)
    return written


def page(context: click.Context, commands: tuple[str, ...]) -> str:
    """Return a page in man(7)'s macros. commands: the names of all commands, for the page of the program."""
    command = context.command
    title = context.command_path.replace(" ", "-")
    short = COMMANDS[command.name or ""][2] if command.name in COMMANDS else "a private embedding server"
    lines = [
        f'.TH "{title.upper()}" "1" "" "edgeembed {version("edgeembed")}" "User Commands"',
        ".SH NAME",
        f"{_escape(title)} \\- {_escape(short[0].lower() + short[1:].rstrip('.'))}",
        ".SH SYNOPSIS",
        f"\\fB{_escape(context.command_path)}\\fR {_escape(' '.join(command.collect_usage_pieces(context)))}",
        ".SH DESCRIPTION",
        *_paragraphs(command.help or ""),
    ]
    lines += _options(context)
    if commands:
        lines.append(".SH COMMANDS")
        for name in commands:
            lines += [".TP", f"\\fBedgeembed\\-{_escape(name)}\\fR(1)", _escape(COMMANDS[name][2])]
    elif isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            below = click.Context(inner, info_name=name, parent=context)
            usage = " ".join(inner.collect_usage_pieces(below))
            lines += [
                f'.SH "{_escape(below.command_path.upper())}"',
                f"\\fB{_escape(below.command_path)}\\fR {_escape(usage)}",
            ]
            lines += [".PP", *_paragraphs(inner.help or ""), *_options(below, heading=".PP")]
    lines += [".SH SEE ALSO"]
    others = [name for name in COMMANDS if name != command.name] if commands else ["edgeembed"]
    lines.append(", ".join(f"\\fB{_escape(n if n == 'edgeembed' else 'edgeembed-' + n)}\\fR(1)" for n in others))
    return "\n".join(lines) + "\n"


def _options(context: click.Context, heading: str = ".SH OPTIONS") -> list[str]:
    lines = []
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if record:
            lines += [".TP", f"\\fB{_escape(record[0])}\\fR", _escape(record[1])]
    return [heading, *lines] if lines else []


def _paragraphs(text: str) -> list[str]:
    """Return a help text in troff: paragraphs are filled, except those with click's mark."""
    lines = []
    for paragraph in re.split(r"\n\s*\n", textwrap.dedent(text.replace("\f", "")).strip()):
        verbatim = paragraph.lstrip().startswith(VERBATIM)
        # Stripped before they are escaped: at the beginning of a line, a full stop would be a request to troff.
        body = [line.rstrip() if verbatim else line.strip() for line in paragraph.split("\n") if line.strip(" \b")]
        lines += [".PP", ".nf", *map(_escape, body), ".fi"] if verbatim else [".PP", *map(_escape, body)]
    return lines


def _escape(text: str) -> str:
    """Escape text for troff: backslashes, hyphens that users copy, lines that begin like a macro."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("\b", "")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
