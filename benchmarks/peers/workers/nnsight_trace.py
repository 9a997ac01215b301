"""nnsight: one trace that saves every layer's attention weights, written to zarr layer after layer.

No logits are computed but the last token's, and the model keeps no keys and values, so that nothing is done which the
maps do not need.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from maps import create_maps, write_layer
from nnsight import TransformersModel
from numpy.typing import NDArray
from protocol import Work, run


def load(folder: str, how: str) -> Work:
    model = TransformersModel(
        folder,
        task="text-generation",
        attn_implementation="eager",
        device_map="cpu",
        dispatch=True,
        dtype=torch.float32,
    )
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads

    def work(ids: NDArray[np.int64], output: Path) -> None:
        with torch.inference_mode(), model.trace(torch.from_numpy(ids)[None], use_cache=False, logits_to_keep=1):
            made = [].save()
            for block in model.model.layers:
                made.append(block.self_attn.output[1])
        array = create_maps(output, layers, heads, len(ids))
        for layer, weights in enumerate(made):
            write_layer(array, layer, weights)

    return work


if __name__ == "__main__":
    run(load)
