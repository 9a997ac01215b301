"""The page in a headless Chromium, over HTTP: what is shown is what the atlas holds."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attlas
from attlas.server import tiles as tiles_module
from attlas.server.app import create_app
from attlas.server.questions import weights as weights_module
from attlas.server.session import Session
from attlas.server.viewer.bundle import viewer_module
from tests.server.clients import listening
from tests.server.viewer.browser import OPEN, opened

pytestmark = pytest.mark.browser

TEXT = "the cat sat. the dog ran! <img src=x onerror=alert(1)> and nobody knows why the cat sat on <b>this</b>. "
COLOURS = """(map) => {
  const canvas = document.querySelector(map);
  const [w, h] = [canvas.width, canvas.height];
  const pixels = canvas.getContext("2d").getImageData(w * 0.3, h * 0.3, w * 0.4, h * 0.4).data;
  return new Set(new Uint32Array(pixels.buffer)).size;
}"""
MAP = ".att-pane:not([hidden]) .att-map"


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> attlas.Atlas:
    place = tmp_path_factory.mktemp("page") / "a.zarr"
    return attlas.capture("demo", [TEXT * 7, TEXT], place, ids=["long", "short"])


@pytest.fixture(scope="module")
def url(atlas: attlas.Atlas) -> Iterator[str]:
    with listening(create_app(Session({"a": atlas}), token=None)) as url:
        yield url


def at(hash: str) -> str:
    return f"/#atlas=a&document={hash}"


def data(page: Any, selector: str, name: str) -> str:
    return str(page.locator(selector).first.get_attribute(f"data-{name}"))


def point(page: Any, right: float, down: float) -> tuple[float, float]:
    """Rest the pointer on the map, at shares of its canvas."""
    box = page.locator(MAP).first.bounding_box()
    place = box["x"] + right * box["width"], box["y"] + down * box["height"]
    page.mouse.move(*place)
    return place


def told(page: Any) -> tuple[int, int, float]:
    """Query, key and exact weight of the readout, once they are exact."""
    page.wait_for_selector(".att-readout[data-exact='true']")
    query, key, weight = (data(page, ".att-readout", name) for name in ("query", "key", "weight"))
    return int(query), int(key), float(weight)


def tiles(requests: list[Any]) -> list[dict[str, Any]]:
    asked = [json.loads(request.post_data) for request in requests if request.url.endswith("/v1/ask")]
    return [message for message in asked if message["op"] == "tile"]


def hash_of(page: Any) -> str:
    page.wait_for_timeout(300)
    return str(page.evaluate("() => location.hash"))


def test_the_readout_is_the_atlas_weight(browser: Any, url: str, atlas: attlas.Atlas) -> None:
    a = atlas.attention("short").sel(layer=1, head=2).values
    with opened(browser, url + at("short&layer=1&head=2")) as page:
        for right, down in ((0.3, 0.5), (0.35, 0.7), (0.25, 0.6)):
            point(page, right, down)
            page.wait_for_selector(".att-readout[data-exact='false'], .att-readout[data-exact='true']")
            page.wait_for_timeout(60)
            query, key, weight = told(page)
            assert weight == pytest.approx(a[query, key], abs=1e-7)
        tokens = page.locator(".att-places .att-word").all_inner_texts()
        wanted = [str(atlas["short"][f"{axis}_token"].values[i]) for axis, i in (("query", query), ("key", key))]
        assert [token.strip("·␣") for token in tokens] == [token.strip() for token in wanted]


def test_a_block_tells_its_largest_weight_exactly(browser: Any, url: str, atlas: attlas.Atlas) -> None:
    a = atlas.attention("long").sel(layer=1, head=2).values
    with opened(browser, url + at("long&layer=1&head=2")) as page:
        level = int(data(page, ".att-pane", "level"))
        assert level >= 1
        point(page, 0.3, 0.6)
        page.wait_for_selector(".att-readout[data-exact='false']")
        query, key, weight = told(page)
        size = 1 << level
        block = a[query // size * size : (query // size + 1) * size, key // size * size : (key // size + 1) * size]
        assert weight == pytest.approx(float(np.nanmax(block)), abs=1e-7)
        assert weight == pytest.approx(float(a[query, key]), abs=1e-7)


def test_a_click_locks_a_row_and_escape_releases_it(browser: Any, url: str, atlas: attlas.Atlas) -> None:
    a = atlas.attention("short").sel(layer=1, head=2).values
    with opened(browser, url + at("short&layer=1&head=2")) as page:
        page.mouse.click(*point(page, 0.3, 0.6))
        page.wait_for_selector(".att-reader[data-locked][data-by='row']")
        query = int(data(page, ".att-reader", "place"))
        assert f"row={query}" in hash_of(page)
        first = page.locator(".att-ranked li").first
        key = int(first.get_attribute("data-key"))
        assert key == int(a[query].argmax())
        assert first.locator("b").inner_text() == f"{a[query, key]:.4f}"
        point(page, 0.25, 0.8)  # another row: what is locked stays
        page.wait_for_timeout(200)
        assert int(data(page, ".att-reader", "place")) == query
        page.keyboard.press("Escape")
        page.wait_for_selector(".att-reader:not([data-locked])")
        assert "row=" not in hash_of(page)
        page.mouse.click(*point(page, 0.3, 0.6))
        page.wait_for_selector(".att-reader[data-locked]")
        page.mouse.click(*point(page, 0.3, 0.6))  # the same again
        page.wait_for_selector(".att-reader:not([data-locked])")


def test_tokens_are_never_markup(browser: Any, url: str) -> None:
    with opened(browser, url + at("short&layer=1&head=0&row=90")) as page:
        page.wait_for_selector(".att-text .att-token")
        assert "<img src=x onerror=alert(1)>" in page.locator(".att-text").inner_text()
        assert page.locator(".att-text img, .att-text b").count() == 0


def test_the_address_restores_what_was_seen(browser: Any, url: str) -> None:
    hash = "long&layer=2&head=3&query_span=100..160&key_span=90..150&column=120&colours=grey&scale=linear"
    with opened(browser, url + at(hash)) as page:
        page.wait_for_selector(".att-reader[data-by='column'][data-place='120']")
        names = ("layer", "head", "level", "document")
        assert [data(page, ".att-pane", name) for name in names] == ["2", "3", "0", "long"]
        kept = page.evaluate("() => location.hash")
        page.keyboard.press("l")
        page.wait_for_selector(".att-pane[data-layer='3']")
        assert "layer=3" in hash_of(page)
        page.go_back()
        page.wait_for_selector(".att-pane[data-layer='2']")
        assert page.evaluate("() => location.hash") == kept


def test_panning_asks_for_what_comes_into_sight_alone(browser: Any, url: str) -> None:
    asked: list[Any] = []
    with opened(browser, url + at("long&layer=1&head=0&query_span=500..560&key_span=100..160")) as page:
        page.wait_for_timeout(200)
        page.on("request", lambda request: asked.append(request))
        x, y = point(page, 0.4, 0.4)
        page.mouse.down()
        for step in range(8):
            page.mouse.move(x - 5 * step, y - 3 * step)
        page.mouse.up()
        page.wait_for_timeout(200)
        assert tiles(asked) == []  # all within the tiles that there are
        page.evaluate("() => { location.hash = location.hash.replace(/query_span=[^&]*/, 'query_span=200..260') }")
        page.wait_for_selector(OPEN)
        page.wait_for_timeout(200)
        found = {(message["level"], message["row"], message["column"]) for message in tiles(asked)}
        assert found <= {(0, 0, 0), (0, 1, 0)}
        assert found


def test_masked_and_zero_look_different(browser: Any, url: str) -> None:
    colour = """([right, down]) => {
      const canvas = document.querySelector('.att-map');
      const [x, y] = [Math.round(right * canvas.width), Math.round(down * canvas.height)];
      return [...canvas.getContext('2d').getImageData(x, y, 1, 1).data].slice(0, 3);
    }"""
    with opened(browser, url + at("short&layer=1&head=0")) as page:
        for theme, neutral in (("light", [221, 225, 231]), ("dark", [44, 50, 61])):
            for colours in ("viridis", "cividis", "grey"):
                hash = at(f"short&layer=1&head=0&theme={theme}&colours={colours}")
                page.evaluate("hash => { location.hash = hash }", hash.partition("#")[2])
                page.wait_for_selector(f".attlas[data-theme='{theme}'][data-colours='{colours}']")
                page.wait_for_timeout(60)
                assert page.evaluate(colour, [0.6, 0.2]) == neutral
                bar = page.evaluate("() => getComputedStyle(document.querySelector('.att-bar')).backgroundImage")
                zero = [int(part) for part in bar.split("rgb(")[1].split(")")[0].split(",")]
                assert max(abs(a - b) for a, b in zip(neutral, zero, strict=True)) > 20, (theme, colours)


def test_dark_mode_follows_the_system_and_the_switch(browser: Any, url: str) -> None:
    with opened(browser, url + at("short&layer=1&head=0"), color_scheme="dark") as page:
        assert data(page, ".attlas", "theme") == "dark"
        page.keyboard.press("d")
        page.wait_for_selector(".attlas[data-theme='light']")
        assert "theme=light" in hash_of(page)


def test_the_keyboard_reaches_what_the_mouse_does(browser: Any, url: str) -> None:
    with opened(browser, url + at("long&layer=1&head=0")) as page:
        level = int(data(page, ".attlas", "level"))
        for _ in range(6):
            page.keyboard.press("+")
        page.wait_for_selector(f"{OPEN}[data-level='0']")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("h")
        page.wait_for_selector(".att-pane[data-head='1']")
        page.keyboard.press("m")
        page.wait_for_selector(".att-pane[data-head='mean']")
        page.keyboard.press("0")
        page.wait_for_selector(f"{OPEN}[data-level='{level}']")
        page.keyboard.press("?")
        assert page.locator("[data-part='help']").is_visible()


def test_search_finds_who_reads_a_word(browser: Any, url: str, atlas: attlas.Atlas) -> None:
    text = "".join(str(token) for token in atlas["short"].key_token.values)
    with opened(browser, url + at("short&layer=1&head=0")) as page:
        page.keyboard.press("/")
        page.keyboard.type("nobody")
        page.wait_for_selector(".att-found[data-places='1'] button")
        page.keyboard.press("Enter")
        page.wait_for_selector(".att-reader[data-locked][data-by='column']")
        key = int(data(page, ".att-reader", "place"))
        tokens = [str(token) for token in atlas["short"].key_token.values[: key + 1]]
        assert len("".join(tokens)) == text.index("nobody") + len("nobody")


def test_two_heads_beside_and_their_difference(browser: Any, url: str, atlas: attlas.Atlas) -> None:
    a = atlas.attention("short").sel(layer=1).values
    with opened(browser, url + at("short&layer=1&head=0&compare=beside&other_layer=1&other_head=2")) as page:
        assert page.locator(MAP).count() == 2
        assert [page.locator(".att-pane").nth(i).get_attribute("data-head") for i in (0, 1)] == ["0", "2"]
    with opened(browser, url + at("short&layer=1&head=0&compare=difference&other_layer=1&other_head=2")) as page:
        point(page, 0.3, 0.6)
        page.wait_for_timeout(60)
        query, key, weight = told(page)
        assert weight == pytest.approx(float(a[0, query, key] - a[2, query, key]), abs=1e-6)


def test_two_documents_from_the_address(browser: Any, url: str) -> None:
    with opened(browser, url + at("short&layer=1&head=0&compare=beside&other_document=long&other_head=2")) as page:
        panes = page.locator(".att-pane:not([hidden])")
        shown = [[panes.nth(i).get_attribute(f"data-{name}") for name in ("document", "head")] for i in (0, 1)]
        assert shown == [["short", "0"], ["long", "2"]]


def test_some_rows_of_a_long_map_are_seen_before_it_is_computed(
    browser: Any, atlas: attlas.Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed, told = threading.Event(), dict[str, Any]()
    made = attlas.capture("demo", [TEXT * 22], tmp_path / "long.zarr", ids=["long"], extrapolate=True)
    whole = tiles_module.pooled

    def slow(*given: Any) -> Any:
        assert computed.wait(30)
        return whole(*given)

    monkeypatch.setattr(weights_module, "pooled", slow)
    with listening(create_app(Session({"a": made}), token=None)) as url:
        page = browser.new_page(viewport={"width": 1360, "height": 860})
        try:
            page.goto(url + "/#layer=1&head=2")
            page.wait_for_selector(".attlas[data-sketched]")
            told["sketch"] = page.locator(".attlas").get_attribute("data-missing") != "0"
            told["colours"] = page.evaluate(COLOURS, MAP)
            computed.set()
            page.wait_for_selector(OPEN)
        finally:
            computed.set()
            page.close()
    assert told["sketch"]
    assert told["colours"] > 40  # an empty map has one, and the letters around it some greys


def test_numbers_and_pictures_are_saved(browser: Any, url: str, atlas: attlas.Atlas, tmp_path: Path) -> None:
    a = atlas.attention("short").sel(layer=1, head=2).values
    with opened(browser, url + at("short&layer=1&head=2"), accept_downloads=True) as page:
        for kind in ("npy", "csv", "svg", "png"):
            page.get_by_role("button", name="Save", exact=True).click()
            with page.expect_download() as found:
                page.locator(f"[data-kind='{kind}']").click()
            found.value.save_as(tmp_path / f"a.{kind}")
    seen = np.tril(np.ones_like(a, dtype=bool))
    saved = np.load(tmp_path / "a.npy", allow_pickle=False)
    np.testing.assert_allclose(saved[seen], a[seen], rtol=0, atol=1e-7)
    assert np.isnan(saved[~seen]).all()
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert len(lines) == len(a) + 1
    assert "<img" not in (tmp_path / "a.svg").read_text()
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_an_error_is_told_with_its_remedy(browser: Any, url: str) -> None:
    own = browser.new_context()
    page = own.new_page()
    page.goto(url + at("gone"))
    page.wait_for_selector(".att-notice:not([hidden])")
    assert "no document 'gone'" in page.locator(".att-notice").inner_text()
    assert page.get_by_role("button", name="Try again").is_visible()
    own.close()


def test_one_module_holds_the_viewer(browser: Any, url: str) -> None:
    """As a notebook and an exported file have it: from one text, over a model that is not HTTP."""
    with opened(browser, url + at("short&layer=1&head=0"), bypass_csp=True) as page:
        made = page.evaluate(
            """async (text) => {
              const address = URL.createObjectURL(new Blob([text], { type: 'text/javascript' }));
              const made = (await import(address)).default;
              const { HttpModel } = await import('/static/host.js');
              document.querySelector('#viewer').replaceChildren();
              const stop = made.render({ model: new HttpModel('/v1/ask'), el: document.querySelector('#viewer') });
              return typeof stop;
            }""",
            viewer_module(),
        )
        assert made == "function"
        page.wait_for_selector(OPEN)
