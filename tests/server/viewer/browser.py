"""A headless Chromium, found on the machine, and pages of it that fail at the first error they print."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

__all__ = ["OPEN", "chromium", "opened"]

NAMES = ("chromium-headless-shell", "chromium", "google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
QUIET = "willReadFrequently"
"""Said of tests that look at pixels."""
OPEN = ".attlas[data-state='open'][data-missing='0']"
"""What there is once a map is drawn with all its tiles."""


def chromium() -> str:
    """Where it lies; skips with the command that installs it, and fails where CI=true."""
    found = os.environ.get("ATTLAS_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        remedy = "no Chromium: apt-get install chromium-headless-shell, or set ATTLAS_CHROMIUM to one"
        if os.environ.get("CI") == "true":
            pytest.fail(remedy)
        pytest.skip(remedy)
    return found


@contextmanager
def opened(browser: Any, url: str, **context: Any) -> Iterator[Any]:
    """A page that is open, with its map drawn; AssertionError for what its console says, and requests elsewhere."""
    own = browser.new_context(**{"viewport": {"width": 1360, "height": 860}} | context)
    page = own.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if QUIET not in message.text else None)
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    host = url.split("/")[2]
    page.on(
        "request", lambda request: wrong.append(f"asked of {request.url}") if _elsewhere(request.url, host) else None
    )
    try:
        page.goto(url)
        page.wait_for_selector(OPEN)
        yield page
        assert not wrong, wrong
    finally:
        own.close()


def _elsewhere(url: str, host: str) -> bool:
    return not url.startswith((f"http://{host}/", "data:", "blob:"))
