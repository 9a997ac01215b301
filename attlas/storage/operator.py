"""One layer's attention of one document as a linear map, from the factors in the store, read in parts.

Suffixes: H heads, Q and K some rows and keys, N all rows, M all keys, C columns of X.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from attlas.engine.kernels import door
from attlas.engine.kernels.discard import Discard
from attlas.engine.kernels.measure import TILE_BYTES
from attlas.engine.kernels.problem import Problem, TokenFacts
from attlas.engine.passage.selection import describe_indices
from attlas.errors import InputError
from attlas.parse import is_integer, refuse
from attlas.storage.gradient_operator import GradientOperator
from attlas.storage.lazy import DocumentRows

if TYPE_CHECKING:
    from attlas.storage.atlas import Atlas

__all__ = ["FACTOR_BYTES", "AttentionOperator", "Heads", "make_operator", "parse_columns"]

Indices = NDArray[np.int64]
Heads = int | Sequence[int] | str | None

FACTOR_BYTES = 128 * 2**20
"""So much of a layer's factors is held at once; what is read is held twice for a moment. Discarding weights takes whole
rows, and so all keys, beside rows of half of it."""

KEPT_FACTORS = 2**25
"""The factors of a layer up to so many bytes are read through the atlas's kept chunks, for those who ask again."""

HEADS_ARE = 'give the index of a head, several in a list, "mean", or None for all'


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionOperator:
    """The attention A of one layer, document and kind as a linear map from keys to queries.

    >>> operator = atlas.operator("demo", layer=1)
    >>> operator.shape, operator.heads
    ((146, 146), (0, 1, 2, 3))
    >>> operator.apply(np.ones((146, 2)), head=0).shape
    (146, 2)

    document, kind, layer: of what. heads: the model's indices. queries: place in the document of each row, which are
    all of them unless the capture kept chosen rows. factor_bytes: the most of q, k and log-sum-exp that is held at
    once, see FACTOR_BYTES. tile_bytes: the most that a tile of weights takes. Made by `Atlas.operator`.
    """

    document: str
    kind: str
    layer: int
    heads: tuple[int, ...]
    queries: Indices
    rows: DocumentRows
    factor_bytes: int = FACTOR_BYTES
    tile_bytes: int = TILE_BYTES

    @property
    def shape(self) -> tuple[int, int]:
        """Queries, keys."""
        return self.rows.queries, self.rows.keys

    def apply(self, x: Any, head: Heads = None, *, discard: Discard | None = None) -> Any:
        """A @ X: for each query the mean of X over the keys it attends to.

        >>> position = np.arange(146.0)  # where each key stands
        >>> operator.apply(position, head=0)[106].item()
        48.996

        x: (keys,), (keys, columns), or (heads, keys, columns) for one X a head; numbers. Sums are float64, or float32
        where X is; weights are float32. An xarray DataArray with a dimension `key` gives one with `query`.
        head: one of the model's indices, several in a list, "mean" of all heads, or None for all. Several heads give
        (heads, queries, columns), one or their mean (queries, columns); columns only where X has them. discard: with
        "mean", the weights that are dropped. Memory: FACTOR_BYTES of factors, a tile, X, and what is returned.
        Raises InputError where X or a head does not fit.
        """
        return self._product(x, head, "key", "query", discard)

    def apply_transposed(self, x: Any, head: Heads = None, *, discard: Discard | None = None) -> Any:
        """A.T @ X: for each key the sum of X over the queries that attend to it, each times its weight.

        >>> operator.apply_transposed(np.ones(146), head=0).sum().item()  # all that keys receive: 1 a query
        146.00

        x: (queries,), (queries, columns), or (heads, queries, columns). The rest, memory and errors as `apply`, with
        `query` and `key` exchanged.
        """
        return self._product(x, head, "query", "key", discard)

    def row_sums(self, head: Heads = None) -> NDArray[np.float64]:
        """The sum of each query's weights, (heads, queries) or (queries,): 1, or less where the head has a sink logit.

        >>> float(operator.row_sums("mean").min())
        1.0
        """
        places, mean = self.head_places(head)
        sink_H = self.rows.rule(self._layer_place).sink_H
        sums_HN = np.ones((len(places), self.shape[0]))
        if sink_H is not None:
            (lse,) = self.rows.read(
                self._layer_place, log_sum_exp=(places, self.rows.query_start + np.arange(self.shape[0]))
            )
            sums_HN -= np.exp(sink_H[places].astype(np.float64)[:, None] - lse.double().numpy())
        if mean:
            return sums_HN.mean(axis=0)
        return sums_HN[0] if is_integer(head) else sums_HN

    def gradient(self, name: str) -> GradientOperator:
        """One of the page's gradients as a linear map in the same way; see `GradientOperator`.

        name: "attention_gradient", "attention_x_gradient" or "score_gradient". Raises TierError where the atlas was
        captured without gradients, InputError.
        """
        from attlas.storage.page import check_gradients

        check_gradients(str(self.rows.readers.root.attrs["keep"]), name, self.document)
        return GradientOperator(self, name)

    @property
    def _layer_place(self) -> int:
        return self.rows.layers.index(self.layer)

    def _product(self, x: Any, head: Heads, source: str, target: str, discard: Discard | None) -> Any:
        places, mean = self.head_places(head)
        if discard is not None and not mean:
            raise refuse(head, "head", 'weights are dropped of the mean of the heads: give head="mean"')
        labelled = x if isinstance(x, xr.DataArray) else None
        one = mean or is_integer(head)
        columns: list[Any] = []
        if labelled is not None:
            x, columns = self._unlabelled(labelled, source, one)
        size = self.shape[0 if source == "query" else 1]
        values = parse_columns(x, source, size, len(places), self.document)
        flat = values.ndim == 1
        found = self._multiply(
            torch.from_numpy(values[:, None] if flat else values), places, mean, target == "query", discard
        ).numpy()
        found = found[0] if one and not mean else found
        found = found[..., 0] if flat else found
        return found if labelled is None else self._labelled(found, labelled, places, one, source, target, columns)

    def _multiply(
        self, x: torch.Tensor, places: Indices, mean: bool, forward: bool, discard: Discard | None
    ) -> torch.Tensor:
        """(H, targets, C), or the mean; over parts of the rows and keys whose factors fit `factor_bytes`."""
        queries, keys = self.shape
        columns, size = x.shape[-1], queries if forward else keys
        out = x.new_zeros((size, columns) if mean else (len(places), size, columns))
        apply = door.apply if forward else door.apply_transposed
        for row_Q, key_K, problem, lse_HQ in self._parts(places, whole_rows=discard is not None):
            read, put = (key_K, row_Q) if forward else (row_Q, key_K)
            out[..., put, :] += apply(
                problem, lse_HQ, x[..., read, :], mean=mean, discard=discard, tile_bytes=self.tile_bytes
            )
        return out

    def _parts(self, places: Indices, *, whole_rows: bool) -> Iterator[tuple[slice, slice, Problem, torch.Tensor]]:
        """(rows, keys, problem, log-sum-exp) of parts that together have every visible cell once."""
        rows, layer = self.rows, self._layer_place
        start_N, stop_N = rows.intervals(layer, np.arange(rows.queries))
        rule = rows.rule(layer).for_heads(places)
        most_rows, most_keys = self._part_sizes(len(places), len(np.unique(rows.kv_place_H[places])), whole_rows)
        for begin in range(0, rows.queries, most_rows):
            end = min(begin + most_rows, rows.queries)
            row_Q, at = np.arange(begin, end), slice(begin, end)
            own_Q = rows.position_Q[at] if rows.same_axis else None
            factors: list[torch.Tensor] | None = None
            first, last = int(start_N[at].min()), int(stop_N[at].max())
            for low in range(first, last, most_keys):
                high = min(low + most_keys, last)
                start_Q, stop_Q = (np.clip(edge_N[at], low, high) - low for edge_N in (start_N, stop_N))
                if not (start_Q < stop_Q).any():
                    continue
                key_K = np.arange(low, high)
                if factors is None:
                    q_HQD, lse_HQ, k_GKD = rows.factors(layer, places, row_Q, key_K)
                else:
                    q_HQD, lse_HQ = factors
                    k_GKD = rows.keys_of(layer, places, key_K)
                factors = [q_HQD, lse_HQ]
                problem = Problem(
                    q_HND=q_HQD, k_GMD=k_GKD, rule=rule, start_N=start_Q, stop_N=stop_Q,
                    tokens=TokenFacts.of_places(end - begin, high - low, None if own_Q is None else own_Q - low),
                )  # fmt: skip
                yield at, slice(low, high), problem, lse_HQ

    def _part_sizes(self, heads: int, kv_heads: int, whole_rows: bool) -> tuple[int, int]:
        """How many rows and how many keys are held at once. Both take half; whole rows need all keys."""
        queries, keys = self.shape
        a_row, a_key = 4 * heads * (self.rows.features + 1), 4 * kv_heads * self.rows.features
        if queries * a_row + keys * a_key <= self.factor_bytes:
            return queries, keys
        half = self.factor_bytes // 2
        most_keys = keys if whole_rows else min(keys, max(1, half // a_key))
        return min(queries, max(1, (self.factor_bytes - most_keys * a_key) // a_row, half // a_row)), most_keys

    def head_places(self, head: Heads) -> tuple[Indices, bool]:
        """Places of the heads on the store's head axis, and whether their mean is meant."""
        if head is None or (isinstance(head, str) and head == "mean"):
            return np.arange(len(self.heads)), head is not None
        given: Any = [head] if is_integer(head) else head
        listed = given.ndim == 1 if isinstance(given, np.ndarray) else isinstance(given, Sequence)
        places: list[int] = []
        if listed and not isinstance(given, str | bytes):
            for one in given:  # one by one: a range has no end that one could wait for
                if not is_integer(one):
                    raise refuse(head, "head", HEADS_ARE)
                if one not in self.heads:
                    raise InputError(f"there is no head {one}: the atlas has {describe_indices(list(self.heads))}")
                places.append(self.heads.index(int(one)))
        if not places:
            raise refuse(head, "head", HEADS_ARE)
        return np.array(places), False

    def _unlabelled(self, x: xr.DataArray, source: str, one: bool) -> tuple[NDArray[Any], list[Any]]:
        """A labelled X as (source,), (source, C) or (H, source, C), and its further dimensions, which C runs over."""
        if source not in x.dims:
            raise InputError(f"x has the dimensions {', '.join(map(str, x.dims))}: it needs {source}")
        by_head = "head" in x.dims and not one
        columns = [dim for dim in x.dims if dim != source and not (by_head and dim == "head")]
        values = x.transpose(*(["head"] if by_head else []), source, *columns).values
        lead = 2 if by_head else 1
        if columns or by_head:
            values = values.reshape(*values.shape[:lead], -1)
        return values, columns

    def _labelled(
        self, found: NDArray[Any], x: xr.DataArray, places: Indices, one: bool, source: str, target: str,
        columns: list[Any],
    ) -> xr.DataArray:  # fmt: skip
        dims = ([] if one else ["head"]) + [target, *columns]
        shape = [found.shape[i] for i in range(1 if one else 2)] + [x.sizes[dim] for dim in columns]
        coordinates = {
            name: coordinate for name, coordinate in x.coords.items() if set(coordinate.dims) <= set(columns)
        }
        coordinates[target] = xr.Variable(
            target, self.queries if target == "query" else np.arange(self.shape[1]),
            {"long_name": "place in the document", "units": "token"},
        )  # fmt: skip
        if not one:
            coordinates["head"] = xr.Variable("head", np.array(self.heads)[places], {"long_name": "head index"})
        attributes = {"document_id": self.document, "kind": self.kind, "layer": self.layer}
        return xr.DataArray(found.reshape(shape), coordinates, dims, attrs=x.attrs | attributes)


def parse_columns(x: Any, source: str, size: int, heads: int, document: str) -> NDArray[Any]:
    """X of a product as contiguous float32 or float64, of a shape that fits; raises InputError.

    source: "query" or "key", of which there are `size`. heads: how many may have an X each, 0 for none.
    """
    try:
        values = np.asarray(x)
    except (TypeError, ValueError, RuntimeError, MemoryError) as error:  # of a range, say
        raise refuse(x, "x", "give an array of numbers") from error
    if values.dtype.kind not in "fiub" or values.dtype.itemsize > 8:
        raise refuse(x, "x", "give an array of numbers")
    fits = values.ndim in (1, 2, 3) and values.shape[-2 if values.ndim > 1 else 0] == size
    if not fits or (values.ndim == 3 and values.shape[0] != heads):
        expected = (
            f"({size},), ({size}, columns) or ({heads}, {size}, columns)"
            if heads
            else (f"({size},) or ({size}, columns)")
        )
        places = "queries" if source == "query" else "keys"
        raise InputError(f"x is of shape {values.shape}: {document!r} has {size} {places}, give {expected}")
    values = np.ascontiguousarray(values, dtype=np.float32 if values.dtype.itemsize == 2 else None)
    values = values if values.dtype in (np.float32, np.float64) else values.astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError("x holds NaN or Inf, which would reach queries that do not see them: fill or drop these")
    return values


def make_operator(atlas: Atlas, document: str, index: int, kind: str, layer: int) -> AttentionOperator:
    """See `Atlas.operator`."""
    from attlas.storage.page import check_weights

    check_weights(atlas.keep, "attention", document)
    rows = atlas.rows(kind, index)
    if not is_integer(layer):
        raise refuse(layer, "layer", f"the atlas has {describe_indices(list(rows.layers))}")
    if layer not in rows.layers:
        raise InputError(f"there is no layer {layer}: the atlas has {describe_indices(list(rows.layers))}")
    size = 4 * rows.features * (rows.queries * rows.heads + rows.keys * (int(rows.kv_place_H.max()) + 1))
    return AttentionOperator(
        document=document, kind=kind, layer=int(layer), heads=tuple(int(h) for h in atlas.column(f"{kind}/head")),
        queries=rows.position_Q,
        rows=rows if size <= KEPT_FACTORS else replace(rows, readers=atlas.bulk_readers),
    )  # fmt: skip
