"""The door to the kernels: what everyone asks of attention, and the one place that chooses which kernel answers.

On the CPU, output and log-sum-exp come from torch's fused attention where it knows the score rule, else from the CPU
kernel's online softmax; row statistics and the operator from the CPU kernels' compiled passes. On CUDA one Triton
kernel gives output and statistics. The operator, histogram and head Gram matrix on CUDA, row statistics without a slot,
and everything on other devices, come from the reference.

Suffixes: H query heads, G kv heads, N query rows, M keys, V value features; h and n those that are measured.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.kernels import cpu, operator_cpu, operator_reference, reference, sdpa
from attlas.engine.kernels.discard import Discard
from attlas.engine.kernels.measure import TILE_BYTES, Attended, Measure, RowStatistics
from attlas.engine.kernels.problem import Problem
from attlas.engine.kernels.row_statistics import STATISTICS
from attlas.engine.kernels.survey import Survey, SurveyMeasure
from attlas.engine.kernels.survey import survey as cpu_survey
from attlas.engine.kernels.threads import alone

__all__ = ["apply", "apply_transposed", "attend", "device_tile", "statistics", "survey", "weights"]

Indices = NDArray[np.int64]

HAS_TRITON = importlib.util.find_spec("triton") is not None

DEVICE_TILE_BYTES, DEVICE_SHARE = 2**30, 16
"""A score tile on a GPU, and at most this part of its free memory; about eight are held at once."""

SMALL_PRODUCTS = 2**24
"""So many multiplications are done within the time that it takes to wake torch's other threads."""


def weights(
    problem: Problem, lse_HN: torch.Tensor, *, key_M: Indices | None = None, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Exact weights (H, N, M), float32, of every row on every key; see `reference.weights`."""
    products = problem.heads * problem.rows * problem.keys * problem.features
    if problem.device.type == "cpu" and products <= SMALL_PRODUCTS:
        return alone(lambda: reference.weights(problem, lse_HN, key_M=key_M, out=out))
    return reference.weights(problem, lse_HN, key_M=key_M, out=out)


def attend(problem: Problem, v_GMV: torch.Tensor, measure: Measure) -> Attended:
    """A layer's output (N, H, V), in the values' dtype, for all heads and rows; log-sum-exp and row statistics of the
    measured ones, (h, n), float32."""
    heads, rows = measure.heads, measure.rows
    everywhere = heads is None and rows is None
    attended = _output(problem, v_GMV, measure if everywhere else replace(measure, names=()))
    found, part = attended.rows, problem
    if not everywhere:
        part, lse_HN = problem.of(heads, rows), found.lse_HN
        lse_HN = lse_HN if heads is None else lse_HN[heads]
        found = RowStatistics(lse_HN=lse_HN if rows is None else lse_HN[:, rows])
    if measure.anything and part.rows:
        found = _measured(part, found, measure)
    return replace(attended, rows=found)


def statistics(problem: Problem, lse_HN: torch.Tensor, measure: Measure) -> RowStatistics:
    """Row statistics (H, N), float32, of all of a problem's rows, whose log-sum-exp (H, N), float32, is known."""
    return _measured(problem, RowStatistics(lse_HN=lse_HN), measure)


def survey(problem: Problem, lse_HN: torch.Tensor, measure: SurveyMeasure) -> Survey:
    """Everything that analyses ask of rows whose log-sum-exp (H, N) is known; on the CPU."""
    fast, slow = _by_slot(measure.names)
    found = cpu_survey(problem, lse_HN, replace(measure, names=fast))
    if slow:
        by_reference = reference.row_statistics(problem, Measure(names=slow, tile_bytes=measure.tile_bytes))
        found.rows_HN.update({name: value.numpy() for name, value in by_reference.statistics.items()})
    return found


def apply(
    problem: Problem,
    lse_HN: torch.Tensor,
    x: torch.Tensor,
    *,
    mean: bool = False,
    discard: Discard | None = None,
    tile_bytes: int = TILE_BYTES,
) -> torch.Tensor:
    """A @ X of each head, (H, N, C), or, with `mean`, of the mean of the heads, (N, C), in the dtype of X.

    lse_HN: the rows' log-sum-exp. x: (M, C), shared by the heads, or (H, M, C), one a head, float32 or float64, on the
    problem's device. A row may see no key at all. discard: from the mean of the heads, whose X they then share.
    Memory: see the kernels; a tile of `tile_bytes`, or of one row.
    """
    kernel = operator_cpu if problem.device.type == "cpu" else operator_reference
    tile_bytes = device_tile(problem, tile_bytes)
    return kernel.apply(problem, lse_HN, x, mean=mean, discard=discard, tile_bytes=tile_bytes)


def apply_transposed(
    problem: Problem,
    lse_HN: torch.Tensor,
    x: torch.Tensor,
    *,
    mean: bool = False,
    discard: Discard | None = None,
    tile_bytes: int = TILE_BYTES,
) -> torch.Tensor:
    """A.T @ X of each head, (H, M, C), or, with `mean`, of the mean of the heads, (M, C); x: (N, C) or (H, N, C). The
    rest as `apply`."""
    kernel = operator_cpu if problem.device.type == "cpu" else operator_reference
    tile_bytes = device_tile(problem, tile_bytes)
    return kernel.apply_transposed(problem, lse_HN, x, mean=mean, discard=discard, tile_bytes=tile_bytes)


def _output(problem: Problem, v_GMV: torch.Tensor, measure: Measure) -> Attended:
    """Output and log-sum-exp, and with them the statistics that one pass gives beside."""
    if _triton(problem, v_GMV):
        from attlas.engine.kernels import cuda  # triton is made for Linux alone, and is heavy

        return cuda.attend(problem, v_GMV, _by_slot(measure.names)[0])
    if problem.device.type != "cpu":
        return reference.attend(problem, v_GMV, replace(measure, histogram=False, head_gram=False))
    if sdpa.supports(problem, v_GMV):
        return sdpa.attend(problem, v_GMV)
    return cpu.attend(problem, v_GMV, tile_bytes=measure.tile_bytes)


def _measured(problem: Problem, found: RowStatistics, measure: Measure) -> RowStatistics:
    """Add to what was found what it lacks of the measure."""
    lacking = tuple(name for name in measure.names if name not in found.statistics)
    fast, slow = _by_slot(lacking)
    if problem.device.type == "cpu":
        if fast or measure.histogram or measure.head_gram:
            found = cpu.row_statistics(problem, found.lse_HN, replace(measure, names=fast))
        measure = replace(measure, histogram=False, head_gram=False)
    elif fast and _triton(problem, problem.k_GMD):
        from attlas.engine.kernels import cuda

        # the kernel finds statistics beside an output: with the keys for values, one that nobody takes
        found = replace(found, statistics=found.statistics | cuda.attend(problem, problem.k_GMD, fast).rows.statistics)
    else:
        slow = lacking
    rest = replace(measure, names=slow, tile_bytes=device_tile(problem, measure.tile_bytes))
    if rest.anything:
        more = reference.row_statistics(problem, rest)
        found = replace(
            found,
            statistics=found.statistics | more.statistics,
            histogram_HB=found.histogram_HB if more.histogram_HB is None else more.histogram_HB,
            head_gram_HH=found.head_gram_HH if more.head_gram_HH is None else more.head_gram_HH,
        )
    return replace(found, statistics={name: found.statistics[name] for name in measure.names})


def device_tile(problem: Problem, tile_bytes: int) -> int:
    """On a GPU a larger tile than the default, of what memory is free: small ones leave it waiting for each launch."""
    if problem.device.type != "cuda" or tile_bytes < TILE_BYTES:  # lowered by who is short of memory
        return tile_bytes
    free, _ = torch.cuda.mem_get_info(problem.device)
    return max(tile_bytes, min(DEVICE_TILE_BYTES, free // DEVICE_SHARE))


def _by_slot(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The statistics that the fast kernels compute, and those that are left to the reference."""
    fast = tuple(name for name in names if STATISTICS[name].slot is not None)
    return fast, tuple(name for name in names if name not in fast)


def _triton(problem: Problem, v_GMV: torch.Tensor) -> bool:
    """Whether the Triton kernel computes it."""
    if problem.device.type != "cuda" or not HAS_TRITON:
        return False
    from attlas.engine.kernels import cuda

    return cuda.supports(problem, v_GMV)
