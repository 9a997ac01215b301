"""Takes the pictures of docs/viewer.md: the page on SmolLM2 over short and long texts, in a headless Chromium.

python scripts/screenshots.py MODEL [FOLDER]

MODEL: of SmolLM2-135M, a hub id or a folder. FOLDER: where pictures go, docs/viewer by default. Needs playwright and a
Chromium: apt-get install chromium-headless-shell.
"""

from __future__ import annotations

import pydoc_data.topics
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image

import attlas
from attlas.server.app import create_app
from attlas.server.listen import bind
from attlas.server.session import Session

ROOT = Path(__file__).parents[1]
TOPICS = ("execmodel", "exceptions", "class", "function", "customization", "compound")
OPEN = ".attlas[data-state='open'][data-missing='0']"
SIZE = {"width": 1280, "height": 800}
WIDE = 1024
"""Pixels of a picture."""

LONG = "atlas=long&document=manual&layer=17&head=3"
SHORT = "atlas=short&document=jack&layer=17&head=5"


def _point(page: Any) -> None:
    box = page.locator(".att-map").first.bounding_box()
    page.mouse.move(box["x"] + 0.34 * box["width"], box["y"] + 0.62 * box["height"])


def _search(page: Any) -> None:
    page.keyboard.press("/")
    page.keyboard.type("class instance")
    page.wait_for_selector(".att-found[data-places] button")


def _open_view(page: Any) -> None:
    page.get_by_role("button", name="View", exact=True).click()


def _nothing(page: Any) -> None:
    pass


SHOTS: tuple[tuple[str, str, str, Callable[[Any], None]], ...] = (
    ("first", "atlas=long", "light", _nothing),
    ("short", SHORT + "&row=32", "light", _nothing),
    ("zoomed", LONG + "&query_span=2245..2285&key_span=1756..1796&row=2265", "light", _nothing),
    ("readout", LONG, "light", _point),
    ("lines", SHORT + "&show=lines&row=32", "light", _nothing),
    ("search", LONG, "light", _search),
    ("beside", LONG + "&compare=beside&other_layer=20&other_head=6", "light", _nothing),
    ("difference", LONG + "&compare=difference&other_layer=20&other_head=6", "light", _nothing),
    ("view", LONG + "&colours=cividis", "light", _open_view),
    ("dark", LONG + "&row=2265", "dark", _nothing),
)
"""File, what is in the address, theme, and what is done before the picture is taken."""


def main(model: str, folder: Path) -> None:
    from playwright.sync_api import sync_playwright

    text = "\n\n".join(pydoc_data.topics.topics[name] for name in TOPICS)
    jack = (ROOT / "examples" / "jack.txt").read_text(encoding="utf-8")
    path = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        session = Session(
            {
                "long": attlas.capture(model, {"manual": text}, Path(place) / "long.zarr", max_tokens=8192),
                "short": attlas.capture(model, {"jack": jack}, Path(place) / "short.zarr", max_tokens=50),
            }
        )
        made = bind("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(create_app(session, token=None), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [made]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        url = f"http://127.0.0.1:{made.getsockname()[1]}/"
        with sync_playwright() as playwright:
            browser: Any = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            for name, hash, theme, act in SHOTS:
                page = browser.new_page(viewport=SIZE, color_scheme=theme)
                page.goto(f"{url}#{hash}")
                page.wait_for_selector(OPEN, timeout=60_000)
                page.wait_for_selector(".att-grid[data-thumbnails='270']", timeout=60_000)
                page.wait_for_selector(".att-heads h3", timeout=60_000)
                page.wait_for_timeout(800)
                act(page)
                page.wait_for_timeout(900)
                file = folder / f"{name}.png"
                page.screenshot(path=file)
                page.close()
                shrink(file)
                print(file, f"{file.stat().st_size / 1e3:.0f} kB", flush=True)
            browser.close()
        server.should_exit = True
        thread.join()


def shrink(path: Path) -> None:
    """A third of the bytes, in the 200 colours that cover most, accents among them."""
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((WIDE, WIDE))
        small.quantize(200, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "docs" / "viewer")
