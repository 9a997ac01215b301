"""Row statistics by brute force in float64, as DESIGN defines them: one document, one head, positions from 0."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


def row_statistics(
    a_QK: Any, visible_QK: Any, ids_Q: Any, ids_K: Any, special_K: Any, *, same_axis: bool = True
) -> dict[str, Float]:
    """name -> (Q,) for weights a_QK, cell by cell. same_axis False: cross-attention, whose keys are another text."""
    rows, keys = np.shape(a_QK)
    names = ["entropy", "max_weight", "argmax_key", "first_weight", "squared_sum", "special_weight", "sink_residual"]
    if same_axis:
        names += ["self_weight", "previous_weight", "mean_distance", "duplicate_weight", "induction_weight"]
    out = {name: np.zeros(rows) for name in names}
    for i in range(rows):
        best = -1.0
        out["sink_residual"][i] = 1.0
        for j in range(keys):
            if not visible_QK[i, j]:
                continue
            a = float(a_QK[i, j])
            out["entropy"][i] -= a * np.log(a) if a > 0 else 0.0
            out["squared_sum"][i] += a * a
            out["sink_residual"][i] -= a
            out["special_weight"][i] += a if special_K[j] else 0.0
            out["first_weight"][i] += a if j == 0 else 0.0
            if a > best:
                best, out["argmax_key"][i], out["max_weight"][i] = a, j, a
            if same_axis:
                out["self_weight"][i] += a if j == i else 0.0
                out["previous_weight"][i] += a if j == i - 1 else 0.0
                out["mean_distance"][i] += a * abs(i - j)
                out["duplicate_weight"][i] += a if j < i and ids_K[j] == ids_Q[i] else 0.0
                out["induction_weight"][i] += a if 1 <= j <= i and ids_K[j - 1] == ids_Q[i] else 0.0
    return out


def head_gram(a_HQK: Any) -> Float:
    """(H, H): sum over cells of the product of two heads' weights."""
    heads = len(a_HQK)
    return np.array([[float((a_HQK[h] * a_HQK[g]).sum()) for g in range(heads)] for h in range(heads)])


def gini(weights: Any) -> float:
    """Gini coefficient of any numbers that are not negative, from their order."""
    a = np.sort(np.asarray(weights, dtype=np.float64).ravel())
    cells = len(a)
    return float(2 * (np.arange(1, cells + 1) * a).sum() / (cells * a.sum()) - (cells + 1) / cells)
