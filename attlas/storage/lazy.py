"""Lazy attention and lazy statistics: arrays whose cells are computed from the factors when they are asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from attlas.engine.attention.score_rule import ScoreRule
from attlas.engine.kernels.reference import TokenFacts, row_statistics, weights
from attlas.storage.schema import rule_from_store
from attlas.storage.zarr_shard_reader import ShardReaders

__all__ = ["DocumentRows", "LazyAttention", "LazyRows", "LazyStatistic", "StatisticRows"]

Indices = NDArray[np.int64]

WORKING_BYTES = 64 * 2**20
BLOCK_ROWS = 512
"""Rows at a time: a causal head's block needs no keys behind its last row."""
STATISTIC_ROWS = 256
CACHED_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class DocumentRows:
    """One document's rows of one kind in the store.

    query_start, key_start: its first row and first key on their axes; queries, keys: how many. position_Q: the place in
    the document of each row. layers: the model's indices, in the order of the store. kv_place_H: for each stored head,
    the place of its kv head in the store. readers: those of the whole atlas.
    """

    readers: ShardReaders
    kind: str
    query_start: int
    key_start: int
    queries: int
    keys: int
    position_Q: Indices
    layers: tuple[int, ...]
    kv_place_H: Indices
    same_axis: bool
    rules: dict[int, ScoreRule] = field(default_factory=dict)

    @property
    def heads(self) -> int:
        return len(self.kv_place_H)

    def rule(self, layer: int) -> ScoreRule:
        """The score rule of a layer; read once, since an object store takes its time for each small array."""
        if layer not in self.rules:
            self.rules[layer] = rule_from_store(self.readers.root, self.kind, self.layers[layer], layer)
        return self.rules[layer]

    def read(self, layer: int, **places: tuple[Indices | None, Indices]) -> list[torch.Tensor]:
        """Rows of several arrays of the kind, fetched together: name -> (heads, tokens on the array's axis)."""
        return self.readers.read(layer, {f"{self.kind}/{name}": place for name, place in places.items()})

    def q_and_lse(self, layer: int, heads: Indices, rows: Indices) -> list[torch.Tensor]:
        """q (H, Q, D) and log-sum-exp (H, Q) of some heads and rows; reads no other head, and only their chunks."""
        place = heads, self.query_start + rows
        return self.read(layer, q=place, log_sum_exp=place)

    def factors(self, layer: int, heads: Indices, rows: Indices, keys: Indices) -> list[torch.Tensor]:
        """As q_and_lse, and k (H, K, D) of each head's kv head."""
        read, repeat = np.unique(self.kv_place_H[heads], return_inverse=True)
        place = heads, self.query_start + rows
        q_HQD, lse_HQ, k_GKD = self.read(layer, q=place, log_sum_exp=place, k=(read, self.key_start + keys))
        once = np.array_equal(repeat, np.arange(len(read)))
        return [q_HQD, lse_HQ, k_GKD if once else k_GKD[torch.from_numpy(repeat)]]

    def intervals(self, layer: int, rows: Indices) -> tuple[Indices, Indices]:
        """Key intervals of some rows, counted from the document's first key."""
        place = None, self.query_start + rows
        start, stop = self.read(layer, key_start=place, key_stop=place)
        return start.numpy().astype(np.int64), stop.numpy().astype(np.int64)


class LazyArray(BackendArray):
    """Base of the lazy arrays: turns xarray's indexing into `compute(one index array for each dimension)`."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._outer)

    def _outer(self, key: tuple[Any, ...]) -> NDArray[Any]:
        chosen = [np.arange(size)[part] for part, size in zip(key, self.shape, strict=True)]
        result = self.compute([np.atleast_1d(part).astype(np.int64) for part in chosen])
        return result[tuple(0 if np.ndim(part) == 0 else slice(None) for part in chosen)]

    def compute(self, chosen: list[Indices]) -> NDArray[Any]:
        raise NotImplementedError


class LazyAttention(LazyArray):
    """The weights (layer, head, query, key) of one document, float32, computed cell by cell from the factors."""

    def __init__(self, rows: DocumentRows) -> None:
        self.rows = rows
        self.shape = (len(rows.layers), rows.heads, rows.queries, rows.keys)
        self.dtype = np.dtype(np.float32)

    def compute(self, chosen: list[Indices]) -> NDArray[np.float32]:
        """The chosen cells, in blocks of WORKING_BYTES; reads only the factors of the rows and keys in them."""
        layers, heads, queries, keys = chosen
        out = np.empty(tuple(len(part) for part in chosen), dtype=np.float32)
        if out.size == 0:
            return out
        step = max(1, min(BLOCK_ROWS, WORKING_BYTES // (4 * 4 * max(1, len(keys)))))
        for i, layer in enumerate(layers):
            start_Q, stop_Q = self.rows.intervals(int(layer), queries)
            seen = np.flatnonzero((keys >= start_Q.min()) & (keys < stop_Q.max()))
            if seen.size == 0:
                out[i] = 0.0
                continue
            blocks = [slice(begin, begin + step) for begin in range(0, len(queries), step)]
            for part in _head_parts(len(heads), min(step, len(queries)), len(seen)):
                q_HQD, lse_HQ, k_HKD = self.rows.factors(int(layer), heads[part], queries[blocks[0]], keys[seen])
                for block in blocks:
                    if block != blocks[0]:
                        q_HQD, lse_HQ = self.rows.q_and_lse(int(layer), heads[part], queries[block])
                    self._fill(
                        out[i, part, block], q_HQD, lse_HQ, k_HKD, self.rows.rule(int(layer)).for_heads(heads[part]),
                        (start_Q[block], stop_Q[block]), self.rows.position_Q[queries[block]], keys, seen,
                    )  # fmt: skip
        return out

    def _fill(
        self,
        out: NDArray[np.float32],
        q_HQD: torch.Tensor,
        lse_HQ: torch.Tensor,
        k_HKD: torch.Tensor,
        rule: ScoreRule,
        bounds: tuple[Indices, Indices],
        positions_Q: Indices,
        keys: Indices,
        seen: Indices,
    ) -> None:
        """A block of rows. bounds: their key intervals. seen: places among `keys` that `k_HKD` holds."""
        inside = np.flatnonzero((keys[seen] >= bounds[0].min()) & (keys[seen] < bounds[1].max()))
        if inside.size == 0:
            out[...] = 0.0
            return
        place = seen[inside]
        low, high = int(place[0]), int(place[-1]) + 1
        run = high - low == len(place)  # then so are the places in `seen`, which lie no wider
        out[:, :, : low if run else None] = 0.0
        out[:, :, high:] = 0.0
        a_HQK = weights(
            q_HQD,
            k_HKD[:, inside[0] : inside[-1] + 1] if run else k_HKD[:, inside],
            lse_HQ,
            rule,
            start_Q=bounds[0],
            stop_Q=bounds[1],
            query_positions_Q=positions_Q,
            key_positions_K=keys[place],
            out=torch.from_numpy(out[:, :, low:high]) if run else None,
        )
        if not run:
            out[:, :, place] = a_HQK.numpy()


class StatisticRows:
    """All row statistics of one document and kind, computed together, a block of rows at a time, and kept a while."""

    def __init__(
        self,
        rows: DocumentRows,
        names: tuple[str, ...],
        query_ids: Indices,
        key_ids: Indices,
        special: NDArray[np.bool_],
    ) -> None:
        self.rows, self.names = rows, names
        self.query_ids, self.key_ids, self.special = query_ids, key_ids, special
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int, int], dict[str, NDArray[np.float32]]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("rows", "names", "query_ids", "key_ids", "special")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def block(self, layer: int, head: int, number: int) -> dict[str, NDArray[np.float32]]:
        """Statistics of STATISTIC_ROWS rows of one head: name -> (rows,)."""
        key = (layer, head, number)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = self._compute(layer, head, number)
        with self._lock:
            self._kept[key] = made
            while len(self._kept) * STATISTIC_ROWS * 4 * len(self.names) > CACHED_BYTES:
                self._kept.popitem(last=False)
        return made

    def _compute(self, layer: int, head: int, number: int) -> dict[str, NDArray[np.float32]]:
        rows = self.rows
        queries = np.arange(number * STATISTIC_ROWS, min((number + 1) * STATISTIC_ROWS, rows.queries))
        heads = np.array([head])
        start_N, stop_N = rows.intervals(layer, queries)
        low = max(int(start_N.min()) - 1, 0)  # one key more: induction looks at the token before a key
        keys = np.arange(low, int(stop_N.max()))
        facts = TokenFacts(
            first_N=np.full(len(queries), -low),
            own_N=rows.position_Q[queries] - low if rows.same_axis else None,
            ids_N=self.query_ids[queries],
            ids_M=self.key_ids[keys],
            special_M=self.special[keys],
        )
        q_HQD, _, k_HKD = rows.factors(layer, heads, queries, keys)
        found = row_statistics(
            q_HQD,
            k_HKD,
            rows.rule(layer).for_heads(heads),
            start_N=start_N - low,
            stop_N=stop_N - low,
            facts=facts,
            names=self.names,
        )
        return {name: value[0].numpy() for name, value in found.statistics.items()}


class LazyStatistic(LazyArray):
    """One row statistic (layer, head, query) of one document, float32, computed from the factors."""

    def __init__(self, source: StatisticRows, name: str) -> None:
        self.source, self.name = source, name
        self.shape = (len(source.rows.layers), source.rows.heads, source.rows.queries)
        self.dtype = np.dtype(np.float32)

    def compute(self, chosen: list[Indices]) -> NDArray[np.float32]:
        layers, heads, queries = chosen
        out = np.empty(tuple(len(part) for part in chosen), dtype=np.float32)
        numbers = queries // STATISTIC_ROWS
        for number in np.unique(numbers):
            inside = np.flatnonzero(numbers == number)
            for i, layer in enumerate(layers):
                for j, head in enumerate(heads):
                    block = self.source.block(int(layer), int(head), int(number))[self.name]
                    out[i, j, inside] = block[queries[inside] - number * STATISTIC_ROWS]
        return out


class LazyRows(LazyArray):
    """A stored array (layer, head, token) seen as one document's (layer, head, query)."""

    def __init__(self, rows: DocumentRows, name: str) -> None:
        self.rows, self.name = rows, name
        self.shape = (len(rows.layers), rows.heads, rows.queries)
        self.dtype = np.dtype(np.float32)

    def compute(self, chosen: list[Indices]) -> NDArray[np.float32]:
        layers, heads, queries = chosen
        if 0 in (len(layers), len(heads), len(queries)):
            return np.empty(tuple(len(part) for part in chosen), dtype=np.float32)
        place = heads, self.rows.query_start + queries
        return np.stack([self.rows.read(int(layer), **{self.name: place})[0].numpy() for layer in layers])


def _head_parts(heads: int, queries: int, keys: int) -> list[slice]:
    """Cut the head axis into runs whose scores, and what the kernel makes of them, fit WORKING_BYTES."""
    size = max(1, min(heads, WORKING_BYTES // (4 * 4 * queries * keys)))
    return [slice(begin, begin + size) for begin in range(0, heads, size)]
