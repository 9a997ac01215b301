"""An edit as the compiled passes take it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attlas.engine.edit import noise
from attlas.engine.edit.edit import Edit
from attlas.engine.kernels import edited_passes as passes
from attlas.engine.kernels.edited_cpu import Change

__all__ = ["change_of"]

Indices = NDArray[np.int64]

REST = {"none": passes.NONE, "rest": passes.REST, "scores": passes.SCORES, None: passes.NONE}


def change_of(
    edit: Edit, layer: int, heads: Indices, key_in_M: NDArray[np.bool_], query_N: Indices, first: int
) -> Change:
    """key_in_M: the keys that it is of. query_N: the rows' places in their document, whose first key is `first`."""
    action, value = passes.SCALE, 0.0
    if edit.do == "scale":
        assert edit.factor is not None
        value = edit.factor
    elif edit.do == "temperature":
        assert edit.temperature is not None
        action, value = passes.TEMPERATURE, edit.temperature
    elif edit.do == "noise":
        assert edit.size is not None
        action, value = passes.NOISE_SCORES if edit.on == "scores" else passes.NOISE_WEIGHTS, edit.size
    elif edit.do != "zero":
        action = {
            "knock_out": passes.KNOCK_OUT, "drop_top": passes.DROP_TOP, "drop_random": passes.DROP_RANDOM
        }[edit.do]  # fmt: skip
    drawn = edit.do in ("noise", "drop_random")
    row_HN = noise.row_states(edit.seed or 0, layer, heads, query_N) if drawn else np.empty((0, 0), dtype=np.uint64)
    return Change(
        action=action, value=value, rest=REST[edit.renormalise], key_in_M=key_in_M.astype(np.float32),
        offsets=None if edit.offset is None else np.array(edit.offset), query_N=query_N.astype(np.int64), first=first,
        row_HN=row_HN, top=edit.top or 0, share=edit.share or 0.0, by_count=edit.match == "count",
    )  # fmt: skip
