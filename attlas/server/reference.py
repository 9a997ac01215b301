"""The page at /docs: what can be asked over HTTP, made from the app's OpenAPI description; no script, no network."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from html import escape
from typing import Any

__all__ = ["STYLE_HASH", "reference_page"]

METHODS = ("get", "post", "delete")
STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin: 2.5rem 0 0; border-bottom: 1px solid #8886; text-transform: capitalize; }
h3 { margin: 1.5rem 0 .3rem; font-size: 1rem; overflow-wrap: anywhere; }
p { margin: .2rem 0; }
b { display: inline-block; min-width: 4rem; }
table { border-collapse: collapse; margin: .4rem 0; }
td { padding: .1rem 1rem .1rem 0; vertical-align: top; }
code { font-family: ui-monospace, monospace; }
small { opacity: .75; }
"""

STYLE_HASH = "sha256-" + b64encode(sha256(STYLE.encode()).digest()).decode()
"""By which a Content-Security-Policy lets the page's own style be."""


def reference_page(openapi: dict[str, Any]) -> str:
    """HTML with a section for each tag, and in it each operation with its parameters and answers."""
    found: dict[str, list[str]] = {}
    for path, operations in openapi["paths"].items():
        for method in METHODS:
            if method in operations:
                one = operations[method]
                found.setdefault(one.get("tags", ["server"])[0], []).append("".join(_operation(path, method, one)))
    parts = "".join(f"<h2>{escape(tag)}</h2>{''.join(operations)}" for tag, operations in found.items())
    about = openapi["info"]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(about['title'])}</title><style>{STYLE}</style>"
        f"<h1>{escape(about['title'])} {escape(about['version'])}</h1><p>{escape(about.get('description', ''))}</p>"
        f'<p><a href="openapi.json">openapi.json</a></p>{parts}</html>'
    )


def _operation(path: str, method: str, one: dict[str, Any]) -> Iterator[str]:
    yield f"<h3><b>{method.upper()}</b> <code>{escape(path)}</code></h3><p>{escape(one.get('description', ''))}</p>"
    rows = [
        f"<tr><td><code>{escape(given['name'])}</code></td><td>{escape(given['in'])}</td>"
        f"<td>{escape(_kind(given['schema']))}</td><td>{escape(given.get('description', ''))}</td></tr>"
        for given in one.get("parameters", ())
    ]
    yield f"<table>{''.join(rows)}</table>" if rows else ""
    answers = [
        f"{escape(status)} {escape(', '.join(told.get('content', {})) or told['description'])}"
        for status, told in one["responses"].items()
        if status < "400"
    ]
    yield f"<p><small>answers {'; '.join(answers)}; an error is application/problem+json</small></p>"


def _kind(schema: dict[str, Any]) -> str:
    """A parameter's type in a few words."""
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema:
        told = ", ".join(map(str, schema["enum"]))
    elif schema.get("type") == "array":
        told = f"{_kind(schema['items'])}, repeated"
    else:
        told = str(schema.get("type", ""))
    return f"{told} = {schema['default']}" if schema.get("default") not in (None, "") else told
