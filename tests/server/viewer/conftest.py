"""One browser for all tests of the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.viewer.browser import ARGUMENTS, chromium


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """Closed when the package's tests are over: as long as it is there, its loop runs in this thread."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()
