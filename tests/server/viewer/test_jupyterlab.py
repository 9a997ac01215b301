"""The widget in a real JupyterLab, whose kernel answers over the comm: minutes on a small machine, and so not in CI."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import attlas
from tests.server.viewer.browser import OPEN

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(300)]

TOKEN = "secret-of-the-test"
CODE = "import attlas\nattlas.open_atlas('a.zarr').view(layer=1, head=0)"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of a notebook of one cell, in a JupyterLab of its own."""
    if importlib.util.find_spec("jupyterlab") is None:
        pytest.skip("no JupyterLab: pip install 'attlas[lab]'")
    attlas.capture("demo", "the cat sat. the cat sat. the dog ran.", tmp_path / "a.zarr")
    cell: dict[str, Any] = {
        "cell_type": "code",
        "id": "a",
        "metadata": {},
        "outputs": [],
        "execution_count": None,
        "source": CODE,
    }
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    notebook = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "view.ipynb").write_text(json.dumps(notebook))
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser", "--ip=127.0.0.1", f"--port={port}",
        f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={tmp_path}",
    ]  # fmt: skip
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_DATA_DIR": str(tmp_path / "d")}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        for _ in range(120):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={TOKEN}", timeout=2):
                    break
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text()[-2000:]
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/lab/tree/view.ipynb?token={TOKEN}&reset"
    finally:
        server.terminate()
        server.wait(20)


def test_a_map_is_drawn_and_read_in_a_notebook(browser: Any, lab: str, tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": 1500, "height": 1000})
    page = context.new_page()
    try:
        page.goto(lab)
        page.wait_for_selector("text=Python 3 (ipykernel) | Idle", timeout=90_000)
        page.locator(".jp-Notebook .jp-Cell .cm-content").first.click()
        for _ in range(5):  # the first key may come before the notebook listens
            page.keyboard.press("Shift+Enter")
            page.wait_for_timeout(1500)
            if page.locator(".jp-InputPrompt").first.inner_text().strip() not in ("[ ]:", ""):
                break
        page.wait_for_selector(OPEN, timeout=90_000)
        pane = page.locator(".att-pane:not([hidden])").first
        assert [pane.get_attribute(f"data-{name}") for name in ("layer", "head")] == ["1", "0"]
        box = page.locator(".att-map").first.bounding_box()
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.6 * box["height"])
        page.wait_for_selector(".att-readout[data-exact='true']", timeout=30_000)
        readout = page.locator(".att-readout").first
        query, key = (int(readout.get_attribute(f"data-{name}")) for name in ("query", "key"))
        weight = float(readout.get_attribute("data-weight"))
        a = attlas.open_atlas(tmp_path / "a.zarr")["doc-0"].attention.sel(layer=1, head=0).values
        assert weight == pytest.approx(float(a[query, key]), abs=1e-6)
    finally:
        context.close()
