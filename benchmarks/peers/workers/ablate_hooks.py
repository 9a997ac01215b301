"""What is written by hand: a hook that zeroes one head before the output projection, a whole forward pass a head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from protocol import Work, run
from transformers import AutoModelForCausalLM


def load(folder: str, how: str) -> Work:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads

    def loss(ids: torch.Tensor) -> float:
        logits = model(ids[None], use_cache=False).logits[0, :-1]
        return float(torch.nn.functional.cross_entropy(logits, ids[1:]))

    def work(ids: NDArray[np.int64], output: Path) -> None:
        given, losses = torch.from_numpy(ids), np.zeros((layers, heads))
        for layer in range(layers):
            for head in range(heads):

                def zeroed(_: Any, inputs: tuple[torch.Tensor], head: int = head) -> tuple[torch.Tensor]:
                    each = inputs[0].clone().unflatten(-1, (heads, -1))
                    each[..., head, :] = 0
                    return (each.flatten(-2),)

                hook = model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(zeroed)
                with torch.inference_mode():
                    losses[layer, head] = loss(given)
                hook.remove()
        np.save(output / "losses.npy", losses)

    return work


if __name__ == "__main__":
    run(load)
