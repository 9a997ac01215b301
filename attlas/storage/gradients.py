"""The gradient of a target with respect to every weight, and to every score, cell by cell from the factors.

With v and the gradient dO of a head's output: dL/dA[i, j] = dO[i] . v[j], and before the softmax
dL/ds[i, j] = A[i, j] (dL/dA[i, j] - sum over j' of A[i, j'] dL/dA[i, j']).

Suffixes: H query heads, G kv heads, Q queries, K keys, V value features.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.storage.lazy import WORKING_BYTES, DocumentRows, LazyArray, LazyAttention

__all__ = ["GRADIENTS", "LazyGradient"]

Indices = NDArray[np.int64]
Floats = NDArray[np.float32]

GRADIENTS = {
    "attention_gradient": "gradient of the target with respect to the weight, 0 where the query may not see the key",
    "attention_x_gradient": "weight times the gradient with respect to it",
    "score_gradient": "gradient of the target with respect to the score before the softmax",
}
"""Lazy arrays of a page, by name."""


class LazyGradient(LazyArray):
    """One of GRADIENTS (layer, head, query, key) of one document, float32."""

    def __init__(self, rows: DocumentRows, name: str) -> None:
        self.rows, self.name, self.weights = rows, name, LazyAttention(rows)
        self.shape = self.weights.shape
        self.dtype = np.dtype(np.float32)

    def compute(self, chosen: list[Indices]) -> Floats:
        """The chosen cells, in blocks of rows whose weights over all keys fit WORKING_BYTES."""
        layers, heads, queries, keys = chosen
        out = np.zeros(tuple(len(part) for part in chosen), dtype=np.float32)
        if out.size == 0:
            return out
        span = self.rows.keys if self.name == "score_gradient" else len(keys)
        step = max(1, WORKING_BYTES // (4 * 4 * max(1, span)))
        for i, layer in enumerate(layers):
            start_Q, stop_Q = self.rows.intervals(int(layer), queries)
            seen = np.flatnonzero((keys >= start_Q.min()) & (keys < stop_Q.max()))
            if seen.size == 0:
                continue
            for j, head in enumerate(heads):
                v_KV = self._values(int(layer), int(head), keys[seen])
                for begin in range(0, len(queries), step):
                    at = slice(begin, begin + step)
                    grad_QV = self._output_gradient(int(layer), int(head), queries[at])
                    made_QK = (grad_QV @ v_KV.T).numpy()
                    if self.name == "attention_gradient":
                        inside_QK = (keys[seen] >= start_Q[at, None]) & (keys[seen] < stop_Q[at, None])
                        made_QK *= inside_QK
                    else:
                        if self.name == "score_gradient":
                            made_QK -= self._row_means(int(layer), int(head), queries[at], grad_QV)[:, None]
                        made_QK *= self._weights(int(layer), int(head), queries[at], keys[seen])
                    out[i, j, at, seen[0] : seen[-1] + 1] = made_QK if _is_run(seen) else _spread(made_QK, seen)
        return out

    def _weights(self, layer: int, head: int, queries: Indices, keys: Indices) -> Floats:
        return self.weights.compute([np.array([layer]), np.array([head]), queries, keys])[0, 0]

    def _values(self, layer: int, head: int, keys: Indices) -> torch.Tensor:
        """(K, V), float32."""
        return self.rows.values_of(layer, np.array([head]), keys)[0].float()

    def _output_gradient(self, layer: int, head: int, queries: Indices) -> torch.Tensor:
        """(Q, V), float32."""
        return self.rows.output_gradient(layer, np.array([head]), queries)[0].float()

    def _row_means(self, layer: int, head: int, queries: Indices, grad_QV: torch.Tensor) -> Floats:
        """(Q,): of each row the sum over all keys of weight times gradient, which is dO . O."""
        start_Q, stop_Q = self.rows.intervals(layer, queries)
        keys = np.arange(int(start_Q.min()), int(stop_Q.max()))
        a_QK = torch.from_numpy(self._weights(layer, head, queries, keys))
        out_QV = a_QK @ self._values(layer, head, keys)
        return np.asarray((out_QV * grad_QV).sum(1).numpy())


def _is_run(places: Indices) -> bool:
    return bool(places[-1] - places[0] + 1 == len(places))


def _spread(made_QK: Floats, seen: Indices) -> Floats:
    """The columns at their places, 0 between them."""
    out = np.zeros((len(made_QK), int(seen[-1] - seen[0]) + 1), dtype=np.float32)
    out[:, seen - seen[0]] = made_QK
    return out
