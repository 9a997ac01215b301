"""attlas.capture of a model object that is loaded already. HOW: the tier to keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from protocol import Work, run

import attlas
from attlas.engine.model.load import load_model
from attlas.engine.model.positions import position_limit


def load(folder: str, how: str) -> Work:
    loaded = load_model(folder, dtype="float32", device="cpu")
    limit = position_limit(loaded.config, 0)

    def work(ids: NDArray[np.int64], output: Path) -> None:
        beyond = limit is not None and len(ids) > limit
        attlas.capture(loaded.model, [ids.tolist()], output / "atlas.zarr", keep=how, extrapolate=beyond)

    return work


if __name__ == "__main__":
    run(load)
