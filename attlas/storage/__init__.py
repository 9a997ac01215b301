"""The atlas on disk: schema, writer, reader (the xarray view), verify. Knows zarr, xarray and the engine's kernels.

May import the engine; nothing of actors, analysis or the command line.
"""

from attlas.storage.checks import Check, VerifyReport, verify
from attlas.storage.reader import Atlas, open_atlas
from attlas.storage.stores import store_bytes
from attlas.storage.writer import AtlasWriter

__all__ = ["Atlas", "AtlasWriter", "Check", "VerifyReport", "open_atlas", "store_bytes", "verify"]
