"""What every worker does: load, warm up on 16 tokens, do the work once with the clock running, and say what it took.

    python WORKER.py MODEL IDS.npy OUTPUT HOW

Prints JSON lines: `ready` when the clock starts, then `done` or `failed`. A worker runs in its contender's own
environment, so nothing of attlas is imported here. Memory is the peak of resident memory while the clock ran, less
what was resident before: the loaded model is not counted.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Work", "run"]

Work: TypeAlias = Callable[[NDArray[np.int64], Path], None]
"""Does the work on these ids and writes into this folder, which exists."""

WARM_TOKENS = 16


def run(load: Callable[[str, str], Work]) -> None:
    """The whole of a worker. `load` is given the model's folder and how the work is to be done."""
    model, ids_file, output, how = sys.argv[1:]
    try:
        _measure(load, model, np.load(ids_file), Path(output), how)
    except Exception as error:  # whatever stops a contender is its row
        first = (str(error).strip().splitlines() or [""])[0]
        _say("failed", error=f"{type(error).__name__}: {first}", no_memory=_is_no_memory(error))
        raise


def _measure(load: Callable[[str, str], Work], model: str, ids: NDArray[np.int64], output: Path, how: str) -> None:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    work = load(model, how)
    warm = output / "warm"
    warm.mkdir(parents=True)
    work(ids[:WARM_TOKENS], warm)
    shutil.rmtree(warm)
    gc.collect()
    loaded = _reset_peak()
    _say("ready", loaded_bytes=loaded)
    begin = time.perf_counter()
    work(ids, output)
    seconds = time.perf_counter() - begin
    peak = _resident("VmHWM")
    written = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    _say("done", seconds=seconds, peak_bytes=max(0, peak - loaded), bytes_written=written)


def _reset_peak() -> int:
    """Bytes resident now; the kernel forgets the peak it has seen so far, which is that of loading."""
    Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


def _resident(field: str) -> int:
    """VmRSS: bytes resident now. VmHWM: their peak; getrusage's ru_maxrss would count the parent's before the exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) * 1024


def _is_no_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "allocate memory" in str(error)


def _say(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, "time": time.time(), **facts}), flush=True)
