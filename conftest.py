"""What every docstring example finds: `attlas`, and the atlas of `attlas demo` as `demo.zarr`, `atlas` and `page`;
`operator` is its layer 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's atlas."""
    import attlas
    from attlas.cli.demo import TEXT

    folder = tmp_path_factory.mktemp("examples")
    attlas.capture("demo", TEXT, folder / "demo.zarr", ids=["demo"])
    return folder


@pytest.fixture(autouse=True)
def _examples(request: pytest.FixtureRequest) -> None:
    """Gives names to examples alone; other tests never make the atlas."""
    if not isinstance(request.node, pytest.DoctestItem):
        return
    folder = request.getfixturevalue("demo_folder")
    request.getfixturevalue("monkeypatch").chdir(folder)
    import attlas

    atlas = attlas.open_atlas("demo.zarr")
    names: dict[str, Any] = request.getfixturevalue("doctest_namespace")
    names.update(attlas=attlas, atlas=atlas, page=atlas["demo"], np=np, operator=atlas.operator("demo", layer=1))
