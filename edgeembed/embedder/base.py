"""What `Embedder` and `AsyncEmbedder` share: their settings and their backend."""

from __future__ import annotations

from typing import Any

from edgeembed.config.resolution import Resolved, resolve
from edgeembed.config.values import field_names
from edgeembed.errors import ConfigError
from edgeembed.runtime.threaded_backend import ThreadedBackend, close_at_exit


class BaseEmbedder:
    """Settings and a backend; subclasses add the methods that compute."""

    def __init__(self, model: str | None = None, *, daemon: bool | None = None, **settings: Any) -> None:
        """Read the settings. The model is looked for, and loaded if need be, when it is first used.

        Args:
            model: A name, a GGUF file, or `hf:…`; None for the daemon's default model, or else the configured one.
            daemon: None uses the running daemon if it has the model, and otherwise loads the model in a worker of this
                program. True requires the daemon. False never uses it.
            settings: Any of docs/configuration.md, such as `truncate="end"`, `threads=4`, `cache=False`. They override the
                environment and config.toml. Those about computing do not change a running daemon.

        Raises:
            ConfigError: A setting is unknown or has an invalid value.
        """
        self._given = (model, daemon, settings)
        self._backend = ThreadedBackend(resolve_given(model, settings), model or None, daemon)
        close_at_exit(self, self._backend)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._given[0] or ''!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy in another process makes a backend of its own.
        return _again, (type(self), *self._given)


def resolve_given(model: str | None, settings: dict[str, Any]) -> Resolved:
    """Return the settings in effect where a program gives some. Raises ConfigError for an unknown one."""
    known = set(field_names()) - {"model"}
    if unknown := [name for name in settings if name not in known]:
        raise ConfigError(f"{unknown[0]} is not a setting; `edgeembed serve --help` lists them")
    if "truncate" in settings:  # it also overrides a long_text of the environment or config.toml
        settings = {"long_text": "none", **settings}
    return resolve({"model": model or None, **settings})


def _again(kind: type[BaseEmbedder], model: str | None, daemon: bool | None, settings: dict[str, Any]) -> BaseEmbedder:
    return kind(model, daemon=daemon, **settings)
