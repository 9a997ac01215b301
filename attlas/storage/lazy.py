"""Lazy attention and lazy statistics: arrays whose cells are computed from the factors when they are asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from attlas.engine.attention.score_rule import ScoreRule
from attlas.engine.kernels import door
from attlas.engine.kernels.measure import Measure
from attlas.engine.kernels.problem import Problem, TokenFacts
from attlas.engine.kernels.row_statistics import STATISTICS
from attlas.storage.schema import rule_from_store
from attlas.storage.zarr_shard_reader import ZarrShardReaders

__all__ = ["DocumentRows", "LazyAttention", "LazyRows", "LazyStatistic", "StatisticRows"]

Indices = NDArray[np.int64]

WORKING_BYTES = 64 * 2**20
BLOCK_ROWS = 512
"""Rows at a time: a causal head's block needs no keys behind its last row."""
STATISTIC_ROWS = 256
"""Rows whose statistics are kept, and forgotten, together."""
TOGETHER_ROWS = 8192
"""Most rows whose statistics are computed in one go."""
CACHED_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class DocumentRows:
    """One document's rows of one kind in the store.

    query_start, key_start: its first row and first key on their axes; queries, keys: how many. position_Q: the place in
    the document of each row. layers: the model's indices, in the order of the store. kv_place_H: for each stored head,
    the place of its kv head in the store. readers: those of the whole atlas.
    """

    readers: ZarrShardReaders
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

    @property
    def features(self) -> int:
        return int(self.readers[f"{self.kind}/q"].array.shape[-1])

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
        """As q_and_lse, and k (G, K, D): each kv head once where as many heads in turn use each, else once a head."""
        read, repeat = np.unique(self.kv_place_H[heads], return_inverse=True)
        place = heads, self.query_start + rows
        q_HQD, lse_HQ, k_GKD = self.read(layer, q=place, log_sum_exp=place, k=(read, self.key_start + keys))
        return [q_HQD, lse_HQ, k_GKD if _is_shared(heads, read, repeat) else k_GKD[torch.from_numpy(repeat)]]

    def keys_of(self, layer: int, heads: Indices, keys: Indices) -> torch.Tensor:
        """k (G, K, D), as in `factors`."""
        read, repeat = np.unique(self.kv_place_H[heads], return_inverse=True)
        (k_GKD,) = self.read(layer, k=(read, self.key_start + keys))
        return k_GKD if _is_shared(heads, read, repeat) else k_GKD[torch.from_numpy(repeat)]

    def values_of(self, layer: int, heads: Indices, keys: Indices) -> torch.Tensor:
        """v (H, K, V) of a capture with gradients, as each head reads it."""
        read, repeat = np.unique(self.kv_place_H[heads], return_inverse=True)
        (v_GKV,) = self.read(layer, v=(read, self.key_start + keys))
        return v_GKV[torch.from_numpy(repeat)]

    def output_gradient(self, layer: int, heads: Indices, rows: Indices) -> torch.Tensor:
        """The gradient (H, Q, V) of the heads' outputs, of the same."""
        (grad_HQV,) = self.read(layer, output_gradient=(heads, self.query_start + rows))
        return grad_HQV

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
                q_HQD, lse_HQ, k_GKD = self.rows.factors(int(layer), heads[part], queries[blocks[0]], keys[seen])
                for block in blocks:
                    if block != blocks[0]:
                        q_HQD, lse_HQ = self.rows.q_and_lse(int(layer), heads[part], queries[block])
                    self._fill(
                        out[i, part, block], q_HQD, lse_HQ, k_GKD, self.rows.rule(int(layer)).for_heads(heads[part]),
                        (start_Q[block], stop_Q[block]), self.rows.position_Q[queries[block]], keys, seen,
                    )  # fmt: skip
        return out

    def _fill(
        self,
        out: NDArray[np.float32],
        q_HQD: torch.Tensor,
        lse_HQ: torch.Tensor,
        k_GKD: torch.Tensor,
        rule: ScoreRule,
        bounds: tuple[Indices, Indices],
        positions_Q: Indices,
        keys: Indices,
        seen: Indices,
    ) -> None:
        """A block of rows. bounds: their key intervals. seen: places among `keys` that `k_GKD` holds."""
        inside = np.flatnonzero((keys[seen] >= bounds[0].min()) & (keys[seen] < bounds[1].max()))
        if inside.size == 0:
            out[...] = 0.0
            return
        place = seen[inside]
        low, high = int(place[0]), int(place[-1]) + 1
        run = high - low == len(place)  # then so are the places in `seen`, which lie no wider
        out[:, :, : low if run else None] = 0.0
        out[:, :, high:] = 0.0
        problem = Problem(
            q_HND=q_HQD,
            k_GMD=k_GKD[:, inside[0] : inside[-1] + 1] if run else k_GKD[:, inside],
            rule=rule,
            start_N=bounds[0],
            stop_N=bounds[1],
            tokens=TokenFacts.of_places(len(positions_Q), len(place), positions_Q),
        )
        a_HQK = door.weights(
            problem, lse_HQ, key_M=keys[place], out=torch.from_numpy(out[:, :, low:high]) if run else None
        )  # fmt: skip
        if not run:
            out[:, :, place] = a_HQK.numpy()


class StatisticRows:
    """The row statistics of one document and kind, from the factors, and kept a while.

    What the fast kernels find in one pass is computed together, for all the heads and rows that are asked for.
    """

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
        self._kept: OrderedDict[tuple[str, int, int, int], NDArray[np.float32]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("rows", "names", "query_ids", "key_ids", "special")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def values(self, name: str, layer: int, heads: Indices, queries: Indices) -> NDArray[np.float32]:
        """One statistic (H, Q) of some heads and rows of a layer."""
        numbers, row_Q = queries // STATISTIC_ROWS, queries % STATISTIC_ROWS
        found: dict[tuple[int, int], NDArray[np.float32]] = {}
        with self._lock:
            for number in np.unique(numbers).tolist():
                for head in np.unique(heads).tolist():
                    key = (name, layer, head, number)
                    if key in self._kept:
                        self._kept.move_to_end(key)
                        found[head, number] = self._kept[key]
        for wanted, begin, end in self._missing(np.unique(heads), np.unique(numbers), found):
            made = self._compute(self._together(name), layer, wanted, begin, end)
            for (head, number), blocks in made.items():
                found[head, number] = blocks[name]
                self._keep(layer, head, number, blocks)
        out = np.empty((len(heads), len(queries)), dtype=np.float32)
        for number in np.unique(numbers):
            inside = numbers == number
            for j, head in enumerate(heads):
                out[j, inside] = found[int(head), int(number)][row_Q[inside]]
        return out

    def _together(self, name: str) -> tuple[str, ...]:
        """The statistics that cost nothing more once this one is computed."""
        if STATISTICS[name].slot is None:
            return (name,)
        return tuple(other for other in self.names if STATISTICS[other].slot is not None)

    def _missing(
        self, heads: Indices, numbers: Indices, found: dict[tuple[int, int], NDArray[np.float32]]
    ) -> Iterator[tuple[Indices, int, int]]:
        """Heads, and a range of blocks that none of them has, whose factors fit WORKING_BYTES."""
        cells = WORKING_BYTES // (8 * self.rows.features)
        most_heads = max(1, cells // max(self.rows.keys, 1))
        most_blocks = max(1, min(TOGETHER_ROWS, cells // most_heads) // STATISTIC_ROWS)
        lacking = {n: tuple(h for h in heads.tolist() if (h, n) not in found) for n in numbers.tolist()}
        left = [n for n in numbers.tolist() if lacking[n]]
        while left:
            begin, end = left[0], left[0] + 1
            while end in left and end - begin < most_blocks and lacking[end] == lacking[begin]:
                end += 1
            left = [n for n in left if n >= end]
            for part in range(0, len(lacking[begin]), most_heads):
                yield np.array(lacking[begin][part : part + most_heads]), begin, end

    def _compute(
        self, names: tuple[str, ...], layer: int, heads: Indices, begin: int, end: int
    ) -> dict[tuple[int, int], dict[str, NDArray[np.float32]]]:
        """(head, block) -> name -> (rows,) of the blocks [begin, end)."""
        rows = self.rows
        queries = np.arange(begin * STATISTIC_ROWS, min(end * STATISTIC_ROWS, rows.queries))
        start_N, stop_N = rows.intervals(layer, queries)
        low = max(int(start_N.min()) - 1, 0)  # one key more: induction looks at the token before a key
        keys = np.arange(low, int(stop_N.max()))
        tokens = TokenFacts(
            first_N=np.full(len(queries), -low),
            own_N=rows.position_Q[queries] - low if rows.same_axis else None,
            ids_N=self.query_ids[queries],
            ids_M=self.key_ids[keys],
            special_M=self.special[keys],
        )
        q_HQD, lse_HQ, k_GKD = rows.factors(layer, heads, queries, keys)
        problem = Problem(
            q_HND=q_HQD, k_GMD=k_GKD, rule=rows.rule(layer).for_heads(heads), start_N=start_N - low,
            stop_N=stop_N - low, tokens=tokens,
        )  # fmt: skip
        found = {
            name: value.numpy()
            for name, value in door.statistics(problem, lse_HQ, Measure(names=names)).statistics.items()
        }
        return {
            (head, number): {
                name: value[i, (number - begin) * STATISTIC_ROWS : (number - begin + 1) * STATISTIC_ROWS].copy()
                for name, value in found.items()
            }
            for i, head in enumerate(heads.tolist())
            for number in range(begin, end)
        }

    def _keep(self, layer: int, head: int, number: int, blocks: dict[str, NDArray[np.float32]]) -> None:
        with self._lock:
            for name, block in blocks.items():
                self._kept[name, layer, head, number] = block
            while len(self._kept) * STATISTIC_ROWS * 4 > CACHED_BYTES:
                self._kept.popitem(last=False)


class LazyStatistic(LazyArray):
    """One row statistic (layer, head, query) of one document, float32, computed from the factors."""

    def __init__(self, source: StatisticRows, name: str) -> None:
        self.source, self.name = source, name
        self.shape = (len(source.rows.layers), source.rows.heads, source.rows.queries)
        self.dtype = np.dtype(np.float32)

    def compute(self, chosen: list[Indices]) -> NDArray[np.float32]:
        layers, heads, queries = chosen
        if 0 in (len(layers), len(heads), len(queries)):
            return np.empty(tuple(len(part) for part in chosen), dtype=np.float32)
        return np.stack([self.source.values(self.name, int(layer), heads, queries) for layer in layers])


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


def _is_shared(heads: Indices, kv_heads: Indices, repeat: Indices) -> bool:
    """Whether as many heads in turn use each kv head. repeat: which of them each head uses."""
    even = np.arange(len(heads)) * len(kv_heads) // len(heads)
    return not len(heads) % len(kv_heads) and np.array_equal(repeat, even)


def _head_parts(heads: int, queries: int, keys: int) -> list[slice]:
    """Cut the head axis into runs whose scores, and what the kernel makes of them, fit WORKING_BYTES."""
    size = max(1, min(heads, WORKING_BYTES // (4 * 4 * queries * keys)))
    return [slice(begin, begin + size) for begin in range(0, heads, size)]
