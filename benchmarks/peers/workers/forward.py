"""The plain forward pass under SDPA, without a language-model head: what any capture costs at least."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from protocol import Work, run
from transformers import AutoModel


def load(folder: str, how: str) -> Work:
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()

    def work(ids: NDArray[np.int64], output: Path) -> None:
        with torch.inference_mode():
            model(input_ids=torch.from_numpy(ids)[None], use_cache=False)

    return work


if __name__ == "__main__":
    run(load)
