"""Settings and folders, resolved once: flags, then EDGEEMBED_* variables, then config.toml, then defaults."""

from __future__ import annotations

import difflib
import logging
import os
import stat
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
import platformdirs
import tomlkit
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
    host: Annotated[str, Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port to listen on; 0 takes a free one.")] = 8327
    no_auth: Annotated[
        bool, Meta(description="Allow an address that other machines reach, although nothing asks for a key.")
    ] = False
    threads: Annotated[
        int, Meta(ge=0, le=1024, description="Threads that compute; 0 takes the processors this process may use.")
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
        int, Meta(ge=1, le=65536, description="Tokens of all texts together that one forward pass aims at.")
    ] = 128
    load_timeout: Annotated[
        float, Meta(gt=0, description="Seconds a model may take to load and to pass its canary texts.")
    ] = 300.0
    cache: Annotated[bool, Meta(description="Answer texts seen before from the cache.")] = True
    cache_memory_mib: Annotated[int, Meta(ge=0, description="Memory for the hot tier of the cache, in MiB.")] = 64
    cache_disk_mib: Annotated[int, Meta(ge=0, description="Disk space for the cache, in MiB; 0 keeps nothing on disk.")] = (
        1024
    )
    request_timeout: Annotated[float, Meta(gt=0, description="Seconds after which a request is given up (504).")] = 600.0
    grace_period: Annotated[
        float, Meta(ge=0, description="Seconds that requests in flight get to finish when the daemon is told to stop.")
    ] = 10.0
    max_body_mib: Annotated[int, Meta(ge=1, le=4096, description="Largest request body, in MiB.")] = 64
    offline: Annotated[bool, Meta(description="Never use the network; only what is installed is served.")] = False
    hub_timeout: Annotated[
        float, Meta(gt=0, description="Seconds the model hub gets to answer before the next source is tried.")
    ] = 3.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least severity of the lines that are logged.")
    ] = "info"


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
    checked = _checked(key, value, "config.toml", path)
    read_config(path)  # never rewrite a file that we do not understand
    try:
        text = path.read_text(encoding=_ENCODING) if path.exists() else ""
        # tomlkit would hang a new line onto a last one that is not ended.
        document = tomlkit.parse(text if text.endswith("\n") or not text else f"{text}\n")
        if comment and key not in document:
            document.add(tomlkit.comment(comment))
        document[key] = checked
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
        return msgspec.convert(raw, fields[key].type, strict=origin == "config.toml" and not isinstance(raw, str))
    except msgspec.ValidationError as error:
        where = {
            "flag": f"--{key.replace('_', '-')}",
            "environment": f"{ENV_PREFIX}{key.upper()}",
            "config.toml": f"{config_file}: {key}",
            "default": key,
        }[origin]
        choices = get_args(get_args(fields[key].type)[0]) if isinstance(fields[key].default, str) else ()
        one_of = f"; one of {', '.join(choices)}" if choices else ""
        raise ConfigError(f"{where} = {raw!r}: {error}{one_of}") from error


def _did_you_mean(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
