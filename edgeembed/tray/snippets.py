"""Code for clients of the daemon, ready to paste."""

from __future__ import annotations

from edgeembed.client import daemon_url
from edgeembed.config.settings import Settings

_KEY_VARIABLE = "EDGEEMBED_API_KEY"


def base_url(settings: Settings) -> str:
    """Return the base URL for clients of OpenAI's API."""
    return f"{daemon_url(settings)}/v1"


def curl(settings: Settings, model: str | None) -> str:
    """Return a command that embeds a text. The API key stays in its variable: other programs can read the clipboard."""
    # Names come from GET /v1/models and may contain any character that file names may.
    field = f'"model": "{_json(model)}", ' if model else ""
    body = f'{{{field}"input": "hello"}}'.replace("'", "'\\''")
    url = "http://localhost/v1/embeddings" if settings.uds else f"{base_url(settings)}/embeddings"
    parts = [f"curl -s {url}"]
    if settings.uds:
        parts.append(f"--unix-socket '{settings.uds}'")
    parts.append("-H 'content-type: application/json'")
    if _has_key(settings):
        parts.append(f'-H "authorization: Bearer ${_KEY_VARIABLE}"')
    parts.append(f"-d '{body}'")
    return " \\\n  ".join(parts)


def python(settings: Settings, model: str | None) -> str:
    """Return a program that embeds two texts with OpenAI's package."""
    imports, key = ("import os\n\n", f'os.environ["{_KEY_VARIABLE}"]') if _has_key(settings) else ("", '"unused"')
    return (
        f"{imports}from openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{base_url(settings)}", api_key={key})\n'
        f'response = client.embeddings.create(model="{_json(model or "default")}", input=["first text", "second text"])\n'
        "vectors = [item.embedding for item in response.data]\n"
    )


def _has_key(settings: Settings) -> bool:
    return bool(settings.api_key or settings.api_key_file)


def _json(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')
