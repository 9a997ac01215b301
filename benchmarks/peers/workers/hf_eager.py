"""transformers' eager attention, written to zarr.

HOW: `whole`: output_attentions=True, then layer after layer written; the way its documentation shows.
`hooked`: a forward hook on each attention module writes the layer's weights and drops them, so that one layer's are
held at a time; what someone who has met the memory limit writes next. `reference`: as `whole`, in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from maps import create_maps, write_layer
from numpy.typing import NDArray
from protocol import Work, run
from transformers import AutoModel


def load(folder: str, how: str) -> Work:
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads

    def whole(ids: NDArray[np.int64], output: Path) -> None:
        with torch.inference_mode():
            made = model(input_ids=torch.from_numpy(ids)[None], use_cache=False, output_attentions=True).attentions
        array = create_maps(output, layers, heads, len(ids), "float32" if how == "reference" else "float16")
        for layer, weights in enumerate(made):
            write_layer(array, layer, weights)

    def hooked(ids: NDArray[np.int64], output: Path) -> None:
        array = create_maps(output, layers, heads, len(ids))

        def writes(layer: int) -> Callable[[Any, Any, Any], Any]:
            def hook(module: Any, inputs: Any, made: Any) -> Any:
                write_layer(array, layer, made[1])
                return made[0], None

            return hook

        hooks = [block.self_attn.register_forward_hook(writes(i)) for i, block in enumerate(model.layers)]
        try:
            with torch.inference_mode():
                model(input_ids=torch.from_numpy(ids)[None], use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()

    return hooked if how == "hooked" else whole


if __name__ == "__main__":
    run(load)
