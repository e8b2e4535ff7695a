"""Flags for settings, made from the type, default and description of each field of Settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

import click
import msgspec

from edgeembed.cli.completion import complete_file, complete_model
from edgeembed.config.secrets import ENV_PREFIX
from edgeembed.config.settings import Settings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

F = TypeVar("F", bound=Callable[..., Any])
FlagsT = TypeVar("FlagsT", bound="DataclassInstance")

_MODELS = ("model", "preload", "pin")
"""Settings whose values are completed in the shell."""
_SECTIONS = {
    "Another server computes (--upstream)": "upstream",
    "Chat and more from another server (--forward)": "forward",
}
"""Heading in the help text -> prefix of the settings below it; the others are plain options."""

_CLIENT_HELP = {
    "model": "Model to use: a catalogue name, NAME:TYPE (such as all-minilm-l6-v2:F16) or a .gguf file.",
    "host": "Address at which to ask the daemon.",
    "port": "Port at which to ask the daemon.",
    "uds": "Unix socket at which to ask the daemon, instead of host and port.",
    "grace_period": "Seconds that running requests get to finish before the daemon is killed (and 5 more).",
    "offline": "Do not use the network; the model must be installed.",
}
"""Help texts of settings whose description is meant for the daemon, in the commands that use it."""


class SectionedCommand(click.Command):
    """A command whose help text groups related settings under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by section."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": [], **{title: [] for title in _SECTIONS}}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                name = parameter.name or ""
                title = next((title for title, start in _SECTIONS.items() if name.startswith(start)), "Options")
                sections[title].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def split_flags(flags: dict[str, Any], own: type[FlagsT]) -> tuple[dict[str, Any], FlagsT]:
    """Return the flags of settings, and the command's own flags as the dataclass `own`."""
    names = {field.name for field in dataclasses.fields(own)}
    return (
        {name: value for name, value in flags.items() if name not in names},
        own(**{name: value for name, value in flags.items() if name in names}),
    )


def setting_options(*only: str) -> Callable[[F], F]:
    """Add a flag for each setting, or for those named; None if not given, so that other sources apply."""

    def decorate(function: F) -> F:
        hints = {field.name: field for field in msgspec.structs.fields(Settings)}
        for name in reversed(only or tuple(hints)):
            field = hints[name]
            default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
            help_ = _CLIENT_HELP.get(name) if only else None
            function = _option(name, field.type, default, help_)(function)
        return function

    return decorate


def _option(name: str, annotated: Any, default: Any, description: str | None) -> Callable[[F], F]:
    """Return the option of a setting. description: instead of the setting's own."""
    type_, meta = _parts(annotated)
    shown = "none" if default in (None, (), {}) else str(default).lower() if isinstance(default, bool) else str(default)
    help_ = f"{description or meta.description}  [{ENV_PREFIX}{name.upper()}, default: {shown}]"
    flag = f"--{name.replace('_', '-')}"
    is_file = (meta.extra or {}).get("kind") == "file"
    complete = complete_model if name in _MODELS else complete_file if is_file else None
    if type_ is bool:
        return click.option(
            f"{flag}/--no-{name.replace('_', '-')}" if default else flag, name, default=None, help=help_, is_flag=True
        )
    if get_origin(type_) is Literal:
        return click.option(flag, name, type=click.Choice(get_args(type_)), help=help_)
    if isinstance(default, tuple | dict):
        return click.option(
            flag,
            name,
            metavar="NAME=VALUE" if isinstance(default, dict) else "NAME",
            multiple=True,
            shell_complete=complete,
            callback=lambda _context, _parameter, values: values or None,
            help=f"{help_[:-1]}, may be repeated]",
        )
    # Numbers are validated with the values of the other sources, for the same error messages.
    return click.option(
        flag,
        name,
        metavar=_metavar(type_, meta),
        shell_complete=complete,
        help=help_,
    )


def _metavar(type_: Any, meta: msgspec.Meta) -> str:
    """Return a placeholder for values; floats are seconds unless they are limited to 1."""
    if type_ is float and meta.le == 1:
        return "0..1"
    return {int: "N", float: "SECONDS"}.get(type_, "TEXT")


def _parts(annotated: Any) -> tuple[Any, msgspec.Meta]:
    """Return the plain type of a field, and its description and bounds."""
    assert get_origin(annotated) is Annotated
    type_, meta = get_args(annotated)
    if type(None) in get_args(type_):
        (type_,) = (part for part in get_args(type_) if part is not type(None))
    return type_, meta
