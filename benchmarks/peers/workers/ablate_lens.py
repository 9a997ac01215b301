"""TransformerLens: run_with_hooks a head, whose hook zeroes it in hook_z."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from protocol import Work, run
from transformer_lens.model_bridge import TransformerBridge


def load(folder: str, how: str) -> Work:
    model = TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float32)
    layers, heads = model.cfg.n_layers, model.cfg.n_heads

    def work(ids: NDArray[np.int64], output: Path) -> None:
        given, losses = torch.from_numpy(ids)[None], np.zeros((layers, heads))
        for layer in range(layers):
            for head in range(heads):

                def zeroed(z: torch.Tensor, hook: Any, head: int = head) -> torch.Tensor:
                    each = (z if z.ndim == 4 else z.unflatten(-1, (heads, -1))).clone()
                    each[:, :, head] = 0
                    return each.reshape(z.shape)

                with torch.inference_mode():
                    logits = model.run_with_hooks(
                        given,
                        return_type="logits",
                        fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zeroed)],
                        use_cache=False,
                    )
                losses[layer, head] = float(torch.nn.functional.cross_entropy(logits[0, :-1], given[0, 1:]))
        np.save(output / "losses.npy", losses)

    return work


if __name__ == "__main__":
    run(load)
