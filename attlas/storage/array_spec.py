"""One array of the store as a value, from which it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec

__all__ = ["ArraySpec", "column"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """One array of the store. shards None: chunks are files of their own. packed: compressed, for data that shrinks."""

    path: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None
    fill: Any = 0
    packed: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)
    data: Any = None

    def create(self, root: zarr.Group) -> zarr.Array[Any]:
        """Make the array, and write `data` where it is given."""
        array = root.create_array(
            self.path,
            shape=self.shape,
            dtype=str if self.dtype == "str" else np.dtype(self.dtype),
            chunks=self.chunks,
            shards=self.shards,
            compressors=self._codecs(),
            fill_value=self.fill,
            dimension_names=self.dims,
            attributes=self.attributes,
        )
        if self.data is not None:
            array[...] = self.values()
        return array

    def values(self) -> NDArray[Any]:
        """`data` as the array holds it."""
        return np.asarray(self.data, dtype=object if self.dtype == "str" else self.dtype)

    def _codecs(self) -> list[Any]:
        if not self.packed:
            return [Crc32cCodec()]
        size = 1 if self.dtype == "str" else np.dtype(self.dtype).itemsize
        shuffle = BloscShuffle.bitshuffle if size > 1 else BloscShuffle.noshuffle
        # of float16 weights lz4 leaves 1% more than zstd, at four times its speed
        name: Any = "lz4" if self.dims[-2:] == ("query", "key") else "zstd"
        return [BloscCodec(cname=name, clevel=1, shuffle=shuffle, typesize=size), Crc32cCodec()]


def column(
    path: str, dim: str, dtype: str, data: Any, long_name: str, *, units: str = "1", fill: Any = None, **more: Any
) -> ArraySpec:
    """A one-dimensional array whose values are known when the atlas is made."""
    count = len(data)
    attributes = {"long_name": long_name} | ({} if dtype in {"str", "bool"} else {"units": units}) | more
    return ArraySpec(
        path=path,
        dims=(dim,),
        shape=(count,),
        dtype=dtype,
        chunks=(max(1, min(count, 65_536)),),
        fill=("" if dtype == "str" else np.dtype(dtype).type(0).item()) if fill is None else fill,
        packed=True,
        attributes=attributes,
        data=np.asarray(list(data), dtype=object) if dtype == "str" else np.asarray(data, dtype=dtype),
    )
