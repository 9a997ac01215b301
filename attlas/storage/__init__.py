"""The atlas on disk: schema, writer, reader (the xarray view), verify. Knows zarr, xarray and the engine's kernels.

May import the engine; nothing of actors, analysis or the command line.
"""

from attlas.storage.atlas import Atlas, open_atlas
from attlas.storage.pack_writer import PackWriter
from attlas.storage.stores import store_bytes
from attlas.storage.verification import Check, VerifyReport, verify
from attlas.storage.writer import AtlasSpec, AtlasWriter, stored_spans

__all__ = [
    "Atlas",
    "AtlasSpec",
    "AtlasWriter",
    "Check",
    "PackWriter",
    "VerifyReport",
    "open_atlas",
    "store_bytes",
    "stored_spans",
    "verify",
]
