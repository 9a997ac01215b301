"""The machine a benchmark ran on, as a value: what two reports must have in common to be compared."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

__all__ = ["Machine", "find_machine", "usable_cores"]

LIBRARIES = ("attlas", "torch", "transformers", "numpy", "numba", "zarr", "xarray", "dask", "ray", "accelerate")
IN_MEMORY = frozenset({"tmpfs", "ramfs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """cores: those that this process may use; cores_physical: of the machine. Memory in bytes.

    load: processes that wanted a core when it began, mean of a minute: what else ran here. disk: file system of the
    folder that stores were written to. torch_threads: of this process. time: UTC.
    """

    cpu: str
    cores: int
    cores_physical: int
    memory: int
    gpus: tuple[str, ...]
    system: str
    python: str
    libraries: Mapping[str, str]
    torch_threads: int
    disk: str
    load: float
    time: str

    @property
    def disk_is_memory(self) -> bool:
        """Whether the folder lies in memory, where nothing is ever read cold."""
        return self.disk.partition(" ")[0] in IN_MEMORY


def find_machine(folder: Path) -> Machine:
    """This machine, as it is now. folder: where the stores of the benchmark lie."""
    return Machine(
        cpu=_cpu(),
        cores=usable_cores(),
        cores_physical=psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        memory=psutil.virtual_memory().total,
        gpus=tuple(_gpu(i) for i in range(torch.cuda.device_count())),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        libraries={name: found for name in LIBRARIES if (found := _version(name)) is not None},
        torch_threads=torch.get_num_threads(),
        disk=_disk(folder),
        load=round(psutil.getloadavg()[0], 2),
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def usable_cores() -> int:
    """Cores that the scheduler may give to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _gpu(number: int) -> str:
    found = torch.cuda.get_device_properties(number)
    return f"{found.name}, {found.total_memory / 1e9:.0f} GB"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _disk(folder: Path) -> str:
    """File system and device of the mount that holds the folder."""
    where = folder.resolve()
    mounts = [m for m in psutil.disk_partitions(all=True) if where.is_relative_to(m.mountpoint)]
    if not mounts:
        return "unknown"
    best = max(mounts, key=lambda mount: len(mount.mountpoint))
    return f"{best.fstype} on {best.device}"
