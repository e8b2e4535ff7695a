"""What the daemon tells its owner, as JSON: the answers of the routes under /v1/admin.

The server fills these types, the OpenAPI document describes them; the dashboard and commands read them. As in `status`,
words such as a state are plain strings, so that a reader of another version can read new ones.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta


def _words(*words: str) -> Meta:
    return Meta(extra_json_schema={"enum": list(words)})


class ModelType(msgspec.Struct, frozen=True, kw_only=True):
    """One type of a model: what it takes, and whether it is here."""

    type: str
    spec: str
    """What requests and settings name it by: NAME:TYPE, or the path of a file that was not installed."""
    file_bytes: int | None = None
    memory_bytes: int | None = None
    """What it takes: measured while it is loaded, otherwise an estimate."""
    fits: Annotated[str | None, Meta(extra_json_schema={"enum": ["yes", "partly", "no", None]})] = None
    """Whether this machine can run it alone; partly: some of its layers on a graphics card."""
    fits_words: str = ""
    installed: bool = False
    state: Annotated[str, _words("not installed", "installed", "loading", "loaded", "unloading", "failed")] = "not installed"
    reason: str | None = None
    """Why it failed to load, or restarts."""
    default: bool = False
    """Whether requests that name no model get it."""
    pinned: bool = False
    damage: str | None = None
    texts_per_second: float | None = None
    """Texts of forty words, one after another, as measured on this machine; None: not measured."""
    tokens_per_second: float | None = None
    """In bulk, as measured on this machine; None: not measured."""
    path: str | None = None
    removable: bool = False
    """Whether it was installed by edgeembed, which can remove it."""


class OwnedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the catalogue, or another one that is installed."""

    name: str
    title: str = ""
    summary: str = ""
    task: str = "embed"
    purposes: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    """BCP 47 tags, or "multilingual"."""
    license: str | None = None
    dimensions: int | None = None
    """Length of its vectors, or of those of tokens; None for a reranker."""
    parameters: int | None = None
    context: int | None = None
    """Longest text in tokens that it is used for without changing a setting."""
    in_catalogue: bool = False
    default_type: str | None = None
    """The type that is installed when none is named."""
    types: tuple[ModelType, ...] = ()
    note: str | None = None
    """What the owner should know about the change that was just made."""


class PullStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A download that the owner started, or one that was left unfinished."""

    spec: str
    state: Annotated[str, _words("waiting", "running", "paused", "failed", "done")]
    message: str = ""
    what: str = ""
    """The file, or the step, of which `done_bytes` of `total_bytes` are done."""
    done_bytes: int = 0
    total_bytes: int = 0
    """0: not known."""
    bytes_per_second: float | None = None
    error: str | None = None
    installed: str | None = None
    """What was installed, if it is done: NAME:TYPE."""


class OwnedModels(msgspec.Struct, frozen=True, kw_only=True):
    """All models that are installed or in the catalogue, and the downloads."""

    folder: str
    disk_free_bytes: int
    models_bytes: int
    """What the folder of models holds, unfinished downloads included."""
    default: str | None = None
    memory_bytes: int = 0
    """What loaded models take together."""
    memory_budget_bytes: int = 0
    models: tuple[OwnedModel, ...] = ()
    pulls: tuple[PullStatus, ...] = ()


class SettingStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A setting, its value in effect, and where that comes from. Secrets' values are left out."""

    name: str
    value: Any
    """None for a secret."""
    default: Any
    source: Annotated[str, _words("flag", "variable", "config.toml", "default")]
    written: Any = None
    """What config.toml has; None if it does not name it, and for a secret."""
    restart_needed: bool = False
    """Whether a restart would change the value in effect."""
    description: str = ""
    kind: Annotated[
        str, _words("text", "number", "integer", "boolean", "choice", "list", "table", "duration", "file", "URL", "secret")
    ] = "text"
    choices: tuple[str, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None
    secret: bool = False
    is_set: bool = False
    """Whether it has another value than its default; of a secret, whether there is one."""
    note: str | None = None
    """What the owner should know, such as that a flag hides what config.toml says."""


class SettingsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All settings."""

    file: str
    restart_needed: bool
    settings: tuple[SettingStatus, ...] = ()


class CacheModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model's rows in the cache on disk."""

    model: str
    """NAME:TYPE; empty for rows without a label."""
    rows: int
    bytes: int


class CacheStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache holds."""

    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    disk_bytes: int = 0
    disk_limit_bytes: int = 0
    folder: str | None = None
    """None: nothing is kept on disk."""
    rows: int = 0
    """On disk, or in memory if none are kept on disk."""
    problem: str | None = None
    models: tuple[CacheModel, ...] = ()


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the log."""

    number: int
    """Counts up as long as the process runs."""
    time: str
    """RFC 3339, in UTC."""
    level: Annotated[str, _words("debug", "info", "warning", "error", "critical")]
    message: str


class LogTail(msgspec.Struct, frozen=True, kw_only=True):
    """The latest lines of the log, the newest last."""

    lines: tuple[LogLine, ...] = ()


class KeyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An API key, without the key."""

    name: str
    source: str
    """The setting, or the file, that holds it."""
    removable: bool
    """Whether it can be removed here."""


class KeysStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The API keys. Without any, programs of this machine need none."""

    keys: tuple[KeyStatus, ...] = ()
    note: str | None = None


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A new API key, which is never shown again."""

    name: str
    key: str
    note: str | None = None


class AliasesStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Additional names of models."""

    aliases: dict[str, str]
    note: str | None = None


class OriginsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The web pages and apps that may use the server; none of them may administer it."""

    origins: tuple[str, ...]
    desktop_apps: bool
    desktop_app_origins: tuple[str, ...] = ()
    note: str | None = None
