"""The page in a notebook: tiles over the notebook's own line to its kernel, no port, no second process."""

from __future__ import annotations

import base64
import io
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anywidget
import numpy as np
import traitlets

from attlas.engine.kernels.threads import alone
from attlas.errors import AttlasError, InputError
from attlas.parse import is_integer, parse_choice, parse_count, refuse
from attlas.server.session import Session
from attlas.server.viewer.bundle import viewer_css, viewer_module
from attlas.storage import Atlas, parse_atlas
from attlas.storage.stores import Where

__all__ = ["Viewer", "view"]

THREADS = 2
PICTURE = 360
"""Pixels of the picture that stands where no notebook runs."""
COLOURS = ("viridis", "cividis", "grey")


class Viewer(anywidget.AnyWidget):
    """The page of a session as a widget. What is shown are traits, both ways: set `viewer.layer = 3`, or read it after
    somebody has chosen a head.

    >>> viewer = attlas.view("demo.zarr", layer=1, head=0)
    >>> viewer.layer, viewer.head, viewer.document
    (1, 0, 'demo')
    >>> viewer.row = 106
    """

    _esm = viewer_module()
    _css = viewer_css()

    atlas = traitlets.Unicode("").tag(sync=True)
    document = traitlets.Unicode("").tag(sync=True)
    kind = traitlets.Unicode("").tag(sync=True)
    layer = traitlets.Int(None, allow_none=True).tag(sync=True)
    head = traitlets.Union([traitlets.Int(), traitlets.Enum(["mean"])], default_value=None, allow_none=True).tag(
        sync=True
    )
    query_span = traitlets.List(traitlets.Float(), default_value=None, allow_none=True).tag(sync=True)
    key_span = traitlets.List(traitlets.Float(), default_value=None, allow_none=True).tag(sync=True)
    row = traitlets.Int(None, allow_none=True).tag(sync=True)
    column = traitlets.Int(None, allow_none=True).tag(sync=True)
    show = traitlets.Enum(["map", "lines"], default_value="map").tag(sync=True)
    pool = traitlets.Enum(["max", "mass"], default_value="max").tag(sync=True)
    scale = traitlets.Enum(["log", "linear"], default_value="log").tag(sync=True)
    low = traitlets.Float(1e-4).tag(sync=True)
    high = traitlets.Float(1.0).tag(sync=True)
    colours = traitlets.Enum(COLOURS, default_value="viridis").tag(sync=True)
    strips = traitlets.Bool(True).tag(sync=True)
    theme = traitlets.Enum(["auto", "light", "dark"], default_value="auto").tag(sync=True)
    find = traitlets.Unicode("").tag(sync=True)
    compare = traitlets.Enum(["", "beside", "difference"], default_value="").tag(sync=True)
    other_atlas = traitlets.Unicode("").tag(sync=True)
    other_document = traitlets.Unicode("").tag(sync=True)
    other_layer = traitlets.Int(None, allow_none=True).tag(sync=True)
    other_head = traitlets.Union([traitlets.Int(), traitlets.Enum(["mean"])], default_value=None, allow_none=True).tag(
        sync=True
    )

    def __init__(self, session: Session, **shown: Any) -> None:
        self.session = session
        self._workers = ThreadPoolExecutor(THREADS, thread_name_prefix="attlas viewer")
        super().__init__(**shown)
        self.on_msg(self._asked)

    def _asked(self, _: Any, message: Any, buffers: Any) -> None:
        if isinstance(message, dict) and message.get("op") == "cancel":
            self.session.reply(message)  # at once, before what it is to drop
            return
        self._workers.submit(self._answer, message)

    def _answer(self, message: Any) -> None:
        try:
            reply, buffers = alone(lambda: self.session.reply(message))
        except Exception as error:  # told to who asked: nobody looks at a thread of a notebook
            logging.getLogger("attlas").exception("a question of the viewer failed")
            told = {"type": type(error).__name__, "message": f"an error of attlas' own: {error}", "status": 500}
            reply, buffers = {"id": message.get("id"), "ok": False, "error": told}, []
        self.send(reply, [np.ascontiguousarray(one).tobytes() for one in buffers])

    def close(self) -> None:
        """Ends the widget and its threads."""
        self._workers.shutdown(wait=False, cancel_futures=True)
        super().close()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The widget, and a picture of the map for where none runs, such as a notebook that is read as HTML."""
        found = super()._repr_mimebundle_(**options)
        if found is None:
            return None
        data, metadata = found if isinstance(found, tuple) else (found, {})
        try:
            picture = self._picture()
        except AttlasError:  # a map too costly to draw beside
            return data, metadata
        return {**data, "image/png": base64.b64encode(picture).decode()}, metadata

    def _picture(self) -> bytes:
        from matplotlib import colormaps, image

        where = {name: value for name in ("atlas", "document", "kind") if (value := getattr(self, name))}
        layer, head = self.layer, self.head
        if layer is None or head is None:
            first = self.session.answer("heads", where).data["first"]
            layer, head = first["layer"], first["head"]
        kind = self.session.answer("document", {n: where[n] for n in where if n != "kind"}).data["kinds"]
        level = next(iter(kind.values()))["top_level"] if not self.kind else kind[self.kind]["top_level"]
        tile = self.session.answer("tile", {**where, "layer": layer, "head": head, "level": level}).buffers[0]
        shades = np.clip((np.log10(np.maximum(10.0 ** ((tile - 1.0) / 254 * 5 - 5), 1e-4)) + 4) / 4, 0, 1)
        palette = "Greys" if self.colours == "grey" else self.colours
        colours = colormaps[palette](shades)
        colours[tile == 0] = np.array([221, 225, 231, 255]) / 255
        times = max(1, PICTURE // max(tile.shape))
        out = io.BytesIO()
        image.imsave(out, np.kron(colours, np.ones((times, times, 1))), format="png")
        return out.getvalue()


def view(
    atlas: Atlas | Where,
    document: str | None = None,
    *,
    kind: str | None = None,
    layer: int | None = None,
    head: int | str | None = None,
    row: int | None = None,
    column: int | None = None,
    show: str = "map",
    scale: str = "log",
    colours: str = "viridis",
) -> Viewer:
    """The page of `attlas view` in a notebook: heads at a glance, one head as a map, a token's row as coloured text.

    >>> viewer = attlas.view(atlas, "demo", layer=1, head=0, row=106)
    >>> viewer.row, viewer.colours
    (106, 'viridis')

    document: its id; the first by default. kind, layer, head: what is shown first, the strongest head that is not a
    sink by default; head may be "mean". row, column: a query whose row, or a key whose column, is locked. show: "map"
    or "lines". scale: "log" or "linear". colours: "viridis", "cividis" or "grey". All are traits of what is returned,
    both ways. Raises InputError, DocumentMissingError, StoreMissingError.
    """
    session = Session(parse_atlas(atlas))
    name = next(iter(session.atlases))
    one = session.atlas(name)
    if document is None and len(one):
        document = next(iter(one))
    handle = session.handle(name, document, kind)
    if layer is not None:
        layer = handle.layers[handle.layer_place(layer)]
    if head is not None:
        handle.head_places(head)
        head = "mean" if isinstance(head, str) else int(head)
    if row is not None and column is not None:
        raise InputError("row and column are both given: lock one of them")
    return Viewer(
        session,
        atlas=name,
        document=handle.document,
        kind=handle.kind,
        layer=layer,
        head=head,
        row=_place(row, "row", int(handle.rows.position_Q[-1]) + 1),
        column=_place(column, "column", handle.keys),
        show=parse_choice(show, "show", ("map", "lines")),
        scale=parse_choice(scale, "scale", ("log", "linear")),
        colours=parse_choice(colours, "colours", COLOURS),
    )


def _place(given: Any, name: str, size: int) -> int | None:
    if given is None:
        return None
    if not is_integer(given):
        raise refuse(given, name, "give a place in the document, counted from 0")
    return parse_count(given, name, least=0, most=size - 1)
