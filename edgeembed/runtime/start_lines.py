"""The lines for a person that the daemon prints when it starts. Each URL and each command can be pasted as it is."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from edgeembed import __version__
from edgeembed.config.secrets import ENV_PREFIX
from edgeembed.config.settings import Settings
from edgeembed.engine.interface import Engine
from edgeembed.models.served_model import ServedModel
from edgeembed.server.address import network_address

_KEY = f"{ENV_PREFIX}API_KEY"
_BODIES = {
    "embed": ("/v1/embeddings", '{"input":"hello"}'),
    "classify": ("/classify", '{"input":"I like it"}'),
    "rerank": ("/v1/rerank", '{"query":"rain","documents":["an umbrella","a desert"]}'),
}
"""What to try with a model, by its task."""


def listening_line(settings: Settings, url: str, model: ServedModel | None, stage: str) -> str:
    """Return the line for a daemon that listens; its model is still loading, or not there yet.

    url: for programs on this machine. stage: what is done before there is a model.
    """
    others = f" and for other machines on {other}," if (other := _for_others(settings, url)) else ""
    doing = stage if model is None else f"loading {model.name} {model.type}"
    return f"edgeembed {__version__} listens on {url},{others} {doing}"


def ready_lines(settings: Settings, url: str, model: ServedModel, engine: Engine) -> Iterator[str]:
    """Yield the lines for a daemon whose model is loaded."""
    info, status = engine.info, engine.status
    assert info is not None
    for demotion in status.demotions:
        yield f"mode {demotion.mode} failed: {demotion.reason}"
    what = {"rerank": "reranker, pairs", "classify": f"{info.dimensions} classes, texts"}
    size = what.get(model.task, f"{info.dimensions} dimensions, texts")
    up_to = f" up to {info.context_tokens} tokens" if info.context_tokens else " as long as upstream accepts"
    yield f"ready: {model.name} ({size}{up_to}) in mode {status.mode}"
    if not settings.uds:
        yield f"base URL:   {url}/v1"
        if other := _for_others(settings, url):
            yield f"network:    {other}/v1"
        yield f"dashboard:  {url}/"
    key = ""
    if settings.api_key or settings.api_key_file:
        yield f"API key:    every request needs one; the command below takes it from the variable {_KEY}"
        key = f' -H "Authorization: Bearer ${_KEY}"'
    path, body = _BODIES[model.task]
    yield f"try:        curl -s {_for_curl(url)}{path} -H 'content-type: application/json'{key} -d '{body}'"


def _for_others(settings: Settings, url: str) -> str | None:
    """Return the URL for other machines, if the daemon listens on all addresses of this one."""
    host = settings.host.strip("[]")
    if settings.uds or (address := network_address(host)) is None:
        return None
    scheme, _, rest = url.partition("://")
    port = rest.rpartition(":")[2]
    return f"{scheme}://{f'[{address}]' if ':' in address else address}:{port}"


def _for_curl(url: str) -> str:
    """Return a URL as arguments of curl, which takes a Unix socket as an option."""
    scheme, is_socket, path = url.partition("+unix://")
    return f"--unix-socket {shlex.quote(str(Path(path).absolute()))} {scheme}://localhost" if is_socket else url
