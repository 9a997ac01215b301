"""The oracle of edits: the model's own eager attention, whose weights are edited by numpy in float64.

Written apart from the engine and in another way.

Suffixes: H heads, N queries, M keys.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

__all__ = ["edited_eagerly"]

Floats = NDArray[np.float64]
Change = Callable[[int, Floats], Floats]
"""Number of the attention call in the forward pass, weights (H, N, M) -> edited weights."""


@contextmanager
def edited_eagerly(model: PreTrainedModel, change: Change) -> Iterator[list[Floats]]:
    """Inside, every eager attention of the model goes through `change`; gives the edited weights of each call."""
    seen: list[Floats] = []
    modules = {sys.modules[type(one).__module__] for one in model.modules()}
    patched = [(one, one.eager_attention_forward) for one in modules if hasattr(one, "eager_attention_forward")]
    assert patched, "the family has an eager attention function of its own"

    def wrap(own: Any) -> Any:
        def forward(module: Any, query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> Any:
            _, a = own(module, query, key, value, *rest, **more)
            edited = change(len(seen), a[0].double().numpy())
            seen.append(edited)
            v_HMV = value[0].repeat_interleave(len(edited) // value.shape[1], dim=0).double()
            out = torch.from_numpy(edited) @ v_HMV
            return out.transpose(0, 1)[None].contiguous().to(value.dtype), torch.from_numpy(edited)[None].float()

        return forward

    try:
        for one, own in patched:
            one.eager_attention_forward = wrap(own)  # type: ignore[attr-defined]
        model.set_attn_implementation("eager")
        yield seen
    finally:
        for one, own in patched:
            one.eager_attention_forward = own  # type: ignore[attr-defined]
