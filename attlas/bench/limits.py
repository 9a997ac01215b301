"""What the machine allows, measured: matmul throughput, and the bandwidth of the disk that stores are written to.

Suffixes: H heads, N query tokens, M key tokens, D features.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

__all__ = ["DiskSpeed", "Limits", "drop_caches", "matmul_speed", "measure_disk", "measure_limits", "synced"]

TILE, TILE_HEADS = 1024, 8
SQUARE = 1536
MATMUL_SECONDS = 0.25
PIECE = 8 * 2**20
DISK_BYTES = 128 * 2**20
DISK_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpeed:
    """Bytes a second, one file, sequentially, median of three. write: until the disk has it (fsync).

    read_cold: dropped from the page cache before; read_warm: from the page cache.
    """

    write: float
    read_cold: float
    read_warm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """qk_flops: multiply-adds x 2 a second of q @ k.T, tiles of 1,024 x 1,024 at the head size `features`.

    matmul_flops: of square matrices, what the model's weights run at. device, dtype, threads: those of the model.
    """

    qk_flops: float
    matmul_flops: float
    features: int
    dtype: str
    device: str
    threads: int
    disk: DiskSpeed | None = None


def measure_limits(
    *, features: int, dtype: torch.dtype, device: str, folder: Path | None, disk_bytes: int = DISK_BYTES
) -> Limits:
    """Measure them now, in a second or two. folder: on the disk in question; None: leave the disk out."""
    return Limits(
        qk_flops=matmul_speed(TILE, features, TILE, heads=TILE_HEADS, dtype=dtype, device=device),
        matmul_flops=matmul_speed(SQUARE, SQUARE, SQUARE, heads=1, dtype=dtype, device=device),
        features=features,
        dtype=str(dtype).removeprefix("torch."),
        device=device,
        threads=torch.get_num_threads(),
        disk=None if folder is None else measure_disk(folder, size=disk_bytes),
    )


def matmul_speed(rows: int, inner: int, columns: int, *, heads: int, dtype: torch.dtype, device: str) -> float:
    """Floating-point operations a second of (heads, rows, inner) @ (heads, inner, columns), the best of many."""
    torch.manual_seed(0)
    q_HND = torch.randn(heads, rows, inner, device=device).to(dtype)
    k_HMD = torch.randn(heads, columns, inner, device=device).to(dtype)
    out_HNM = torch.empty(heads, rows, columns, device=device, dtype=dtype)
    wait: Callable[[], None] = torch.cuda.synchronize if device.startswith("cuda") else lambda: None

    def once() -> float:
        wait()
        begin = time.perf_counter()
        torch.matmul(q_HND, k_HMD.transpose(1, 2), out=out_HNM)
        wait()
        return time.perf_counter() - begin

    with torch.inference_mode():
        once()
        best, ends = once(), time.perf_counter() + MATMUL_SECONDS
        while time.perf_counter() < ends:
            best = min(best, once())
    return 2.0 * heads * rows * inner * columns / best


def measure_disk(folder: Path, *, size: int = DISK_BYTES) -> DiskSpeed:
    """Write and read one file of `size` bytes in `folder`; it is removed again."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bandwidth.bin"
    piece = np.random.default_rng(0).bytes(min(PIECE, size))
    count = max(1, size // len(piece))
    write, cold, warm = [], [], []
    try:
        for _ in range(DISK_ROUNDS):
            path.unlink(missing_ok=True)
            begin = time.perf_counter()
            with open(path, "wb", buffering=0) as file:
                for _ in range(count):
                    file.write(piece)
                os.fsync(file.fileno())
            write.append(time.perf_counter() - begin)
            drop_caches(path)
            cold.append(_read(path))
            warm.append(_read(path))
    finally:
        path.unlink(missing_ok=True)
    total = count * len(piece)
    middle = [total / float(np.median(times)) for times in (write, cold, warm)]
    return DiskSpeed(write=middle[0], read_cold=middle[1], read_warm=middle[2])


def _read(path: Path) -> float:
    buffer = bytearray(PIECE)
    begin = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - begin


def synced(folder: Path) -> None:
    """Have the disk take everything that lies under the folder."""
    for path in _files(folder):
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def drop_caches(place: Path) -> None:
    """Have the page cache forget a file, or all files under a folder. Needs no rights; does nothing on a tmpfs."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in _files(place):
        with open(path, "rb") as file:
            os.fsync(file.fileno())  # what is not written yet cannot be forgotten
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _files(place: Path) -> list[Path]:
    return [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
