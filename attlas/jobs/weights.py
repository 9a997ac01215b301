"""The weights themselves of a block's rows, for questions that no pass of a kernel sums for them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attlas.engine.kernels.door import weights
from attlas.jobs.blocks import Block
from attlas.jobs.load import BlockRows, Source, load_problem, load_rows

__all__ = ["block_weights"]


def block_weights(source: Source, block: Block) -> tuple[NDArray[np.float32], BlockRows]:
    """(H, R, M) weights of the block's rows on the keys from `rows.low` on, 0 where a row does not see; and the rows.

    Memory: H x R x M float32, so it is for blocks of a few rows, or of documents that are not long.
    """
    rows = load_rows(source, block)
    problem, lse_HR = load_problem(source, block, rows)
    return weights(problem, lse_HR).numpy(), rows
