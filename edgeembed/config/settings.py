"""Every setting, with its type, bounds, default and help text; `edgeembed.config.resolution` resolves them.

To add one: a field here, its use in `edgeembed.runtime`. Flag, variable, key of config.toml and help text follow.
`extra` in Meta says what a type cannot (see `edgeembed.config.values`).
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

_DURATION = {"kind": "duration"}
_BASE_URL = {"kind": "base URL"}
_API_KEY = {"kind": "API key"}
_CACHE_URL = {"kind": "cache URL"}
_FILE = {"kind": "file"}


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting. The field `some_name` is the flag --some-name, the variable EDGEEMBED_SOME_NAME and the key some_name
    of config.toml; its description is the help text.
    """

    model: Annotated[
        str | None,
        Meta(description="Model to serve: a catalogue name, NAME:TYPE (such as all-minilm-l6-v2:F16) or a .gguf file."),
    ] = None
    preload: Annotated[
        tuple[str, ...],
        Meta(description="More models to load at startup; other models load when a request first names them."),
    ] = ()
    pin: Annotated[
        tuple[str, ...],
        Meta(description="Models to load at startup and keep loaded, even when other models need the memory."),
    ] = ()
    aliases: Annotated[
        dict[str, str],
        Meta(
            description="Additional names for models, for tools with a hard-coded model name, such as "
            "text-embedding-3-small=qwen3-embedding-0.6b; the model may end in :query or :document. An alias NAME:query or "
            "NAME:document is also taken for requests with that input type to NAME."
        ),
    ] = {}
    keep_alive: Annotated[
        str,
        Meta(
            description="How long an unused model stays loaded: 0, a duration such as 90s, 30m or 2h, or forever. "
            "The model of the setting `model` is not unloaded when idle, unless keep_alive_of names it.",
            extra=_DURATION,
        ),
    ] = "30m"
    keep_alive_of: Annotated[
        dict[str, str],
        Meta(description="keep_alive for individual models, such as qwen3-embedding-4b=5m.", extra=_DURATION),
    ] = {}
    memory_budget_mib: Annotated[
        int,
        Meta(
            ge=0,
            description="Memory for all loaded models together, in MiB; the least recently used model is unloaded when it "
            "is exceeded. 0: 70 % of what the machine, its cgroups (containers, units) and `ulimit -v` allow.",
        ),
    ] = 0
    load_wait: Annotated[
        float,
        Meta(gt=0, description="Seconds a request waits for its model to load before it gets a 503 with Retry-After."),
    ] = 60.0
    host: Annotated[
        str, Meta(description="Address to listen on; localhost stands for 127.0.0.1 and, where the system has IPv6, ::1.")
    ] = "localhost"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port to listen on; 0 picks a free one.")] = 8327
    no_auth: Annotated[
        bool, Meta(description="Allow listening on an address that other machines can reach without requiring an API key.")
    ] = False
    api_key: Annotated[
        str | None,
        Meta(
            description="API key that every request must send (Authorization: Bearer KEY). Prefer the variable or "
            "api_key_file: other users of this machine can see flags (with ps).",
            extra=_API_KEY,
        ),
    ] = None
    api_key_file: Annotated[
        str | None,
        Meta(
            description="File with one API key per line, as KEY or NAME: KEY (with a space after the first colon); the log "
            "shows the NAME. Lines that begin with # are comments.",
            extra=_FILE,
        ),
    ] = None
    certfile: Annotated[
        str | None,
        Meta(
            description="Certificate chain (PEM); turns on HTTPS. Needs keyfile, unless it contains the private key too.",
            extra=_FILE,
        ),
    ] = None
    keyfile: Annotated[str | None, Meta(description="Private key for certfile (PEM).", extra=_FILE)] = None
    uds: Annotated[
        str | None,
        Meta(
            description="Unix socket to listen on instead of host and port; only the current user can open it.", extra=_FILE
        ),
    ] = None
    allowed_hosts: Annotated[
        tuple[str, ...],
        Meta(
            description="Host names, besides localhost, that requests may use for this server, such as the name of a "
            "reverse proxy in front of it."
        ),
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Origins of web pages that may call this server, such as https://notes.example, in addition to "
            "those of allow_desktop_apps. * stands for any characters."
        ),
    ] = ()
    allow_desktop_apps: Annotated[
        bool,
        Meta(
            description="Allow the origins of desktop apps that are made of web pages: app://obsidian.md, "
            "vscode-webview://*, tauri://localhost, http://tauri.localhost, https://tauri.localhost."
        ),
    ] = True
    threads: Annotated[
        int,
        Meta(ge=0, le=1024, description="Compute threads; 0 uses what `edgeembed tune` measured, or else all processors."),
    ] = 0
    kernels: Annotated[
        Literal["auto", "llama.cpp"],
        Meta(description="auto uses edgeembed's own kernels where the processor (x86) supports them; llama.cpp never does."),
    ] = "auto"
    device: Annotated[
        str,
        Meta(
            pattern=r"^(auto|cpu|(cuda|vulkan|metal)(:\d{1,2})?)$",
            description="Where models run: auto (on a GPU if llama.cpp can use one, else on the CPU), cpu, cuda, vulkan or "
            "metal, or one of several GPUs such as cuda:1. `edgeembed devices` lists them.",
            extra={"expected": "auto, cpu, cuda, vulkan, metal, or one of several GPUs such as cuda:1"},
        ),
    ] = "auto"
    gpu_layers: Annotated[
        str,
        Meta(
            pattern=r"^(auto|\d{1,4})$",
            description="Layers of a model to put on the GPU: auto for as many as fit into its free memory, or a number, "
            "which is used without checking.",
            extra={"expected": "auto or a number of layers", "numbers": True},
        ),
    ] = "auto"
    gpu_memory_utilization: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="Share of a GPU's memory that may be in use, counting what other programs use.",
        ),
    ] = 0.9
    sandbox: Annotated[
        Literal["auto", "off"],
        Meta(
            description="auto restricts the processes that run models, where the system supports it (Linux): no network, no "
            "other programs, no files except the model and libraries. `edgeembed doctor` says what is in force."
        ),
    ] = "auto"
    context_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="Longest text in tokens, up to the model's own limit. 0: 4096, or less if the makers use the model "
            "for shorter texts (all-MiniLM-L6-v2: 256). Decoder models allocate a KV cache of this length "
            "(Qwen3-Embedding-0.6B: 115 kB per token).",
        ),
    ] = 0
    batch_tokens: Annotated[
        int,
        Meta(
            ge=0,
            le=65536,
            description="Target size of a forward pass, in tokens of all its texts together; 0 uses what `edgeembed tune` "
            "measured, or else 128.",
        ),
    ] = 0
    load_timeout: Annotated[
        float,
        Meta(gt=0, description="Seconds a model may take to load and pass its canary test before loading counts as failed."),
    ] = 300.0
    cache: Annotated[bool, Meta(description="Answer texts seen before from the cache.")] = True
    cache_memory_mib: Annotated[int, Meta(ge=0, description="Memory for the in-memory tier of the cache, in MiB.")] = 64
    cache_disk_mib: Annotated[int, Meta(ge=0, description="Disk space for the cache, in MiB; 0 keeps nothing on disk.")] = (
        1024
    )
    cache_ttl: Annotated[
        str,
        Meta(
            description="How long cached vectors are used: a duration such as 12h or 30d, or forever (vectors of a local "
            "model file never change).",
            extra=_DURATION,
        ),
    ] = "forever"
    cache_url: Annotated[
        str | None,
        Meta(
            description="Redis or Valkey server with which several daemons share the cache: redis://HOST:PORT/DB, "
            "rediss://USER:PASSWORD@HOST:PORT/DB?ssl_ca_certs=FILE (TLS) or unix:///SOCKET. A URL with a password is taken "
            "from the variable or config.toml only: other users of this machine can see flags (with ps). Needs the extra "
            "redis.",
            extra=_CACHE_URL,
        ),
    ] = None
    cache_secret: Annotated[
        str | None,
        Meta(
            description="Secret of all daemons that share a cache by cache_url: rows that somebody without it has written "
            "are not used, and nobody without it can find out whether a text has a row. Prefer the variable: other users of "
            "this machine can see flags (with ps).",
            extra=_API_KEY,
        ),
    ] = None
    request_timeout: Annotated[
        float,
        Meta(
            gt=0,
            description="Seconds a request may take before it gets a 504. A large request is computed in parts, and has "
            "this long for each.",
        ),
    ] = 600.0
    grace_period: Annotated[
        float, Meta(ge=0, description="Seconds that running requests get to finish when the daemon shuts down.")
    ] = 10.0
    max_queue_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="Tokens that may wait in the queue of one model, all requests together; requests beyond that get a "
            "429. 0: no limit.",
        ),
    ] = 500_000
    max_request_texts: Annotated[
        int,
        Meta(
            ge=0,
            description="Texts, or documents, that one request may have; larger ones get a 400. 0: no limit, as Ollama's "
            "routes always have none.",
        ),
    ] = 2048
    max_request_tokens: Annotated[
        int,
        Meta(
            ge=0, description="Tokens that one request may have, all its texts together; larger ones get a 400. 0: no limit."
        ),
    ] = 0
    truncate: Annotated[
        Literal["none", "end", "start"],
        Meta(
            description="What happens to texts that are too long, if neither the request nor its protocol says: none "
            "refuses them with a 400, end and start cut off that side. A response says what was cut. Ollama's, TEI's and "
            "Cohere's routes cut off the end by default."
        ),
    ] = "none"
    long_text: Annotated[
        Literal["none", "mean"],
        Meta(
            description="What happens to texts that are too long, if the request says neither this nor how to cut them. "
            "mean: a text is divided into overlapping windows that end with a sentence, and its vector is the mean of "
            "theirs; when reranking, the best window counts. none: it is cut or refused, see truncate."
        ),
    ] = "none"
    clean_text: Annotated[
        bool,
        Meta(
            description="Clean texts before embedding: normalise to Unicode NFC, remove control characters, replace "
            "unpaired surrogates (halves of an emoji)."
        ),
    ] = True
    max_body_mib: Annotated[int, Meta(ge=1, le=4096, description="Largest request body, in MiB.")] = 64
    offline: Annotated[bool, Meta(description="Never use the network; only installed models can be served.")] = False
    hub_timeout: Annotated[
        float, Meta(gt=0, description="Seconds to wait for the model hub before the next source is tried.")
    ] = 3.0
    upstream: Annotated[
        str | None,
        Meta(
            description="Base URL of an OpenAI-compatible server (SGLang, vLLM, TEI, llama-server, Ollama, edgeembed) that "
            "computes the vectors, with this daemon's cache in front, such as http://gpu-box:30000/v1. `model` is then that "
            "server's name for the model, and may be omitted if it has only one.",
            extra=_BASE_URL,
        ),
    ] = None
    upstream_key: Annotated[
        str | None,
        Meta(
            description="API key for upstream (Authorization: Bearer KEY). Prefer the variable: other users of this machine "
            "can see flags (with ps).",
            extra=_API_KEY,
        ),
    ] = None
    upstream_fallback: Annotated[
        str,
        Meta(
            description="Local model that answers while upstream is unavailable, provided that its vectors match "
            "upstream's: a name as for `model`, auto for the catalogue model with upstream's name, or off."
        ),
    ] = "off"
    upstream_min_cosine: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="Lowest cosine similarity at which two vectors of a text count as the same model's. Used to detect "
            "that upstream has changed its model, and to check that the fallback matches it.",
        ),
    ] = 0.99
    upstream_wait: Annotated[
        float,
        Meta(
            ge=0,
            description="Seconds that requests wait for an unavailable upstream, such as one that is restarting, before "
            "they get a 503. With a fallback they do not wait.",
        ),
    ] = 10.0
    upstream_timeout: Annotated[
        float, Meta(gt=0, description="Seconds that one request to upstream may take before it counts as failed (504).")
    ] = 60.0
    upstream_check: Annotated[
        float,
        Meta(gt=0, description="Seconds between checks, with canary texts, that upstream still serves the same model."),
    ] = 60.0
    upstream_texts: Annotated[
        int,
        Meta(ge=2, le=4096, description="Maximum number of texts per request to upstream, including sentinel texts."),
    ] = 32
    upstream_characters: Annotated[
        int, Meta(ge=1, description="Maximum characters per request to upstream; a longer text is sent alone.")
    ] = 65_536
    upstream_requests: Annotated[
        int,
        Meta(ge=1, le=1024, description="Maximum number of concurrent requests to upstream; one is reserved for queries."),
    ] = 8
    forward: Annotated[
        str | None,
        Meta(
            description="Base URL of a server that gets all /v1 requests that edgeembed does not handle itself, such as "
            "chat, so that tools need only one base URL: http://gpu-box:8000/v1. Its models are listed with ours.",
            extra=_BASE_URL,
        ),
    ] = None
    forward_key: Annotated[
        str | None,
        Meta(
            description="API key for the forward server; the client's own key is never passed on. Prefer the variable: "
            "other users of this machine can see flags (with ps).",
            extra=_API_KEY,
        ),
    ] = None
    forward_timeout: Annotated[
        float,
        Meta(gt=0, description="Seconds the forward server may be silent, before or during its response (504)."),
    ] = 300.0
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="Lowest severity to log.")] = "info"
    log_format: Annotated[
        Literal["text", "json"], Meta(description="text for people, or json: one JSON object per line, for log collectors.")
    ] = "text"
    access_log: Annotated[
        str | None,
        Meta(
            description="File to which a line is added for each request, in log_format, without anything that its client "
            "wrote; - for standard output. It may be renamed by log rotation.",
            extra=_FILE,
        ),
    ] = None
    traces: Annotated[
        bool,
        Meta(
            description="Send a span for each request, without its texts, to the OpenTelemetry collector that the variable "
            "OTEL_EXPORTER_OTLP_ENDPOINT names. Needs the extra otel. The header traceparent is passed on in any case."
        ),
    ] = False
