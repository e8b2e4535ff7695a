"""The arguments of the Serve application: how many replicas with which resources, and settings of their daemons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from edgeembed.config.resolution import resolve
from edgeembed.config.secrets import ENV_PREFIX, secret_names
from edgeembed.config.values import did_you_mean, field_names
from edgeembed.errors import ConfigError

NOT_OURS = ("host", "port", "uds", "certfile", "keyfile")
"""Settings of an address: Serve's proxies listen, as `http_options` of its configuration say."""


class Replicas(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many replicas, with which resources."""

    replicas: str = "1"
    """A number, or MIN:MAX for as many as the load needs."""
    cpus: Annotated[float, msgspec.Meta(ge=0)] = 1
    """Processors of a replica, and the threads of its daemon, unless the setting `threads` says otherwise."""
    gpus: Annotated[float, msgspec.Meta(ge=0)] = 0
    """Graphics cards of a replica; 0.5 lets two replicas share one."""
    target_ongoing_requests: Annotated[float, msgspec.Meta(gt=0)] = 8
    """Requests in flight per replica that MIN:MAX aims at."""
    target_queue_tokens: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Tokens of unanswered requests per replica that MIN:MAX aims at, too; None for requests alone."""
    ingresses: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Processes that pass requests on."""

    @property
    def range(self) -> tuple[int, int]:
        """The least and the most replicas. Raises ConfigError."""
        least, _, most = self.replicas.partition(":")
        try:
            found = int(least), int(most or least)
        except ValueError:
            found = 0, -1
        if not 0 <= found[0] <= found[1] or not found[1]:
            raise ConfigError(f"replicas = {self.replicas!r}: expected a number such as 2, or a range such as 1:4")
        return found


def read_arguments(given: Mapping[str, Any]) -> tuple[Replicas, dict[str, str]]:
    """Return the replicas, and the settings as the text of variables. Raises ConfigError."""
    own = {field.name for field in msgspec.structs.fields(Replicas)}
    names = [*sorted(own), *(name for name in field_names() if name not in (*NOT_OURS, *secret_names()))]
    for name in given:
        if name in NOT_OURS:
            raise ConfigError(f"{name}: Serve's proxies listen; set `http_options` in Serve's configuration")
        if name in secret_names():
            file = ", or the argument api_key_file" if name == "api_key" else ""
            raise ConfigError(
                f"{name}: Ray shows arguments to everybody who reaches its dashboard; set the variable "
                f"{ENV_PREFIX}{name.upper()} where Ray starts{file}"
            )
        if name not in names:
            raise ConfigError(f"{name} is no argument of this application.{did_you_mean(name, names)}")
    try:
        texts = {name: str(value) if name == "replicas" else value for name, value in given.items() if name in own}
        replicas = msgspec.convert(texts, Replicas, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"arguments of the application: {error}") from error
    _ = replicas.range
    settings = {name: _text(value) for name, value in given.items() if name not in own and value is not None}
    resolve(settings, {})
    return replicas, settings


def _text(value: Any) -> str:
    """Return a value of YAML or of the command line as a variable has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ",".join(f"{name}={each}" for name, each in value.items())
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
