"""TransformerLens: run_with_cache on the attention patterns, written to zarr layer after layer.

The bridge loads the model's own folder; no logits are computed but the last token's, and the model keeps no keys and
values, so that nothing is done which the maps do not need.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from maps import create_maps, write_layer
from numpy.typing import NDArray
from protocol import Work, run
from transformer_lens.model_bridge import TransformerBridge


def load(folder: str, how: str) -> Work:
    model = TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float32)
    layers, heads = model.cfg.n_layers, model.cfg.n_heads

    def work(ids: NDArray[np.int64], output: Path) -> None:
        with torch.inference_mode():
            _, cache = model.run_with_cache(
                torch.from_numpy(ids)[None],
                names_filter=lambda name: name.endswith("hook_pattern"),
                logits_to_keep=1,
                use_cache=False,
            )
        array = create_maps(output, layers, heads, len(ids))
        for layer in range(layers):
            write_layer(array, layer, cache["pattern", layer])

    return work


if __name__ == "__main__":
    run(load)
