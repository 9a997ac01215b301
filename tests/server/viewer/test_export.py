"""The page in one file: what it carries, how large it may be, and that nothing of a text becomes markup in it."""

from __future__ import annotations

import base64
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

import attlas
from attlas.cli import main
from attlas.errors import DocumentMissingError, InputError
from attlas.server.session import Session
from attlas.server.viewer.export import export_page, page_of
from tests.server.asking import asked, full_map, visible
from tests.server.viewer.browser import OPEN

EVIL = 'a </script><script>document.title = "evil"</script><!-- <b>bold</b> &amp; ]]> end. a </script> end.'
DATA = re.compile(r'<script type="application/json" id="carried">(.*?)</script>', re.S)


@pytest.fixture(scope="module")
def atlas() -> attlas.Atlas:
    texts = {"evil": EVIL, "b": "short one", "long": EVIL * 5}
    return attlas.capture("demo", texts, "memory://export", overwrite=True)


def carried(text: str) -> dict[str, Any]:
    match = DATA.search(text)
    assert match is not None
    found: dict[str, Any] = json.loads(match[1])
    return found


def unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def floats(text: str) -> NDArray[np.float32]:
    planes = np.frombuffer(unpacked(text), np.uint8).reshape(4, -1)
    return np.ascontiguousarray(planes.T).view("<f4").ravel()


def test_every_weight_of_the_chosen_heads(atlas: attlas.Atlas) -> None:
    text, told = page_of(Session(atlas), heads=["1.0", "2.mean"], document="evil")
    found = carried(text)
    assert told["heads"] == list(found["exact"]) == ["1.0", "2.mean"]
    assert told["bytes"] == len(text.encode())
    assert len(found["intervals"]) == 1  # which both layers share
    size = atlas["evil"].sizes["query"]
    chosen: list[tuple[str, int, int | str]] = [("1.0", 1, 0), ("2.mean", 2, "mean")]
    for name, layer, head in chosen:
        seen_QK = visible(atlas, "evil", "self", layer, size)
        expected = full_map(atlas, "evil", "self", layer, head)[seen_QK]
        np.testing.assert_allclose(floats(found["exact"][name]["weights"]), expected, atol=2e-6)
    bounds = np.frombuffer(unpacked(found["intervals"][0]), "<i4").reshape(2, -1)
    np.testing.assert_array_equal(bounds, [np.zeros(size), np.arange(1, size + 1)])
    data, (small,) = asked(Session(atlas), "thumbnails", document="evil")
    assert unpacked(found["thumbnails"]["codes"]) == small.tobytes()
    assert found["thumbnails"]["shape"] == data["shape"]
    entropy = floats(found["statistics"]["1.0"]["entropy"]["values"])
    np.testing.assert_allclose(entropy, atlas["evil"].entropy.sel(layer=1, head=0).values, rtol=1e-5, atol=1e-6)
    assert found["tokens"]["key"]["tokens"] == atlas["evil"]["key_token"].values.tolist()
    assert [one["id"] for one in found["documents"]] == ["evil"]


class Elements(HTMLParser):
    """The tags that a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]


def test_no_token_becomes_markup(atlas: attlas.Atlas) -> None:
    text, _ = page_of(Session(atlas), heads="1.0", document="evil")
    tags = Elements(text).tags
    assert tags == Elements(page_of(Session(atlas), heads="1.0", document="b")[0]).tags
    assert tags.count("script") == 2
    assert "<" not in str(DATA.search(text)[1])  # type: ignore[index]
    whole = "".join(carried(text)["tokens"]["key"]["tokens"][1:])
    assert whole == EVIL


def test_nothing_is_loaded(atlas: attlas.Atlas) -> None:
    """No address of anything, and a policy that forbids it."""
    text, _ = page_of(Session(atlas), heads="1.0", document="b")
    assert "default-src 'none'" in text
    assert Elements(text).addresses == ["data:,"]
    assert not re.search(r"^import ", text, re.M)


def test_a_file_too_large_is_refused_with_its_size(atlas: attlas.Atlas, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the file would take \d+ kB, and the limit is 10 kB.*--limit") as caught:
        page_of(Session(atlas), heads="1.0", document="evil", limit=10_000)
    assert "1 x " in str(caught.value)
    with pytest.raises(InputError, match="the file would take more than"):
        page_of(Session(atlas), heads="1.0", document="evil", limit=10)
    with pytest.raises(InputError, match="the limit is 1 kB"):
        export_page(atlas, tmp_path / "a.html", document="evil", limit="1kB")
    assert not (tmp_path / "a.html").exists()


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ("5", "give layer and head, such as"), ("1.0,", "a head is ''"), ("1.9", "there is no head 9"),
        ("9.0", "there is no layer 9"), ([], "heads is []"), ([1.0], "heads is [1.0]"), ("1.all", "a head is '1.all'"),
    ],
)  # fmt: skip
def test_wrong_heads(atlas: attlas.Atlas, heads: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        page_of(Session(atlas), heads=heads, document="b")


def test_wrong_places(atlas: attlas.Atlas, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.html"):
        export_page(atlas, tmp_path / "a.htm", document="b")
    with pytest.raises(DocumentMissingError):
        export_page(atlas, tmp_path / "a.html", document="c")
    with pytest.raises(InputError, match="holds 3 documents"):
        export_page(atlas, tmp_path / "a.html")


def test_command(demo_folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "demo.html"
    told = CliRunner().invoke(main, ["export", str(demo_folder / "demo.zarr"), "-o", str(page)])
    assert told.exit_code == 0, told.output
    assert "every weight of 1.0, thumbnails of 4 layers" in told.stdout  # its strongest induction head
    arguments = ["export", str(demo_folder / "demo.zarr"), "-o", str(page), "--head", "0.1,0.mean", "--json"]
    found = json.loads(CliRunner().invoke(main, arguments).stdout)
    assert found["heads"] == ["0.1", "0.mean"]
    assert found["bytes"] == page.stat().st_size


ASK = """async ([id, op, args]) => {
  const { model } = document.getElementById("viewer");
  return await new Promise((resolve) => {
    const plain = (buffer) => Array.from(buffer, (x) => (Number.isNaN(x) ? null : x));
    model.on("msg:custom", (reply, buffers) => reply.id === id && resolve([reply, buffers.map(plain)]));
    model.send({ id, op, ...args });
  });
}"""
QUESTIONS: list[tuple[str, dict[str, Any]]] = [
    ("tile", {"layer": 1, "head": 0}),
    ("tile", {"layer": 1, "head": "mean", "format": "f32", "pool": "mass"}),
    ("tile", {"layer": 1, "head": 0, "format": "f32"}),
    ("row", {"layer": 1, "head": 0, "query": 40, "top": 5}),
    ("column", {"layer": 1, "head": "mean", "key": 3}),
    ("cell", {"layer": 1, "head": 0, "query": 50, "key": 20}),
    ("cell", {"layer": 1, "head": 0, "query": 5, "key": 20}),
    ("tokens", {"start": 3, "stop": 9}),
    ("find", {"text": "script"}),
    ("thumbnails", {"layer": 2}),
    ("statistics", {"layer": 1, "head": 0, "names": ["received", "entropy"]}),
]


@pytest.mark.browser
def test_it_opens_from_a_disk_and_answers_as_the_session_does(
    atlas: attlas.Atlas, tmp_path: Path, browser: Any
) -> None:
    """Offline: no request but its own, no error; tiles, rows and cells are the session's, thumbnails alone refuse."""
    page_file = tmp_path / "evil.html"
    export_page(atlas, page_file, heads="1.0,1.mean", document="evil")
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 800})
    page = context.new_page()
    told: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"file://{page_file}")
    page.wait_for_selector(OPEN, timeout=10_000)
    assert (page.title(), requests, told) == ("evil: demo", [f"file://{page_file}"], [])
    assert page.evaluate("document.querySelector('.attlas').dataset.head") == "0"
    session = Session(atlas)
    size = atlas["evil"].sizes["query"]
    for number, (op, args) in enumerate(QUESTIONS):
        reply, buffers = page.evaluate(ASK, [number, op, args])
        assert reply["ok"], (op, reply)
        wanted = session.answer(op, args | {"document": "evil"})
        if op != "thumbnails":
            _same(reply["data"], wanted.data)
        for found, expected in zip(buffers, wanted.buffers, strict=True):
            values = np.array([np.nan if x is None else x for x in found])
            codes = expected.dtype == np.uint8  # which a weight at a code's edge may be one beside
            np.testing.assert_allclose(values, expected.astype(np.float64).ravel(), atol=1 if codes else 2e-6)
    for args in ({"layer": 2, "head": 0, "query": 1, "key": 1}, {"layer": 1, "head": 0, "query": size, "key": 1}):
        reply, _ = page.evaluate(ASK, [f"refused {args}", "cell", args])
        assert not reply["ok"]
        assert ("thumbnail alone in this file: export it again with --head 2.0" in reply["error"]["message"]) == (
            args["layer"] == 2
        )
    context.close()


@pytest.mark.browser
@pytest.mark.parametrize("pool", ["max", "mass"])
def test_its_coarse_tiles_are_the_session_s(atlas: attlas.Atlas, tmp_path: Path, browser: Any, pool: str) -> None:
    """Blocks of 2 x 2 weights, ragged at the end, in every format."""
    export_page(atlas, tmp_path / "long.html", heads="1.0", document="long")
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto(f"file://{tmp_path}/long.html")
    page.wait_for_selector(OPEN)
    args = {"layer": 1, "head": 0, "level": 1, "pool": pool}
    (exact,) = Session(atlas).answer("tile", args | {"document": "long", "format": "f32"}).buffers
    assert exact.shape[0] > 200
    for form, atol in (("f32", 2e-6), ("f16", 1e-3)):
        reply, (found,) = page.evaluate(ASK, [form, "tile", args | {"format": form}])
        assert reply["data"]["shape"] == list(exact.shape)
        values = np.array([np.nan if x is None else x for x in found])
        values = values.astype(np.uint16).view(np.float16) if form == "f16" else values
        np.testing.assert_allclose(values.astype(np.float64), exact.ravel(), atol=atol)
    context.close()


def _same(found: Any, expected: Any) -> None:
    """Of the same names and values; weights within rounding."""
    if isinstance(expected, dict):
        assert found.keys() >= expected.keys()
        for name, value in expected.items():
            _same(found[name], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            _same(one, other)
    else:
        assert found == (pytest.approx(expected, rel=1e-5, abs=2e-6) if isinstance(expected, float) else expected)
