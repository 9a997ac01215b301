"""The device a model runs on: how it is spelled, and whether this machine has it."""

from __future__ import annotations

import os
import re
from typing import Any

from attlas.errors import InputError
from attlas.parse import is_integer, refuse

__all__ = ["check_device", "check_threads", "model_device", "parse_device", "present_devices"]


def parse_device(given: Any) -> str:
    """ "auto", or torch's name of a device, from a str, a torch device or the number of a GPU; raises InputError.

    Whether a machine has it is another question, see `check_device`: the shards of a cluster run on other machines.
    """
    name = str(given).strip() if is_integer(given) or isinstance(given, str) or _is_device(given) else ""
    if (is_integer(given) or isinstance(given, str)) and re.fullmatch(r"[0-9]{1,4}", name):
        return f"cuda:{int(name)}"
    if isinstance(given, bool | bytes | None) or not re.fullmatch(r"auto|cpu|(cuda|mps|xpu)(:[0-9]{1,4})?", name):
        raise refuse(given, "device", f"use auto, or what this machine has: {', '.join(present_devices())}")
    return name


def _is_device(given: object) -> bool:
    import torch

    return isinstance(given, torch.device)


def check_device(name: str) -> str:
    """The device that "auto" stands for on this machine, or the one named; raises InputError where there is none."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    devices = present_devices()
    if name not in devices and not any(one.startswith(f"{name}:") for one in devices):
        raise InputError(f"there is no device {name} on this machine, which has {', '.join(devices)}: use one of these")
    return name


def check_threads(count: int | None) -> None:
    """Raise InputError where this machine has fewer cores than threads are asked for: torch would crash on many."""
    cores = os.cpu_count() or 1
    if count is not None and count > cores:
        raise InputError(f"{count} threads on a machine of {cores} cores: give at most as many threads")


def present_devices() -> tuple[str, ...]:
    """The devices of this machine by torch's names."""
    import torch

    found = ["cpu"]
    for kind in ("cuda", "xpu"):
        backend = getattr(torch, kind)
        found += [f"{kind}:{i}" for i in range(backend.device_count() if backend.is_available() else 0)]
    if torch.backends.mps.is_available():
        found.append("mps:0")
    return tuple(found)


def model_device(model: Any) -> str:
    """Where a model's first weights lie, by torch's name; "meta" where they lie nowhere."""
    return str(next((parameter.device for parameter in model.parameters()), "cpu"))
