"""What a page says of its tokens: which columns of the store are coordinates, and those read only when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from attlas.storage.consolidated import holds
from attlas.storage.digests import read_columns

__all__ = ["AT_ONCE", "WHEN_ASKED", "LateColumns", "fixed_width"]

AT_ONCE = {"token": "the token as text", "token_id": "vocabulary index"}
"""Coordinates that a page is opened with -> what they are called."""
WHEN_ASKED = {
    "char_start": "first character in the input text, -1 where there is none",
    "char_end": "character after the last, -1 where there is none",
    "word": "word of the document, -1 where it belongs to none",
    "token_type": "token type (segment) given to the model",
}
"""Coordinates that are read when they are asked for, all of a document in one trip; each where the store has it."""


class LateColumns:
    """The columns WHEN_ASKED of one document. places: axis -> its tokens' range on the atlas's axis."""

    def __init__(self, root: zarr.Group, places: Mapping[str, slice]) -> None:
        self.root, self.places = root, places

    def of(self, axis: str) -> dict[str, indexing.LazilyIndexedArray]:
        """name -> (tokens,) int32, lazy; metadata is in memory since the opening."""
        names = [name for name in WHEN_ASKED if holds(self.root, f"tokens/{axis}/{name}")]
        return {name: indexing.LazilyIndexedArray(_Column(self, axis, name)) for name in names}

    @cached_property
    def values(self) -> dict[str, NDArray[np.int32]]:
        paths = {
            f"tokens/{axis}/{name}": place
            for axis, place in self.places.items()
            for name in WHEN_ASKED
            if holds(self.root, f"tokens/{axis}/{name}")
        }
        return read_columns(self.root, paths)


class _Column(BackendArray):
    def __init__(self, columns: LateColumns, axis: str, name: str) -> None:
        place = columns.places[axis]
        self.columns, self.path = columns, f"tokens/{axis}/{name}"
        self.shape, self.dtype = (place.stop - place.start,), np.dtype(np.int32)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> Any:
        return self.columns.values[self.path][key]


def fixed_width(texts: NDArray[Any]) -> NDArray[np.str_]:
    """Strings as dask and netCDF know them."""
    width = max(1, int(np.strings.str_len(texts).max(initial=0)))
    return np.asarray(texts.astype(f"U{width}"), dtype=f"U{width}")
