"""attlas: capture a transformer's attention once, exactly, at any length; query it afterwards as a labelled array.

Importing this package is light: torch, transformers, zarr and xarray are loaded by the first name that needs them.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attlas import analysis as analysis
    from attlas import experiments as experiments
    from attlas import plots as plots
    from attlas.capture.run import capture as capture
    from attlas.engine.edit.edit import Edit as Edit
    from attlas.server.viewer.widget import view as view
    from attlas.storage import Atlas as Atlas
    from attlas.storage import open_atlas as open_atlas
    from attlas.storage import verify as verify

__all__ = ["Atlas", "Edit", "analysis", "capture", "experiments", "open_atlas", "plots", "verify", "view"]
__version__ = "0.1.0"

_HOMES = {
    "Atlas": "attlas.storage",
    "Edit": "attlas.engine.edit.edit",
    "capture": "attlas.capture.run",
    "open_atlas": "attlas.storage",
    "verify": "attlas.storage",
    "view": "attlas.server.viewer.widget",
}
_PACKAGES = ("analysis", "experiments", "plots")


class _Package(ModuleType):
    """Keeps `attlas.capture` the function: importing the room of that name would put the package in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"attlas.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'attlas' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
