"""Settings and folders, resolved once: flags, then EDGEEMBED_* variables, then config.toml, then defaults."""

from __future__ import annotations

import difflib
import logging
import os
import re
import stat
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
import platformdirs
from msgspec import Meta

from edgeembed.errors import ConfigError

log = logging.getLogger(__name__)

ENV_PREFIX = "EDGEEMBED_"
HOME_VARIABLE = "EDGEEMBED_HOME"

_ENCODING = "utf-8-sig"  # editors on Windows put a mark in front of UTF-8

Origin = Literal["flag", "environment", "config.toml", "default"]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting there is. A field `some_name` is the flag --some-name, the variable EDGEEMBED_SOME_NAME and the key
    some_name of config.toml; its description is its help text.
    """

    model: Annotated[
        str | None,
        Meta(description="Model to serve: a catalogue name, NAME:TYPE (such as all-minilm-l6-v2:F16) or a .gguf file."),
    ] = None
    preload: Annotated[
        tuple[str, ...], Meta(description="Further models to load at the start; others load when a request names them.")
    ] = ()
    pin: Annotated[
        tuple[str, ...], Meta(description="Models to load at the start and never to unload, whatever else wants the memory.")
    ] = ()
    aliases: Annotated[
        dict[str, str],
        Meta(
            description="Other names for models, such as text-embedding-3-small=qwen3-embedding-0.6b for tools with a "
            "hard-wired name; the model may end in :query or :document."
        ),
    ] = {}
    keep_alive: Annotated[
        str,
        Meta(
            description="How long a model that nobody uses stays loaded: 0, a duration such as 90s, 30m or 2h, or forever. "
            "The model of the setting `model` stays for ever unless keep_alive_of names it."
        ),
    ] = "30m"
    keep_alive_of: Annotated[
        dict[str, str], Meta(description="The same for single models, such as qwen3-embedding-4b=5m.")
    ] = {}
    memory_budget_mib: Annotated[
        int,
        Meta(
            ge=0,
            description="Memory that loaded models may take together, in MiB; 0 takes 70 % of the machine's, or of the "
            "container's. The least recently used one goes first.",
        ),
    ] = 0
    load_wait: Annotated[
        float,
        Meta(gt=0, description="Seconds a request waits for its model to load; then it is asked to come again (503)."),
    ] = 60.0
    host: Annotated[str, Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port to listen on; 0 takes a free one.")] = 8327
    no_auth: Annotated[
        bool, Meta(description="Allow an address that other machines reach, although nothing asks for a key.")
    ] = False
    api_key: Annotated[
        str | None,
        Meta(
            description="Key that every request must carry (Authorization: Bearer KEY). Better in the variable or a file "
            "than as a flag, which other users of this machine can see."
        ),
    ] = None
    api_key_file: Annotated[
        str | None,
        Meta(description="File with a key in each line, as KEY or NAME: KEY; # begins a comment. The log shows the NAME."),
    ] = None
    certfile: Annotated[
        str | None,
        Meta(description="Certificate chain (PEM): the server speaks HTTPS. Needs keyfile, unless it is in there."),
    ] = None
    keyfile: Annotated[str | None, Meta(description="Private key of certfile (PEM).")] = None
    uds: Annotated[
        str | None,
        Meta(description="Unix socket to listen on instead of host and port; only this user can open it."),
    ] = None
    allowed_hosts: Annotated[
        tuple[str, ...],
        Meta(
            description="Names besides localhost by which requests may call this server, such as that of a proxy in front."
        ),
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...],
        Meta(description="Web pages that may call this server, such as https://notes.example or vscode-webview://*."),
    ] = ("vscode-webview://*",)
    threads: Annotated[
        int, Meta(ge=0, le=1024, description="Threads that compute; 0 takes what `edgeembed tune` found, or all processors.")
    ] = 0
    context_tokens: Annotated[
        int,
        Meta(
            ge=8,
            description="Longest text in tokens; the model's own limit holds where it is lower. Decoder models keep a "
            "KV cache of this length in memory (Qwen3-Embedding-0.6B: 115 kB per token).",
        ),
    ] = 4096
    batch_tokens: Annotated[
        int,
        Meta(
            ge=0,
            le=65536,
            description="Tokens of all texts together that one forward pass aims at; 0 takes what `edgeembed tune` found, "
            "or 128.",
        ),
    ] = 0
    load_timeout: Annotated[
        float, Meta(gt=0, description="Seconds a model may take to load and to pass its canary texts.")
    ] = 300.0
    cache: Annotated[bool, Meta(description="Answer texts seen before from the cache.")] = True
    cache_memory_mib: Annotated[int, Meta(ge=0, description="Memory for the hot tier of the cache, in MiB.")] = 64
    cache_disk_mib: Annotated[int, Meta(ge=0, description="Disk space for the cache, in MiB; 0 keeps nothing on disk.")] = (
        1024
    )
    cache_ttl: Annotated[
        str,
        Meta(
            description="How long a cached vector counts: a duration such as 12h or 30d, or forever, as the vectors of a "
            "model's file do not age."
        ),
    ] = "forever"
    request_timeout: Annotated[float, Meta(gt=0, description="Seconds after which a request is given up (504).")] = 600.0
    grace_period: Annotated[
        float, Meta(ge=0, description="Seconds that requests in flight get to finish when the daemon is told to stop.")
    ] = 10.0
    max_queue_tokens: Annotated[
        int,
        Meta(ge=0, description="Tokens of all texts that may wait for one model; more are refused (429). 0: no limit."),
    ] = 500_000
    max_request_tokens: Annotated[
        int,
        Meta(ge=0, description="Tokens of all texts of one request; a larger one is refused (400). 0: no limit."),
    ] = 300_000
    clean_text: Annotated[
        bool,
        Meta(description="Clean texts before they are embedded: Unicode NFC, no control characters, no halves of emoji."),
    ] = True
    max_body_mib: Annotated[int, Meta(ge=1, le=4096, description="Largest request body, in MiB.")] = 64
    offline: Annotated[bool, Meta(description="Never use the network; only what is installed is served.")] = False
    hub_timeout: Annotated[
        float, Meta(gt=0, description="Seconds the model hub gets to answer before the next source is tried.")
    ] = 3.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least severity of the lines that are logged.")
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"], Meta(description="Log lines for people, or one JSON object in each for a log collector.")
    ] = "text"


@dataclass(frozen=True)
class Paths:
    """Where things live. EDGEEMBED_HOME moves all of it under one folder."""

    config_file: Path
    models: Path
    cache: Path
    state: Path
    logs: Path

    @classmethod
    def resolve(cls, environ: Mapping[str, str] | None = None) -> Paths:
        """Give the folders of this user; nothing is created."""
        environ = os.environ if environ is None else environ
        if home := environ.get(HOME_VARIABLE):
            root = Path(home).expanduser().absolute()
            return cls(root / "config.toml", root / "models", root / "cache", root / "state", root / "logs")
        dirs = platformdirs.PlatformDirs("edgeembed", appauthor=False)
        return cls(
            config_file=dirs.user_config_path / "config.toml",
            models=dirs.user_data_path / "models",
            cache=dirs.user_cache_path,
            state=dirs.user_state_path / "state",
            logs=dirs.user_log_path,
        )


@dataclass(frozen=True)
class Resolved:
    """The settings in force, and for each field where its value came from."""

    settings: Settings
    origins: Mapping[str, Origin]
    paths: Paths


def field_names() -> list[str]:
    """Give the names of all settings, in the order of their definition."""
    return [field.name for field in msgspec.structs.fields(Settings)]


def resolve(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Resolved:
    """Resolve the settings; a flag whose value is None was not given.

    Raises ConfigError naming the flag, the variable or the file and key of a bad value.
    """
    environ = os.environ if environ is None else environ
    paths = Paths.resolve(environ)
    layers: list[tuple[Origin, dict[str, Any]]] = [
        ("config.toml", read_config(paths.config_file)),
        ("environment", _from_environment(environ)),
        ("flag", {key: value for key, value in (flags or {}).items() if value is not None}),
    ]
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = dict.fromkeys(field_names(), "default")
    for origin, layer in layers:
        for key, raw in layer.items():
            values[key] = _checked(key, raw, origin, paths.config_file)
            origins[key] = origin
    return Resolved(Settings(**values), origins, paths)


def read_config(path: Path) -> dict[str, Any]:
    """Read config.toml; a missing file is an empty one. Raises ConfigError when it is not TOML or has an unknown key."""
    try:
        found = tomllib.loads(path.read_text(encoding=_ENCODING))
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    known = field_names()
    for key in found:
        if key not in known:
            raise ConfigError(f"{path}: unknown key {key!r}.{_did_you_mean(key, known)}")
    return found


def write_setting(path: Path, key: str, value: Any, comment: str | None = None) -> None:
    """Set one key of config.toml, keeping the user's own lines and comments; the file is replaced atomically.

    A link stays a link, and the file keeps its mode.

    Raises ConfigError for an unknown key, a bad value, or a file that cannot be read or written.
    """
    if key not in field_names():
        raise ConfigError(f"unknown setting {key!r}.{_did_you_mean(key, field_names())}")
    import tomlkit  # takes as long to import as all else that a command needs

    checked = _checked(key, value, "config.toml", path)
    read_config(path)  # never rewrite a file that we do not understand
    try:
        text = path.read_text(encoding=_ENCODING) if path.exists() else ""
        # tomlkit would hang a new line onto a last one that is not ended.
        document = tomlkit.parse(text if text.endswith("\n") or not text else f"{text}\n")
        if comment and key not in document:
            document.add(tomlkit.comment(comment))
        document[key] = list(checked) if isinstance(checked, tuple) else checked
        _replace(path.resolve(), tomlkit.dumps(document))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error}") from error


def remove_setting(path: Path, key: str) -> bool:
    """Take one key out of config.toml, so that its default counts again; says whether it was there.

    Raises ConfigError for an unknown key, or a file that cannot be read or written.
    """
    if key not in field_names():
        raise ConfigError(f"unknown setting {key!r}.{_did_you_mean(key, field_names())}")
    if key not in read_config(path):
        return False
    import tomlkit

    try:
        document = tomlkit.parse(path.read_text(encoding=_ENCODING))
        del document[key]
        _replace(path.resolve(), tomlkit.dumps(document))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error}") from error
    return True


def _replace(path: Path, text: str) -> None:
    """Write a file in one step. Raises OSError; the old file is then untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=".config-", suffix=".tmp", delete=False
    ) as file:
        new = Path(file.name)
        try:
            file.write(text)
            file.close()
            if path.exists():
                new.chmod(stat.S_IMODE(path.stat().st_mode))
            new.replace(path)
        except OSError:
            file.close()
            new.unlink(missing_ok=True)
            raise


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Collect EDGEEMBED_* variables; an empty one counts as not set."""
    known = set(field_names())
    found = {}
    for name, value in environ.items():
        if not name.startswith(ENV_PREFIX) or name == HOME_VARIABLE or not value:
            continue
        key = name.removeprefix(ENV_PREFIX).lower()
        if key in known:
            found[key] = value
        else:
            log.warning("%s is not a setting of edgeembed and is ignored", name)
    return found


def _checked(key: str, raw: Any, origin: Origin, config_file: Path) -> Any:
    """Convert and check one value. Text from flags and variables may stand for numbers and booleans; TOML has types."""
    fields = {field.name: field for field in msgspec.structs.fields(Settings)}
    try:
        if key in _LISTS or key in _TABLES:
            raw = _parts_of(raw, table=key in _TABLES)
        value = msgspec.convert(raw, fields[key].type, strict=origin == "config.toml" and not isinstance(raw, str))
        if key in ("keep_alive", "cache_ttl"):
            seconds_of(value)
        if key == "keep_alive_of":
            for duration in value.values():
                seconds_of(duration)
        return value
    except ValueError as error:  # msgspec.ValidationError is one
        where = {
            "flag": f"--{key.replace('_', '-')}",
            "environment": f"{ENV_PREFIX}{key.upper()}",
            "config.toml": f"{config_file}: {key}",
            "default": key,
        }[origin]
        choices = get_args(get_args(fields[key].type)[0]) if isinstance(fields[key].default, str) else ()
        one_of = f"; one of {', '.join(choices)}" if choices else ""
        raise ConfigError(f"{where} = {raw!r}: {error}{one_of}") from error


_LISTS = ("preload", "pin", "allowed_hosts", "allowed_origins")
_TABLES = ("aliases", "keep_alive_of")


def _parts_of(raw: Any, *, table: bool) -> Any:
    """Take a list or a table apart where it came as text: with commas in between, or as a flag given several times.

    Raises ValueError.
    """
    if isinstance(raw, dict):
        return raw
    words = [word.strip() for part in ([raw] if isinstance(raw, str) else raw) for word in str(part).split(",")]
    words = [word for word in words if word]
    if not table:
        return words
    pairs = [word.partition("=") for word in words]
    if wrong := next((word for word, (name, _, value) in zip(words, pairs, strict=True) if not name or not value), None):
        raise ValueError(f"{wrong!r} is not NAME=VALUE")
    return {name.strip(): value.strip() for name, _, value in pairs}


_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(duration: str) -> float | None:
    """Give the seconds of "90", "90s", "1.5m", "2h" or "1d"; None for "forever". Raises ValueError."""
    word = duration.strip().lower()
    if word == "forever":
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", word)
    if found is None:
        raise ValueError(f"{duration!r} is no duration: 0, 90s, 30m, 2h, 1d or forever is expected")
    return float(found[1]) * _UNITS[found[2]]


def _did_you_mean(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
