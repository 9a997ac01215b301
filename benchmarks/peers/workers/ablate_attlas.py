"""attlas: the loss without each head, by `experiments.ablate_heads`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from protocol import Work, run
from transformers import AutoModelForCausalLM

from attlas import experiments


def load(folder: str, how: str) -> Work:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def work(ids: NDArray[np.int64], output: Path) -> None:
        found = experiments.ablate_heads(model, [ids.tolist()])
        np.save(output / "losses.npy", (found.loss_change + found.loss_unedited).values[0])

    return work


if __name__ == "__main__":
    run(load)
