"""PackWriter: takes the rows of one pack, gathers them into whole shards, writes each shard once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from attlas.engine.blocks import LayerBlock, MapTile
from attlas.engine.documents import Document, Pack
from attlas.engine.layout import KindLayout
from attlas.storage import schema

__all__ = ["PackWriter", "to_stored"]


class PackWriter:
    """Implements `attlas.engine.blocks.Sink` for one pack.

    A shard is written once, whole, with one zarr write: no shard is ever read back to be changed. In memory lies at
    most one unfinished shard of each array and layer, and the map tiles of one row of map shards.
    """

    def __init__(
        self,
        root: zarr.Group,
        pack: Pack,
        *,
        kinds: Sequence[KindLayout],
        documents: Sequence[Document],
        block: int,
    ) -> None:
        self.root, self.pack, self.block = root, pack, block
        self.kinds = {kind.kind: kind for kind in kinds}
        self.documents = documents
        self.bytes = 0
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._open: dict[tuple[str, int], _Shard] = {}
        self._sums: dict[tuple[str, int], NDArray[Any]] = {}
        self._maps: dict[tuple[str, int], _MapRows] = {}

    def write(self, block: LayerBlock) -> None:
        """Take the rows of one layer; positions are on the atlas's token axes."""
        kind = self.kinds[block.kind]
        index = kind.layers.index(block.layer)
        path, start = block.kind, block.query_start
        for name, tensor in (("log_sum_exp", block.lse_HN), *_named("statistics/", block.statistics)):
            if tensor is not None:
                self._rows(f"{path}/{name}", index, start, tensor.float().numpy())
        for name, values in (("key_start", block.interval_start_N), ("key_stop", block.interval_stop_N)):
            if values is not None:
                self._rows(f"{path}/{name}", index, start, values)
        if block.q_HND is not None:
            self._rows(f"{path}/q", index, start, to_stored(block.q_HND, kind.features))
        if block.k_GMD is not None:
            self._rows(f"{path}/k", index, block.key_start, to_stored(block.k_GMD, kind.features))
        for name, total in (("histogram", block.histogram_HB), ("head_gram", block.head_gram_HH)):
            if total is not None:
                key = (f"{path}/statistics/{name}", index)
                self._sums[key] = self._sums.get(key, np.zeros((), dtype=np.float64)) + total.numpy()

    def write_map(self, tile: MapTile) -> None:
        """Take a tile of weights; tiles of one layer and document arrive in row order."""
        kind = self.kinds[tile.kind]
        document = self.documents[tile.document]
        key = (f"{schema.map_group(tile.kind, document.id)}/attention", kind.layers.index(tile.layer))
        rows = self._maps.get(key)
        if rows is not None and tile.query_start >= rows.start + rows.a_HQK.shape[1]:
            self._flush_map(key)
            rows = None
        if rows is None:
            for other in [k for k, v in self._maps.items() if v.filled == v.a_HQK.shape[1]]:
                self._flush_map(other)
            array = self._array(key[0])
            begin = tile.query_start // schema.MAP_SHARD * schema.MAP_SHARD
            shape = (array.shape[1], min(schema.MAP_SHARD, array.shape[2] - begin), array.shape[3])
            rows = self._maps[key] = _MapRows(begin, np.zeros(shape, dtype=array.dtype))
        begin = tile.query_start - rows.start
        rows.a_HQK[:, begin : begin + tile.a_HQK.shape[1], tile.key_start : tile.key_start + tile.a_HQK.shape[2]] = (
            tile.a_HQK.numpy()
        )
        rows.filled = max(rows.filled, begin + tile.a_HQK.shape[1])

    def commit(self, *, seconds: float, attempt: int) -> None:
        """Write what is still gathered, then the record; the state comes last, and alone makes the pack visible."""
        for shard_key in list(self._open):
            self._flush(shard_key)
        for map_key in list(self._maps):
            self._flush_map(map_key)
        for (path, index), total in self._sums.items():
            array = self._array(path)
            array[self.pack.index, index] = total.astype(array.dtype)
            self.bytes += total.nbytes
        self._sums.clear()
        for name, value in (("attempt", attempt), ("seconds", seconds), ("bytes", self.bytes)):
            self._array(f"packs/{name}")[self.pack.index] = value
        self._array("packs/state")[self.pack.index] = schema.COMMITTED

    def _array(self, path: str) -> zarr.Array[Any]:
        if path not in self._arrays:
            array = self.root[path]
            assert isinstance(array, zarr.Array)
            self._arrays[path] = array
        return self._arrays[path]

    def _rows(self, path: str, index: int, start: int, rows: NDArray[Any]) -> None:
        """Add rows of one layer, token axis: 0 for (N,), 1 for (H, N) and (H, N, D); write each shard as it fills."""
        axis = min(rows.ndim - 1, 1)
        done, count = 0, rows.shape[axis]
        while done < count:
            shard = self._shard(path, index, start + done)
            take = min(count - done, shard.stop - (start + done))
            part = rows[done : done + take] if axis == 0 else rows[:, done : done + take]
            shard.put(start + done, part, axis)
            done += take
            if start + done == shard.stop:
                self._flush((path, index))

    def _shard(self, path: str, index: int, position: int) -> _Shard:
        shard = self._open.get((path, index))
        begin = position // self.block * self.block
        if shard is not None and shard.start != begin:  # rows of a layer come in token order, so the shard is complete
            self._flush((path, index))
            shard = None
        if shard is None:
            array = self._array(path)
            tokens = 1 if array.ndim == 2 else 2
            shape = (*array.shape[1:tokens], self.block, *array.shape[tokens + 1 :])
            shard = _Shard(begin, begin + self.block, np.full(shape, array.fill_value, dtype=array.dtype))
            self._open[path, index] = shard
        return shard

    def _flush(self, key: tuple[str, int]) -> None:
        shard = self._open.pop(key)
        path, index = key
        array = self._array(path)
        if array.ndim == 2:
            array[index, shard.start : shard.stop] = shard.values
        else:
            array[index, :, shard.start : shard.stop] = shard.values
        self.bytes += shard.values.nbytes

    def _flush_map(self, key: tuple[str, int]) -> None:
        rows = self._maps.pop(key)
        path, index = key
        self._array(path)[index, :, rows.start : rows.start + rows.a_HQK.shape[1]] = rows.a_HQK
        self.bytes += rows.a_HQK.nbytes


class _Shard:
    """The rows of one shard of one layer, gathered; what no row fills keeps the array's fill value."""

    __slots__ = ("start", "stop", "values")

    def __init__(self, start: int, stop: int, values: NDArray[Any]) -> None:
        self.start, self.stop, self.values = start, stop, values

    def put(self, position: int, rows: NDArray[Any], axis: int) -> None:
        begin = position - self.start
        place = slice(begin, begin + rows.shape[axis])
        if axis == 0:
            self.values[place] = rows
        else:
            self.values[:, place] = rows


class _MapRows:
    """One row of map shards of one layer and document, (H, Q, K)."""

    __slots__ = ("a_HQK", "filled", "start")

    def __init__(self, start: int, a_HQK: NDArray[Any]) -> None:
        self.start, self.a_HQK, self.filled = start, a_HQK, 0


def to_stored(x_HND: torch.Tensor, features: int) -> NDArray[Any]:
    """q or k as the store holds it: as wide as the layout, bfloat16 as raw 16-bit words."""
    if x_HND.shape[2] < features:
        x_HND = torch.nn.functional.pad(x_HND, (0, features - x_HND.shape[2]))
    if x_HND.dtype == torch.bfloat16:
        return x_HND.contiguous().view(torch.int16).numpy().view(np.uint16)
    return x_HND.numpy()


def _named(prefix: str, values: Any) -> list[tuple[str, torch.Tensor]]:
    return [(f"{prefix}{name}", value) for name, value in values.items()]
