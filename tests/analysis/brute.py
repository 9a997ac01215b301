"""Every statistic and role by brute force in float64 on dense maps, cell by cell or by numpy on whole maps.

Written from the definitions, sharing nothing with attlas but the row statistics' own oracle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests import oracle

Float = NDArray[np.float64]

REACH, LOCAL = 16, 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dense:
    """One document's maps of one layer and head: weights and visible cells (Q, K), token ids and separators of keys.

    query_place: where in the document each row stands.
    """

    a_QK: Float
    visible_QK: NDArray[np.bool_]
    ids_Q: NDArray[Any]
    ids_K: NDArray[Any]
    special_K: NDArray[np.bool_]
    separator_K: NDArray[np.bool_]
    same_axis: bool = True


def statistics(
    documents: list[Dense], *, thresholds: tuple[float, ...], levels: tuple[float, ...], longest: int
) -> dict[str, Any]:
    """name -> value of one head over all the documents' rows and visible cells."""
    rows: dict[str, list[Float]] = {}
    cells = np.concatenate([d.a_QK[d.visible_QK] for d in documents])
    for d in documents:
        found = oracle.row_statistics(d.a_QK, d.visible_QK, d.ids_Q, d.ids_K, d.special_K, same_axis=d.same_axis)
        visible = d.visible_QK.sum(1)
        found["support"] = np.exp(found["entropy"])
        found["normalised"] = np.where(visible > 1, found["entropy"] / np.log(np.maximum(visible, 2)), np.nan)
        total = d.a_QK.sum(1)
        keys = np.arange(d.a_QK.shape[1])
        mean = (d.a_QK * keys).sum(1) / total
        found["variance"] = (d.a_QK * (keys - mean[:, None]) ** 2).sum(1) / total
        for name, value in found.items():
            rows.setdefault(name, []).append(value)
    joined = {name: np.concatenate(value) for name, value in rows.items()}
    sizes = np.sort(cells)
    out: dict[str, Any] = {
        "entropy": joined["entropy"].mean(),
        "entropy_std": joined["entropy"].std(),
        "normalised_entropy": np.nanmean(joined["normalised"]),
        "effective_support": joined["support"].mean(),
        "gini": oracle.gini(cells),
        "sparsity": np.array([(cells < t).mean() for t in thresholds]),
        "weight_quantile": np.array(
            [sizes[min(int(np.ceil(level * len(sizes))) - 1, len(sizes) - 1)] for level in levels]
        ),
        "max_weight": cells.max(),
        "row_max": joined["max_weight"].mean(),
        "mean_weight": cells.mean(),
        "std_weight": cells.std(),
        "position_variance": joined["variance"].mean(),
        "first_weight": joined["first_weight"].mean(),
        "special_weight": joined["special_weight"].mean(),
    }
    if documents[0].same_axis:
        out |= {
            "mean_distance": joined["mean_distance"].mean(),
            "self_weight": joined["self_weight"].mean(),
            "previous_weight": joined["previous_weight"].mean(),
            "weight_by_distance": _by_distance(documents, longest),
        }
    return out


def _by_distance(documents: list[Dense], longest: int) -> Float:
    edges = [0, 1]
    while edges[-1] < longest:
        edges.append(2 * edges[-1])
    total, rows = np.zeros(len(edges) - 1), 0
    for d in documents:
        queries, keys = d.a_QK.shape
        away = np.abs(np.arange(queries)[:, None] - np.arange(keys))
        for t in range(len(total)):
            total[t] += d.a_QK[(away >= edges[t]) & (away < edges[t + 1])].sum()
        rows += queries
    return total / rows


def roles(documents: list[Dense], *, uniform: bool = False) -> dict[str, float]:
    """role -> score of one head; with `uniform`, of attention spread evenly over the visible keys."""
    sums: dict[str, list[float]] = {}
    offsets: dict[int, list[float]] = {o: [] for o in range(-REACH, REACH + 1)}
    argmax: list[int | None] = []
    for d in documents:
        a_QK = d.visible_QK / d.visible_QK.sum(1, keepdims=True) if uniform else d.a_QK
        for i in range(a_QK.shape[0]):
            seen = np.flatnonzero(d.visible_QK[i]).tolist()
            if len(seen) < 2:
                continue

            def put(role: str, keys: list[int], a_K: Float = a_QK[i]) -> None:
                sums.setdefault(role, []).append(float(sum(a_K[j] for j in keys)))

            marked = [j for j in seen if d.separator_K[j]]
            if marked:
                put("separator", marked)
            if 0 in seen and (i > 0 or not d.same_axis):
                put("sink", [0])
            if not d.same_axis:
                continue
            put("self", [j for j in seen if j == i])
            put("local", [j for j in seen if abs(j - i) <= LOCAL])
            if i - 1 in seen:
                put("previous", [i - 1])
            duplicates = [j for j in seen if j < i and d.ids_K[j] == d.ids_Q[i]]
            followers = [j for j in seen if 1 <= j <= i and d.ids_K[j - 1] == d.ids_Q[i]]
            if duplicates:
                put("duplicate", duplicates)
            if followers:
                put("induction", followers)
            for o in offsets:
                if i + o in seen:
                    offsets[o].append(float(a_QK[i, i + o]))
            best = int(np.argmax(np.where(d.visible_QK[i], a_QK[i], -1))) - i
            argmax.append(best if abs(best) <= REACH else None)
    out = {role: float(np.mean(values)) for role, values in sums.items()}
    if not documents[0].same_axis:
        return out
    choices = len(sums["self"])
    if offsets[1]:
        out["next"] = float(np.mean(offsets[1]))
    far = [float(np.mean(v)) for o, v in offsets.items() if abs(o) > 1 and len(v) >= 0.25 * choices and v]
    out["offset"] = max(far)
    if not uniform:
        out["positional"] = max(sum(b == o for b in argmax) for o in offsets) / choices
    return out


def cosine(a_HQK: list[Any]) -> Float:
    """(H, H) cosine similarity of heads over all cells of all documents: a_HQK of each."""
    flat = np.concatenate([np.reshape(a, (len(a), -1)) for a in a_HQK], axis=1).astype(np.float64)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(unit @ unit.T)
