"""PackWriter: takes the rows of one pack, gathers them into whole Zarr shards, writes each once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from attlas.engine.kernels.row_statistics import statistic_names
from attlas.engine.listeners.sink import LayerRows, MapTile
from attlas.engine.model.layout import KindLayout
from attlas.engine.passage.documents import Pack
from attlas.errors import MissingAttentionError
from attlas.storage import schema
from attlas.storage.factors import Factor
from attlas.storage.tiers import TIERS
from attlas.storage.write_behind import WriteBehind
from attlas.storage.zarr_map_shards import write_map_rows
from attlas.storage.zarr_shards import (
    encode,
    place_of,
    store_zarr_shard,
    takes_raw_zarr_shards,
    zarr_shard_key,
)

__all__ = ["PackWriter", "to_stored"]


class PackWriter:
    """Implements `attlas.engine.listeners.sink.Sink` for one pack.

    A Zarr shard is written once, whole, the moment its last row comes, by a thread beside the forward pass: none is
    ever read back to be changed. In memory lie the unfinished ones (one of each factor and layer, one of each row array
    over a span of its layers), the bytes waiting to be written, and the map tiles of one row of maps' Zarr shards.

    document_id: a document's id by its number, for its maps. layers: kind -> the model's indices of the layers that
    come to this writer; None for all. They are whole spans of the store's layers, so that several writers may write
    one pack. before_write: called before each write; what it raises ends the pack. `flush` raises
    MissingAttentionError where a layer has not handed over every row of the pack, and `write` where rows come out of
    order: nothing with a hole in it is ever committed.
    """

    def __init__(
        self,
        root: zarr.Group,
        pack: Pack,
        *,
        kinds: Sequence[KindLayout],
        document_id: Callable[[int], str],
        layers: Mapping[str, Sequence[int]] | None = None,
        before_write: Callable[[], None] = lambda: None,
    ) -> None:
        self.root, self.pack, self.before_write = root, pack, before_write
        self.kinds = {kind.kind: kind for kind in kinds}
        self.layers = {kind.kind: kind.layers for kind in kinds} if layers is None else layers
        self.document_id = document_id
        self.tier, self.identity = TIERS[str(root.attrs["keep"])], str(root.attrs["identity"])
        self.factors = {factor.name: factor for factor in self.tier.kept}
        self.written: list[int] = []
        """Bytes of each write; only appended to, by two threads."""
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._behind = WriteBehind()
        self._open: dict[tuple[str, int, int], _ZarrShard] = {}
        self._sums: dict[tuple[str, int], NDArray[Any]] = {}
        self._maps: dict[tuple[str, int], _MapRows] = {}
        self._next: dict[tuple[str, int], int] = {}  # where the next row of an array and layer belongs

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.abort()

    def write(self, rows: LayerRows) -> None:
        """Take the rows of one layer; positions are on the atlas's token axes."""
        kind = self.kinds[rows.kind]
        index, path = kind.layers.index(rows.layer), rows.kind
        for name, tensor in rows.factors.items():
            factor = self.factors[name]
            axis, start = (
                (kind.key_axis, rows.key_start) if factor.axis == "key" else (kind.query_axis, rows.query_start)
            )
            self._rows(f"{path}/{name}", index, axis, start, to_stored(tensor, factor, kind))
        for name, tensor in rows.statistics.items():
            self._rows(f"{path}/statistics/{name}", index, kind.query_axis, rows.query_start, tensor.float().numpy())
        for name, total in (("histogram", rows.histogram_HB), ("head_gram", rows.head_gram_HH)):
            if total is not None:
                key = (f"{path}/statistics/{name}", index)
                self._sums[key] = self._sums.get(key, np.zeros((), dtype=np.float64)) + total.numpy()

    def write_map(self, tile: MapTile) -> None:
        """Take a tile of weights; tiles of one layer and document arrive in row order."""
        kind = self.kinds[tile.kind]
        key = (
            f"{schema.map_group(tile.kind, self.document_id(tile.document))}/attention",
            kind.layers.index(tile.layer),
        )
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
            rows = self._maps[key] = _MapRows(begin, torch.from_numpy(np.zeros(shape, dtype=array.dtype)))
        begin = tile.query_start - rows.start
        keys = slice(tile.key_start, tile.key_start + tile.a_HQK.shape[2])
        rows.a_HQK[:, begin : begin + tile.a_HQK.shape[1], keys] = tile.a_HQK  # torch casts faster than numpy
        rows.filled = max(rows.filled, begin + tile.a_HQK.shape[1])

    def flush(self) -> int:
        """Write what is still gathered; returns the bytes written. The driver commits.

        Raises MissingAttentionError where a layer that is this writer's has not handed over every row of the pack.
        """
        self._check_complete()
        for map_key in list(self._maps):
            self._flush_map(map_key)
        self._behind.drain()
        self._write_sums()
        self._behind.close()
        return sum(self.written)

    def abort(self) -> None:
        """Drop what is gathered. What was written of an uncommitted pack stays unseen, and is written over."""
        self._behind.close(drop=True)
        for gathered in (self._open, self._sums, self._maps):
            gathered.clear()

    def _check_complete(self) -> None:
        missing = []
        for kind, layers in self.layers.items():
            layout = self.kinds[kind]
            for layer, name in itertools.product(layers, self._row_arrays(layout)):
                axis = (
                    layout.key_axis if name in self.factors and self.factors[name].axis == "key" else layout.query_axis
                )
                begin, end = self.pack.token_start[axis], self.pack.token_stop[axis]
                position = self._next.get((f"{kind}/{name}", layout.layers.index(layer)))
                if position is None:
                    missing.append(f"{kind} layer {layer} ({name})")
                elif position != end:
                    raise MissingAttentionError(
                        f"{kind}/{name} of layer {layer} has {position - begin} of the {end - begin} rows of "
                        f"pack {self.pack.index}; it is not committed"
                    )
        if missing:
            raise MissingAttentionError(
                f"pack {self.pack.index} has no rows of {', '.join(missing[:3])}"
                f"{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}; it is not committed"
            )

    def _row_arrays(self, kind: KindLayout) -> list[str]:
        """The arrays of a kind that have a row for each token, by name."""
        names = statistic_names(same_axis=kind.same_axis, sinks=kind.has_sinks) if self.tier.statistics else ()
        return [*self.factors, *(f"statistics/{name}" for name in names)]

    def _array(self, path: str) -> zarr.Array[Any]:
        if path not in self._arrays:
            array = self.root[path]
            assert isinstance(array, zarr.Array)
            self._arrays[path] = array
        return self._arrays[path]

    def _rows(self, path: str, index: int, token_axis: str, start: int, rows: NDArray[Any]) -> None:
        """Add rows of one layer, token axis: 0 for (N,), 1 for (H, N) and (H, N, D); write each
        Zarr shard as it fills."""
        axis = min(rows.ndim - 1, 1)
        done, count = 0, rows.shape[axis]
        expected = self._next.get((path, index), self.pack.token_start[token_axis])
        if start != expected or start + count > self.pack.token_stop[token_axis]:
            layer = self.kinds[path.partition("/")[0]].layers[index]
            raise MissingAttentionError(
                f"{path} of layer {layer}: {count} rows came at token {start} of the {token_axis} axis, where token "
                f"{expected} was next in pack {self.pack.index}, which ends at {self.pack.token_stop[token_axis]}"
            )
        self._next[path, index] = start + count
        while done < count:
            key, shard = self._zarr_shard(path, index, token_axis, start + done)
            take = min(count - done, shard.stop - (start + done))
            part = rows[done : done + take] if axis == 0 else rows[:, done : done + take]
            shard.put(index - shard.layer, start + done, part)
            done += take
            if not shard.missing:
                del self._open[key]
                self._write(path, shard)

    def _zarr_shard(
        self, path: str, index: int, token_axis: str, position: int
    ) -> tuple[tuple[str, int, int], _ZarrShard]:
        """The open Zarr shard that a row of one layer belongs to."""
        array = self._array(path)
        size, tokens = array.shards or array.chunks, 1 if array.ndim == 2 else 2
        span, block = size[0], size[tokens]
        layer, begin = index // span * span, position // block * block
        key = (path, layer, begin)
        if key not in self._open:
            layers = min(span, array.shape[0] - layer)
            used = min(self.pack.token_stop[token_axis], begin + block) - begin
            # memory is taken as rows come; behind the last, where a chunk is begun, there is the fill value
            values = np.empty((layers, *array.shape[1:tokens], block, *array.shape[tokens + 1 :]), dtype=array.dtype)
            filled = -(-used // array.chunks[tokens]) * array.chunks[tokens] if takes_raw_zarr_shards(array) else block
            values[(*[slice(None)] * tokens, slice(used, filled))] = array.fill_value
            self._open[key] = _ZarrShard(values, tokens, layer, begin, used)
        return key, self._open[key]

    def _write(self, path: str, shard: _ZarrShard) -> None:
        """Hand a full Zarr shard to the writing thread."""
        array = self._array(path)

        def write() -> None:
            self.before_write()
            if takes_raw_zarr_shards(array):
                assert array.shards is not None
                place = [0] * array.ndim
                place[0] = shard.layer // array.shards[0]
                place[shard.axis] = shard.start // array.shards[shard.axis]
                used = shard.stop - shard.start
                inner = array.chunks[shard.axis]
                whole = encode(
                    shard.values, inner=inner, used=used, axis=shard.axis, layers=array.shards[0],
                    place=place_of(self.identity, key := zarr_shard_key(array, tuple(place))),
                )  # fmt: skip
                store_zarr_shard(array, key, whole)
                self.written.append(whole.nbytes)
            else:
                layers = slice(shard.layer, shard.layer + shard.values.shape[0])
                tokens = slice(shard.start, shard.start + shard.values.shape[shard.axis])
                array[(layers, *[slice(None)] * (shard.axis - 1), tokens)] = shard.values
                self.written.append(shard.values.nbytes)

        self._behind.put(write, shard.values.nbytes)

    def _write_sums(self) -> None:
        """Histograms and Gram matrices of the pack, all of this writer's layers at once."""
        for path in dict.fromkeys(path for path, _ in self._sums):
            array = self._array(path)
            found = {index: total for (name, index), total in self._sums.items() if name == path}
            first, last = min(found), max(found)
            if len(found) != last + 1 - first:
                raise MissingAttentionError(
                    f"{path} has {len(found)} of {last + 1 - first} layers of pack {self.pack.index}; it is not "
                    "committed"
                )
            values = np.stack([found[index] for index in range(first, last + 1)]).astype(array.dtype)
            assert array.shards is not None
            span = array.shards[1]
            for begin in range(first // span * span, last + 1, span):
                part = values[None, begin - first : begin - first + span]
                key = zarr_shard_key(array, (self.pack.index, begin // span, 0, 0))
                padded = np.zeros((1, span, *part.shape[2:]), dtype=array.dtype)
                padded[:, : part.shape[1]] = part
                whole = encode(
                    padded, inner=1, used=part.shape[1], axis=1, layers=1, place=place_of(self.identity, key)
                )
                store_zarr_shard(array, key, whole)
                self.written.append(whole.nbytes)
        self._sums.clear()

    def _flush_map(self, key: tuple[str, int]) -> None:
        rows = self._maps.pop(key)
        path, index = key
        array = self._array(path)

        def write() -> None:
            self.before_write()
            files = write_map_rows(array, index, rows.start, rows.a_HQK.numpy(), self.identity)
            self.written.append(sum(files.values()))

        self._behind.put(write, rows.a_HQK.nbytes)


class _ZarrShard:
    """The rows of one Zarr shard, gathered; what no row fills keeps the fill value. missing: rows still to come."""

    __slots__ = ("axis", "layer", "missing", "start", "stop", "values")

    def __init__(self, values: NDArray[Any], axis: int, layer: int, start: int, used: int) -> None:
        self.values, self.axis, self.layer = values, axis, layer
        self.start, self.stop = start, start + used
        self.missing = used * values.shape[0]

    def put(self, layer: int, position: int, rows: NDArray[Any]) -> None:
        begin, count = position - self.start, rows.shape[self.axis - 1]
        self.values[layer][(slice(None),) * (self.axis - 1) + (slice(begin, begin + count),)] = rows
        self.missing -= count


class _MapRows:
    """One row of maps' Zarr shards of one layer and document, (H, Q, K)."""

    __slots__ = ("a_HQK", "filled", "start")

    def __init__(self, start: int, a_HQK: torch.Tensor) -> None:
        self.start, self.a_HQK, self.filled = start, a_HQK, 0


def to_stored(x: torch.Tensor, factor: Factor, kind: KindLayout) -> NDArray[Any]:
    """Rows of a factor as the store holds them: as wide as the kind, bfloat16 as raw 16-bit words."""
    if factor.width is not None and x.shape[-1] < factor.width.size(kind):
        x = torch.nn.functional.pad(x, (0, factor.width.size(kind) - x.shape[-1]))
    if factor.dtype is not None:
        return x.numpy().astype(factor.dtype, copy=False)
    if x.dtype == torch.bfloat16:
        return x.contiguous().view(torch.int16).numpy().view(np.uint16)
    return x.numpy()
