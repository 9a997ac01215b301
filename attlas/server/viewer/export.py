"""A page to send: one HTML file that carries a document, the exact weights of some heads, and thumbnails of the others.

It opens from a disk, without a server and without a network: what the page asks, `static/file.js` answers from what the
file carries.
"""

from __future__ import annotations

import base64
import html
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.errors import InputError
from attlas.parse import parse_bytes, parse_output, refuse
from attlas.readable import human_bytes
from attlas.server.handles import Handle
from attlas.server.session import Session
from attlas.server.viewer.bundle import IMPORT, STATIC, viewer_css, viewer_module
from attlas.storage import Atlas
from attlas.storage.stores import Where

__all__ = ["LIMIT", "export_page", "page_of"]

LIMIT = 10_000_000
"""Bytes of a file that goes through a mail."""
ROW_BYTES = 16 * 2**20
"""Weights of a head that are computed at a time."""
LEAST_A_CELL = 1.5
"""Bytes that a float32 weight takes in the file at the very least, compressed and as text."""
CELLS = 64
STATISTICS = ("entropy", "received")
SAFE = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""What the file may load: nothing."""


def export_page(
    atlas: Atlas | Where,
    path: str | Path,
    *,
    heads: str | Sequence[str] | None = None,
    document: str | None = None,
    kind: str | None = None,
    limit: int | str = LIMIT,
) -> dict[str, Any]:
    """Write a page of one document that opens by itself, from a disk or a mail.

    >>> export_page(atlas, "demo.html", heads="1.0,1.mean")["heads"]
    ['1.0', '1.mean']

    path: ends in .html. heads: "3.5,3.mean" or ["3.5", "3.mean"], layer and head; those have every weight, float32, and
    all others a thumbnail; None for the one that the page would show first. document, kind: may be left out as in
    docs/server.md. limit: of the file, as bytes or "10MB".

    What it is of, and its `bytes`. Raises InputError, where the file would be larger too, DocumentMissingError,
    TierError.
    """
    place, most = parse_output(path, "path", (".html",)), parse_bytes(limit, "limit")
    text, told = page_of(Session(atlas), heads=heads, document=document, kind=kind, limit=most)
    place.write_text(text, encoding="utf-8")
    return {"path": str(place)} | told


def page_of(
    session: Session,
    *,
    heads: str | Sequence[str] | None = None,
    document: str | None = None,
    kind: str | None = None,
    limit: int = LIMIT,
) -> tuple[str, dict[str, Any]]:
    """The page as text, and what it is of. session: of one atlas. Errors as `export_page`."""
    handle = session.handle(None, document, kind)
    where = {"document": handle.document, "kind": handle.kind}
    roles = session.answer("heads", where).data
    names = _heads(handle, f"{roles['first']['layer']}.{roles['first']['head']}" if heads is None else heads)
    start_Q, stop_Q = handle.intervals(0)
    each = int((stop_Q - start_Q).sum())
    what, least = f"{len(names)} x {each:,} weights", len(names) * each * LEAST_A_CELL
    if least > limit:
        raise _too_large(what, "more than ", least, limit)
    carried: dict[str, Any] = {
        "kind": handle.kind, "info": session.answer("info").data, "document": _document(session, handle),
        "documents": [{"id": handle.document, "tokens": handle.keys}],
        "tokens": {axis: session.answer("tokens", where | {"axis": axis}).data for axis in ("query", "key")},
        "thumbnails": _thumbnails(session, where), "intervals": [], "exact": {}, "statistics": {},
    }  # fmt: skip
    carried["info"]["atlases"] = [one | {"documents": 1, "kinds": [handle.kind]} for one in carried["info"]["atlases"]]
    carried["heads"] = _with_first(roles, names)
    kept: dict[bytes, int] = {}
    for name, (layer, head) in names.items():
        chosen = where | {"layer": layer, "head": head}
        bounds = _packed(np.concatenate(handle.intervals(handle.layer_place(layer))).astype("<i4"))
        if bounds.encode() not in kept:
            kept[bounds.encode()] = len(carried["intervals"])
            carried["intervals"].append(bounds)
        carried["exact"][name] = {"weights": _weights(handle, layer, head), "intervals": kept[bounds.encode()]}
        found = session.answer("statistics", chosen | {"names": STATISTICS})
        told = zip(STATISTICS, found.data["units"], found.data["definitions"], found.buffers, strict=True)
        carried["statistics"][name] = {
            one: {"unit": unit, "definition": definition, "values": _packed(_planes(values))}
            for one, unit, definition, values in told
        }
    text = _html(f"{handle.document}: {session.answer('info').data['atlases'][0]['model']}", carried)
    size = len(text.encode())
    if size > limit:
        raise _too_large(what, "", size, limit)
    return text, {**where, "heads": list(names), "layers": len(handle.layers), "bytes": size}


def _too_large(what: str, more: str, size: float, limit: int) -> InputError:
    return InputError(
        f"the file would take {more}{human_bytes(size)}, and the limit is {human_bytes(limit)} ({what}): choose fewer "
        "heads, or raise it with --limit"
    )


def _heads(handle: Handle, given: str | Sequence[str]) -> dict[str, tuple[int, int | str]]:
    """ "layer.head" -> layer and head, of the model; raises InputError."""
    parts = given.split(",") if isinstance(given, str) else given
    if not isinstance(parts, Sequence) or not parts or not all(isinstance(one, str) for one in parts):
        raise refuse(given, "heads", 'give layer and head, such as "3.5" or "3.5,3.mean"')
    found: dict[str, tuple[int, int | str]] = {}
    for part in (one.strip() for one in parts):
        match = re.fullmatch(r"([0-9]{1,9})\.([0-9]{1,9}|mean)", part)
        if match is None:
            raise refuse(part, "a head", 'give layer and head, such as "3.5" or "3.mean"')
        layer, head = int(match[1]), match[2] if match[2] == "mean" else int(match[2])
        handle.head_map(layer, head)
        found[f"{layer}.{head}"] = layer, head
    return found


def _document(session: Session, handle: Handle) -> dict[str, Any]:
    """As `document` answers, of one kind, and the statistics that the file has."""
    told = session.answer("document", {"document": handle.document}).data
    kind = told["kinds"][handle.kind]
    kind = kind | {"statistics": [name for name in STATISTICS if name in kind["statistics"]]}
    return {**told, "kinds": {handle.kind: kind}}


def _thumbnails(session: Session, where: dict[str, Any]) -> dict[str, Any]:
    found = session.answer("thumbnails", where | {"cells": CELLS})
    return found.data | {"codes": _packed(found.buffers[0])}


def _with_first(roles: dict[str, Any], names: dict[str, tuple[int, int | str]]) -> dict[str, Any]:
    """As `heads` answers; the one to show first is one that the file has."""
    first = roles["first"]
    if f"{first['layer']}.{first['head']}" not in names:
        layer, head = next(iter(names.values()))
        first = {"layer": layer, "head": head, "why": "the first of this file's heads"}
    return {**roles, "first": first}


def _weights(handle: Handle, layer: int, head: int | str) -> str:
    """Every weight within the key intervals, row after row."""
    head_map = handle.head_map(layer, head)
    step = max(1, ROW_BYTES // (4 * handle.keys))
    parts = []
    for begin in range(0, handle.queries, step):
        rows = slice(begin, min(begin + step, handle.queries))
        start_Q, stop_Q = head_map.start_Q[rows], head_map.stop_Q[rows]
        low, high = int(start_Q.min()), int(stop_Q.max())
        keys = np.arange(low, high)
        a_QK = head_map.cells(rows, slice(low, high))
        parts.append(a_QK[(keys >= start_Q[:, None]) & (keys < stop_Q[:, None])])
    return _packed(_planes(np.concatenate(parts)))


def _planes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """float32 as four planes of bytes, which compress better: the last holds sign and exponent."""
    return np.ascontiguousarray(values.astype("<f4").view(np.uint8).reshape(-1, 4).T)


def _packed(values: NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(), 6)).decode()


def _html(title: str, carried: dict[str, Any]) -> str:
    """No `<` of what is carried reaches the page as it is: a token cannot become markup, nor end the script."""
    data = json.dumps(carried, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    own = IMPORT.sub("", (STATIC / "file.js").read_text(encoding="utf-8"))
    module = viewer_module().replace("export default", "const viewer =") + "\n" + own
    module = re.sub(r"<(?=/script|!--)", r"\\x3c", module, flags=re.I)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{SAFE}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{html.escape(title)}</title>\n'
        f'<link rel="icon" href="data:,">\n<style>\n{viewer_css()}</style>\n</head>\n<body class="att-body">\n'
        f'<main id="viewer"></main>\n<script type="application/json" id="carried">{data}</script>\n'
        f'<script type="module">\n{module}</script>\n</body>\n</html>\n'
    )
