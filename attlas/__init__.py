"""attlas: capture a transformer's attention once, exactly, at any length; query it afterwards as a labelled array.

Importing this package is light: torch, transformers, zarr and xarray are loaded by the first name that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attlas import analysis as analysis
    from attlas import plots as plots
    from attlas.driver import capture as capture
    from attlas.storage import Atlas as Atlas
    from attlas.storage import open_atlas as open_atlas
    from attlas.storage import verify as verify

__all__ = ["Atlas", "analysis", "capture", "open_atlas", "plots", "verify"]
__version__ = "0.1.0"

_HOMES = {
    "Atlas": "attlas.storage",
    "capture": "attlas.driver",
    "open_atlas": "attlas.storage",
    "verify": "attlas.storage",
}
_PACKAGES = ("analysis", "plots")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"attlas.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'attlas' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
