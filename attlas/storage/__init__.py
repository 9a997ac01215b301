"""The atlas on disk: schema, writer, reader (the xarray view), verify. Knows zarr, xarray and the engine's kernels.

May import the engine; nothing of actors, analysis or the command line. Each name is loaded when it is first asked for:
whoever reads what an atlas holds needs neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attlas.storage.atlas import Atlas as Atlas
    from attlas.storage.atlas import open_atlas as open_atlas
    from attlas.storage.atlas import parse_atlas as parse_atlas
    from attlas.storage.operator import AttentionOperator as AttentionOperator
    from attlas.storage.pack_writer import PackWriter as PackWriter
    from attlas.storage.stores import store_bytes as store_bytes
    from attlas.storage.verification import Check as Check
    from attlas.storage.verification import VerifyReport as VerifyReport
    from attlas.storage.verification import verify as verify
    from attlas.storage.writer import AtlasSpec as AtlasSpec
    from attlas.storage.writer import AtlasWriter as AtlasWriter
    from attlas.storage.writer import stored_spans as stored_spans

_HOMES = {
    "Atlas": "atlas",
    "AtlasSpec": "writer",
    "AtlasWriter": "writer",
    "AttentionOperator": "operator",
    "Check": "verification",
    "PackWriter": "pack_writer",
    "VerifyReport": "verification",
    "open_atlas": "atlas",
    "parse_atlas": "atlas",
    "store_bytes": "stores",
    "stored_spans": "writer",
    "verify": "verification",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'attlas.storage' has no attribute {name!r}")
    return getattr(import_module(f"attlas.storage.{_HOMES[name]}"), name)
