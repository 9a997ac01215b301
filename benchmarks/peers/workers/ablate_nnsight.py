"""nnsight: a trace a head, in which a part of the output projection's input is zeroed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from nnsight import TransformersModel
from numpy.typing import NDArray
from protocol import Work, run


def load(folder: str, how: str) -> Work:
    model = TransformersModel(folder, task="text-generation", device_map="cpu", dispatch=True, dtype=torch.float32)
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    size = model.config.head_dim

    def work(ids: NDArray[np.int64], output: Path) -> None:
        given, losses = torch.from_numpy(ids)[None], np.zeros((layers, heads))
        for layer in range(layers):
            for head in range(heads):
                with torch.inference_mode(), model.trace(given, use_cache=False):
                    model.model.layers[layer].self_attn.o_proj.input[..., head * size : (head + 1) * size] = 0
                    logits = model.lm_head.output.save()
                losses[layer, head] = float(torch.nn.functional.cross_entropy(logits[0, :-1], given[0, 1:]))
        np.save(output / "losses.npy", losses)

    return work


if __name__ == "__main__":
    run(load)
