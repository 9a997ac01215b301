"""The gradients of one layer's weights or scores as a linear map, by products with the weights alone.

With G = dL/dA, G[i, j] = dO[i] . v[j] over the value features d:
(A * G) X = sum over d of dO[:, d] A (v[:, d] X), and its transpose sum over d of v[:, d] A.T (dO[:, d] X).

Suffixes: N queries, M keys, V value features, C columns of X.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attlas.parse import parse_choice
from attlas.storage.gradients import GRADIENTS

if TYPE_CHECKING:
    from attlas.storage.operator import AttentionOperator, Heads

__all__ = ["GradientOperator"]

Floats = NDArray[np.float64]

COLUMN_BYTES = 64 * 2**20
"""Of the columns times value features that go through the weights together, float64."""


@dataclass(frozen=True, slots=True, eq=False)
class GradientOperator:
    """One of a page's gradients, of one layer, document and kind, as a linear map from keys to queries.

    >>> graded = attlas.capture("demo", "one two, one two", "memory://graded-map", gradients="next_token")
    >>> gradient = graded.operator("doc-0", 1).gradient("attention_x_gradient")
    >>> gradient.apply_transposed(np.ones(17), head=0).shape
    (17,)

    name: "attention_gradient", "attention_x_gradient" or "score_gradient", as of the page. Made by
    `AttentionOperator.gradient`. Costs as many products with A as there are value features, for each column of X.
    """

    operator: AttentionOperator
    name: str

    def __post_init__(self) -> None:
        parse_choice(self.name, "name", tuple(GRADIENTS))

    def apply(self, x: Any, head: Heads = None) -> Floats:
        """The map @ X, float64. x, head, shapes and errors as of `AttentionOperator.apply`, arrays without labels."""
        return self._product(x, head, forward=True)

    def apply_transposed(self, x: Any, head: Heads = None) -> Floats:
        """The transpose @ X, float64; as of `AttentionOperator.apply_transposed`."""
        return self._product(x, head, forward=False)

    def _product(self, x: Any, head: Heads, *, forward: bool) -> Floats:
        from attlas.storage.operator import parse_columns

        operator = self.operator
        places, mean = operator.head_places(head)
        queries, keys = operator.shape
        size, source = (keys, "key") if forward else (queries, "query")
        one = isinstance(head, int | np.integer)
        values = parse_columns(x, source, size, 0 if one or mean else len(places), operator.document)
        flat = values.ndim == 1
        columns = values[:, None] if flat else values
        made = np.stack([
            self._of_head(int(place), (columns[number] if columns.ndim == 3 else columns).astype(np.float64), forward)
            for number, place in enumerate(places)
        ])  # fmt: skip
        made = made.mean(axis=0) if mean else made[0] if one else made
        return made[..., 0] if flat else made

    def _of_head(self, place: int, x_SC: Floats, forward: bool) -> Floats:
        """(targets, C); S the sources."""
        grad_NV, v_MV = self._factors(place)
        step = max(1, COLUMN_BYTES // (8 * v_MV.shape[1] * max(len(grad_NV), len(v_MV))))
        parts = [x_SC[:, begin : begin + step] for begin in range(0, x_SC.shape[1], step)]
        if self.name == "attention_gradient":
            return np.concatenate([self._unweighed(part, grad_NV, v_MV, forward) for part in parts], axis=1)
        return np.concatenate([self._weighed(place, part, grad_NV, v_MV, forward) for part in parts], axis=1)

    def _weighed(self, place: int, x_SC: Floats, grad_NV: Floats, v_MV: Floats, forward: bool) -> Floats:
        operator, head = self.operator, self.operator.heads[place]
        inner, outer = (v_MV, grad_NV) if forward else (grad_NV, v_MV)
        product = operator.apply if forward else operator.apply_transposed
        spread = (inner[:, :, None] * x_SC[:, None, :]).reshape(len(x_SC), -1)
        carried = product(spread, head).reshape(len(outer), inner.shape[1], -1)
        made: Floats = np.einsum("tv,tvc->tc", outer, carried)
        if self.name == "score_gradient":
            mean_N1 = (grad_NV * operator.apply(v_MV, head)).sum(axis=1)[:, None]
            made -= mean_N1 * product(x_SC, head) if forward else product(mean_N1 * x_SC, head)
        return made

    def _unweighed(self, x_SC: Floats, grad_NV: Floats, v_MV: Floats, forward: bool) -> Floats:
        """Of dO . v inside each row's key interval, by differences of running sums along the keys."""
        operator = self.operator
        start_N, stop_N = operator.rows.intervals(
            operator.rows.layers.index(operator.layer), np.arange(operator.shape[0])
        )
        if forward:
            run = _running(v_MV[:, :, None] * x_SC[:, None, :])
            return np.asarray(np.einsum("nv,nvc->nc", grad_NV, run[stop_N] - run[start_N]))
        edges = np.zeros((operator.shape[1] + 1, grad_NV.shape[1], x_SC.shape[1]))
        spread = grad_NV[:, :, None] * x_SC[:, None, :]
        np.add.at(edges, start_N, spread)
        np.subtract.at(edges, stop_N, spread)
        return np.asarray(np.einsum("mv,mvc->mc", v_MV, edges.cumsum(axis=0)[:-1]))

    def _factors(self, place: int) -> tuple[Floats, Floats]:
        """dO (N, V) and v (M, V) of a head."""
        rows, head = self.operator.rows, np.array([place])
        layer = rows.layers.index(self.operator.layer)
        grad_1NV = rows.output_gradient(layer, head, np.arange(rows.queries))
        v_1MV = rows.values_of(layer, head, np.arange(rows.keys))
        return grad_1NV[0].double().numpy(), v_1MV[0].double().numpy()


def _running(x: Floats) -> Floats:
    """Sums of the first 0, 1, 2, ... along the first axis."""
    return np.concatenate([np.zeros((1, *x.shape[1:])), x.cumsum(axis=0)])
