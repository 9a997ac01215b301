"""The notebook widget: the session over a comm, traits both ways, a picture where no notebook runs."""

from __future__ import annotations

import base64
import threading
from pathlib import Path
from typing import Any

import pytest

import attlas
from attlas.errors import DocumentMissingError, InputError
from attlas.server.viewer.widget import Viewer


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> attlas.Atlas:
    place: Path = tmp_path_factory.mktemp("widget") / "a.zarr"
    return attlas.capture("demo", ["the cat sat. the cat sat. ", "the dog"], place, ids=["a", "b"])


def ask(viewer: Viewer, message: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """What a front end gets for a message that it sends."""
    got: list[Any] = []
    there = threading.Event()

    def send(content: Any, buffers: Any = None) -> None:
        got.extend((content, buffers))
        there.set()

    viewer.send = send
    viewer._handle_custom_msg(message, [])
    assert there.wait(20)
    return got[0], got[1]


def test_a_question_is_answered_over_the_comm(atlas: attlas.Atlas) -> None:
    viewer = atlas.view(layer=1, head=0)
    reply, buffers = ask(viewer, {"id": "x-1", "op": "tile", "layer": 1, "head": 0, "format": "f32"})
    assert not reply["ok"]  # two documents, and none is named
    message = {"id": "x-2", "op": "cell", "document": "a", "layer": 1, "head": 0, "query": 20, "key": 3}
    reply, buffers = ask(viewer, message)
    assert reply["id"] == "x-2"
    assert reply["data"]["weight"] == pytest.approx(
        atlas.attention("a").sel(layer=1, head=0, query=20, key=3).item(), abs=1e-7
    )
    reply, buffers = ask(viewer, {"id": "x-3", "op": "row", "document": "a", "layer": 1, "head": 0, "query": 20})
    assert len(buffers[0]) == 4 * atlas["a"].sizes["key"]
    viewer.close()


def test_what_is_given_is_a_trait(atlas: attlas.Atlas) -> None:
    viewer = attlas.view(atlas, "b", layer=2, head="mean", row=3, colours="grey")
    shown = (viewer.document, viewer.kind, viewer.layer, viewer.head, viewer.row, viewer.colours)
    assert shown == ("b", "self", 2, "mean", 3, "grey")
    viewer.head = 1
    assert viewer.get_state("head") == {"head": 1}


def test_there_is_a_picture_for_where_no_notebook_runs(atlas: attlas.Atlas) -> None:
    data, _ = atlas.view(layer=1, head=0)._repr_mimebundle_()
    picture = base64.b64decode(data["image/png"])
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(picture) < 60_000
    assert "application/vnd.jupyter.widget-view+json" in data


def test_what_is_not_there_is_refused_at_once(atlas: attlas.Atlas) -> None:
    with pytest.raises(DocumentMissingError, match="no document 'c'"):
        atlas.view("c")
    for wrong in (
        {"layer": 9},
        {"head": "most"},
        {"row": 99},
        {"row": 1, "column": 1},
        {"colours": "jet"},
        {"kind": "x"},
    ):
        with pytest.raises(InputError):
            atlas.view("a", **wrong)
