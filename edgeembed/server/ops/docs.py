"""GET /docs: the OpenAPI document as an HTML page, without scripts and without resources from other servers."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from html import escape
from typing import Any

from aiohttp import web

from edgeembed.server.ops.openapi import OPENAPI

routes = web.RouteTableDef()

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --strong: #0b6b4f; --code: #8881; }
@media (prefers-color-scheme: dark) { :root { --strong: #5fd3ad; } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; }
h1 small { font-size: 1rem; font-weight: normal; opacity: .7; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h3 { margin-bottom: .25rem; }
a { color: var(--strong); }
code, pre { font: .875rem/1.45 ui-monospace, monospace; background: var(--code); border-radius: 4px; }
code { padding: .1em .3em; }
pre { padding: .75rem; overflow-x: auto; }
pre code { background: none; padding: 0; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; }
details > div { padding: 0 1rem 1rem; }
summary { cursor: pointer; padding: .5rem 1rem; }
summary:focus-visible, a:focus-visible { outline: 2px solid var(--strong); outline-offset: 2px; }
summary b { display: inline-block; min-width: 3.25rem; color: var(--strong); }
summary span { opacity: .8; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--soft); }
"""
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@routes.get("/docs")
async def docs(request: web.Request) -> web.Response:
    """Show this API as a page."""
    page = render(request.app[OPENAPI].of(request.app), f"{request.scheme}://{request.host}")
    return web.Response(text=page, content_type="text/html", charset="utf-8", headers=HEADERS)


def render(document: dict[str, Any], server: str) -> str:
    """Return an OpenAPI document as HTML. server: the address in the examples."""
    info = document["info"]
    by_tag: dict[str, list[str]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            by_tag[operation["tags"][0]].append(_operation(method, path, operation, document, server))
    sections = "".join(f"<h2>{escape(tag)}</h2>{''.join(operations)}" for tag, operations in by_tag.items())
    types = "".join(
        f'<h3 id="{_anchor(name)}"><code>{escape(name)}</code></h3>{_type(schema)}'
        for name, schema in sorted(document["components"]["schemas"].items())
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])}: the API</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>"
        f"<p>{escape(info['summary'])} As JSON: <a href='/openapi.json'>openapi.json</a>.</p>"
        f"{sections}<h2>Types</h2>{types}</main></body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any], document: dict[str, Any], server: str) -> str:
    parts = [f"<p>{_prose(operation['description'])}</p>"] if "description" in operation else []
    if parameters := operation.get("parameters"):
        rows = (
            (f"{each['name']} ({each['in']})", _name(each["schema"]), each.get("description", "")) for each in parameters
        )
        parts.append(f"<h3>Parameters</h3>{_table(('name', 'type', ''), rows)}")
    if body := operation.get("requestBody"):
        ((_, content),) = body["content"].items()
        parts.append(f"<h3>Body: {_name(content['schema'])}</h3>")
        for schema in _resolved(content["schema"], document):
            parts.append(_type(schema))
        if "example" in content:
            parts.append(f"<h3>Example</h3><pre><code>{escape(_curl(server, path, content['example']))}</code></pre>")
    answers = (
        (status, _name(next(iter(answer["content"].values()))["schema"]), answer["description"])
        for status, answer in operation["responses"].items()
    )
    parts.append(f"<h3>Responses</h3>{_table(('status', 'type', ''), answers)}")
    title = f"<b>{method.upper()}</b> <code>{escape(path)}</code> <span>{_prose(operation['summary'])}</span>"
    return f"<details><summary>{title}</summary><div>{''.join(parts)}</div></details>"


def _resolved(schema: dict[str, Any], document: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Yield the components that a schema refers to."""
    for each in schema.get("anyOf", [schema]):
        if "$ref" in each:
            yield document["components"]["schemas"][each["$ref"].rpartition("/")[2]]


def _type(schema: dict[str, Any]) -> str:
    """Return an object's description and its fields, as HTML."""
    text = " ".join(schema.get("description", "").split())
    required = schema.get("required", ())
    rows = (
        (name, _name(field), _notes(field, required=name in required))
        for name, field in schema.get("properties", {}).items()
    )
    return f"<p>{_prose(text)}</p>{_table(('field', 'type', ''), rows)}"


def _notes(field: dict[str, Any], *, required: bool) -> str:
    notes = ["required"] if required else []
    if field.get("default") is not None:
        notes.append(f"default {json.dumps(field['default'])}")
    if "description" in field and "$ref" not in field:
        notes.append(field["description"])
    return "; ".join(notes)


def _name(schema: dict[str, Any]) -> str:
    """Return the name of a type, as HTML."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{_anchor(name)}"><code>{escape(name)}</code></a>'
    if "anyOf" in schema:
        # null means a field that is left out, which "not required" already says.
        return " or ".join(_name(each) for each in schema["anyOf"] if each != {"type": "null"})
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(word))}</code>" for word in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_name(schema['items'])}" if schema.get("items") else "list"
    return escape(kind)


def _table(head: Iterable[str], rows: Iterable[tuple[str, str, str]]) -> str:
    """Make a table; the second column is HTML already."""
    lines = "".join(
        f"<tr><td><code>{escape(first)}</code></td><td>{second}</td><td>{escape(third)}</td></tr>"
        for first, second, third in rows
    )
    columns = "".join(f'<th scope="col">{escape(column)}</th>' for column in head)
    return f'<div class="wide"><table><tr>{columns}</tr>{lines}</table></div>' if lines else ""


def _curl(server: str, path: str, example: dict[str, Any]) -> str:
    return f"curl -s {server}{path} -H 'content-type: application/json' \\\n  -d '{json.dumps(example)}'"


def _prose(text: str) -> str:
    """Return text as HTML, with code where it has backticks."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _anchor(name: str) -> str:
    return escape(f"type-{name}", quote=True)
