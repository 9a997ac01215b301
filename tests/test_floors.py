"""The floors of the package: what each may import, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import attlas

ROOT = Path(attlas.__file__).parent
GROUND = ("errors", "memory", "parse", "progress", "readable", "registry")
FLOORS = (
    "engine",
    "storage",
    "actors",
    "capture",
    "jobs",
    "analysis",
    "experiments",
    "plots",
    "bench",
    "server",
    "cli",
)
"""From the lowest to the highest: a floor may import those below it, and all may import GROUND."""
MAY = {floor: {*FLOORS[:place]} for place, floor in enumerate(FLOORS)}
MAY["plots"] |= {"bench"}  # a report is drawn
MAY["bench"] -= {"plots"}
"""A floor -> the floors it stands on; all stand on GROUND."""
NOT_IN_THE_ENGINE = {"ray", "zarr", "xarray", "dask", "click", "rich", "matplotlib"}


def imports(path: Path) -> set[str]:
    """Whole names of the modules that a file imports, wherever in it; `from attlas import x` counts as attlas.x."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            assert node.module is not None
            found |= {f"attlas.{alias.name}" for alias in node.names} if node.module == "attlas" else {node.module}
    return found


def floor_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = [path for path in sorted(ROOT.rglob("*.py")) if floor_of(path) not in {"__init__", *GROUND}]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_lower_never_imports_higher(path: Path) -> None:
    floor = floor_of(path)
    above = {
        name
        for name in imports(path)
        if name.startswith("attlas.") and name.split(".")[1] in MAY and name.split(".")[1] not in MAY[floor] | {floor}
    }
    assert not above, f"attlas.{floor} imports {', '.join(sorted(above))}"


def test_the_engine_knows_neither_store_nor_cluster() -> None:
    for path in FILES:
        if floor_of(path) == "engine":
            found = {name.partition(".")[0] for name in imports(path)} & NOT_IN_THE_ENGINE
            assert not found, f"{path.relative_to(ROOT)} imports {found}"


def test_every_floor_is_known() -> None:
    assert {floor_of(path) for path in FILES} == set(MAY)
