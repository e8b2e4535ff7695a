"""Every setting there is, with its type, bounds, default and help text; `edgeembed.config.resolution` resolves them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


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
    kernels: Annotated[
        Literal["auto", "llama.cpp"],
        Meta(description="auto adds edgeembed's own kernels for x86 processors; llama.cpp uses its own alone."),
    ] = "auto"
    device: Annotated[
        str,
        Meta(
            pattern=r"^(auto|cpu|(cuda|vulkan|metal)(:\d{1,2})?)$",
            description="What computes: auto (a graphics card where llama.cpp can use one, else the processor), cpu, cuda, "
            "vulkan or metal, or one card of several such as cuda:1. `edgeembed devices` shows what there is.",
        ),
    ] = "auto"
    gpu_layers: Annotated[
        str,
        Meta(
            pattern=r"^(auto|\d{1,4})$",
            description="Layers of a model that go onto the card: auto for as many as its free memory holds, or a number, "
            "which is not checked against it.",
        ),
    ] = "auto"
    gpu_memory_utilization: Annotated[
        float,
        Meta(gt=0, le=1, description="Share of a card's memory that may be taken, with what other programs have there."),
    ] = 0.9
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
    upstream: Annotated[
        str | None,
        Meta(
            description="Let another server compute, with our cache in front: the base URL of an OpenAI-compatible one "
            "(SGLang, vLLM, TEI, llama-server, Ollama, edgeembed), such as http://gpu-box:30000/v1. `model` is then the "
            "name that it knows the model by; it may be left out where there is just one."
        ),
    ] = None
    upstream_key: Annotated[
        str | None, Meta(description="Key for upstream (Authorization: Bearer KEY). Better in the variable than as a flag.")
    ] = None
    upstream_fallback: Annotated[
        str,
        Meta(
            description="Local model that answers while upstream is away, if its vectors are shown to be upstream's: a name "
            "as for `model`, auto for the catalogue's model of upstream's name, or off."
        ),
    ] = "off"
    upstream_min_cosine: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="Cosine that rows of the same texts must have at least, to count as those of one model: upstream's "
            "to what it gave before, and the local fall-back's to upstream's.",
        ),
    ] = 0.99
    upstream_wait: Annotated[
        float,
        Meta(
            ge=0,
            description="Seconds that requests wait for an upstream that is away, such as one that restarts; then they are "
            "refused (503) until it is back. A fall-back answers at once.",
        ),
    ] = 10.0
    upstream_timeout: Annotated[
        float, Meta(gt=0, description="Seconds that one request to upstream may take; it is given up then (504).")
    ] = 60.0
    upstream_check: Annotated[
        float,
        Meta(gt=0, description="Seconds between two looks whether upstream is still the same model, by its canary texts."),
    ] = 60.0
    upstream_texts: Annotated[
        int,
        Meta(ge=2, le=4096, description="Most texts of one request to upstream, one canary text among them."),
    ] = 32
    upstream_characters: Annotated[
        int, Meta(ge=1, description="Most characters of one request to upstream, unless a single text has more.")
    ] = 65_536
    upstream_requests: Annotated[
        int, Meta(ge=1, le=1024, description="Most requests to upstream at a time; one of them is kept for queries.")
    ] = 8
    forward: Annotated[
        str | None,
        Meta(
            description="Pass every /v1 route that is not ours, such as chat, on to this server, so that tools need one "
            "base URL only: http://gpu-box:8000/v1. Its models are listed with ours."
        ),
    ] = None
    forward_key: Annotated[
        str | None,
        Meta(description="Key for that server, in place of the client's, which never leaves. Better in the variable."),
    ] = None
    forward_timeout: Annotated[
        float, Meta(gt=0, description="Seconds that it may be silent, before an answer or within one (504).")
    ] = 300.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least severity of the lines that are logged.")
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"], Meta(description="Log lines for people, or one JSON object in each for a log collector.")
    ] = "text"
