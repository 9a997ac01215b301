"""How soon the page of `attlas view` shows an atlas, and what eight clients cost the server.

    python benchmarks/page.py book.zarr            the first screen, in a headless Chromium
    python benchmarks/page.py book.zarr --clients 8 --seconds 90

Times are from the page's opening, the server being warm; the browser and the server share the machine.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a script sees its own folder only

SEEN = """() => {
  const root = document.querySelector(".attlas");
  const grid = document.querySelector(".att-grid");
  return {...(root?.dataset ?? {}), thumbnails: grid?.dataset.thumbnails,
          named: document.querySelectorAll(".att-link").length};
}"""
WARM = 5.0
MOST = 90.0


@contextmanager
def served(store: str) -> Iterator[tuple[str, int]]:
    """The address of a server of its own, and its process."""
    command = [str(Path(sys.executable).with_name("attlas")), "view", store, "--no-browser", "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        assert server.stdout is not None
        found = (re.search(r"http://\S+", line) for line in server.stdout)
        yield next(one.group(0) for one in found if one), server.pid
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def first_screen(url: str, heads: int) -> dict[str, float]:
    """Seconds until each of it is there."""
    from playwright.sync_api import sync_playwright

    from tests.server.viewer.browser import ARGUMENTS, chromium

    seen: dict[str, float] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        begin = time.monotonic()
        page.goto(url)
        while time.monotonic() - begin < MOST and not {"map", "thumbnails", "named"} <= set(seen):
            told, now = page.evaluate(SEEN), time.monotonic() - begin
            for name, field in (("rows of the map", "sketched"), ("map", "first")):
                if told.get(field):
                    seen.setdefault(name, int(told[field]) / 1000)
            if int(told.get("thumbnails") or 0) >= heads:
                seen.setdefault("thumbnails", now)
            if told["named"]:
                seen.setdefault("named", now)
            time.sleep(0.03)
        browser.close()
    return seen


def ask(url: str, message: dict[str, Any]) -> float:
    """Seconds of one question."""
    base, _, token = url.partition("?token=")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{base}v1/ask", data=json.dumps(message).encode(), headers=headers)
    begin = time.monotonic()
    with urllib.request.urlopen(request, timeout=120) as reply:
        body = reply.read()
    assert json.loads(body[4 : 4 + int.from_bytes(body[:4], "little")])["ok"]
    return time.monotonic() - begin


def many_clients(url: str, atlas: Any, document: str, count: int, seconds: float) -> dict[str, list[float]]:
    """Kind of question -> the seconds of each."""
    page = atlas[document].attention
    layers, heads, tokens = page["layer"].values.tolist(), page["head"].values.tolist(), page.sizes["key"]
    taken: dict[str, list[float]] = {}
    end = time.monotonic() + seconds

    def client(number: int) -> None:
        draw, asked = random.Random(number), 0
        while time.monotonic() < end:
            asked += 1
            kind = draw.choice(["tile"] * 6 + ["row"] * 3 + ["cell"] * 3 + ["coarse", "column"])
            row = draw.randrange(-(-tokens // 256))
            more = {
                "tile": {"op": "tile", "level": 0, "row": row, "column": draw.randrange(row + 1)},
                "coarse": {"op": "tile", "level": max(0, (tokens // 256 - 1).bit_length()), "row": 0, "column": 0},
                "row": {"op": "row", "query": draw.randrange(tokens)},
                "column": {"op": "column", "key": draw.randrange(tokens)},
                "cell": {"op": "cell", "query": tokens - 1, "key": draw.randrange(tokens)},
            }[kind]
            where = {"document": document, "layer": draw.choice(layers), "head": draw.choice(heads)}
            taken.setdefault(kind, []).append(ask(url, {"id": f"{number}-{asked}", **where, **more}))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


@click.command()
@click.argument("store")
@click.option("--clients", type=click.IntRange(1), help="Ask so many at once, instead of opening a page.")
@click.option("--seconds", type=click.FloatRange(1), default=90, show_default=True)
def main(store: str, clients: int | None, seconds: float) -> None:
    import attlas

    atlas = attlas.open_atlas(store)
    document = next(iter(atlas))
    heads = atlas[document].sizes["layer"] * atlas[document].sizes["head"]
    with served(store) as (url, process):
        time.sleep(WARM)
        if clients is None:
            for name, value in first_screen(url, heads).items():
                click.echo(f"{name:16} {value:6.2f} s")
            return
        for kind, times in many_clients(url, atlas, document, clients, seconds).items():
            click.echo(f"{kind:8} {len(times):5} asked, median {statistics.median(times) * 1000:8.1f} ms")
        status = Path(f"/proc/{process}/status").read_text().splitlines()
        peak = next(line for line in status if line.startswith("VmHWM"))
        click.echo(f"peak memory of the server: {int(peak.split()[1]) / 1024:,.0f} MB")


if __name__ == "__main__":
    main()
