"""Reading a model's weights: safetensors or gguf, whole and of the shapes that its class needs, onto a device."""

from __future__ import annotations

import logging as python_logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from attlas.engine.model.adapter import find_adapter
from attlas.engine.model.device import check_device, parse_device
from attlas.engine.model.dtype import parse_dtype
from attlas.engine.model.source import check_source, unreadable
from attlas.errors import InputError, NoMemoryError

__all__ = ["DTYPES", "Placement", "read_model"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WEIGHTS_SHARE = 0.75
"""Of a GPU's memory, what weights may take where the rest of them is offloaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where accelerate puts weights that do not fit on one device. max_memory: device ("cpu", or a GPU's number) ->
    bytes; what is beyond stays on disk. offload_folder: for weights that have to be written anew to be read from disk.
    """

    max_memory: dict[int | str, int]
    offload_folder: str

    @classmethod
    def of(cls, device: str, cpu_bytes: int, offload_folder: str) -> Placement:
        """On a GPU as much as leaves room to work, then `cpu_bytes` in this machine's memory, then disk."""
        max_memory: dict[int | str, int] = {}
        if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
            number = torch.device("cuda" if device == "auto" else device).index or 0
            max_memory[number] = int(torch.cuda.mem_get_info(number)[1] * WEIGHTS_SHARE)
        max_memory["cpu"] = cpu_bytes
        return cls(max_memory=max_memory, offload_folder=offload_folder)


def read_model(
    cls: Any,
    name: str,
    where: dict[str, Any],
    config: PreTrainedConfig,
    dtype: str,
    device: str,
    placement: Placement | None = None,
) -> PreTrainedModel:
    """A model of a class of transformers, from files that are looked at before.

    where: as of `source_arguments`, for `name`. Raises InputError where files are damaged or do not fit the class.
    """
    device = check_device(parse_device(device))
    is_gguf = "gguf_file" in where
    wanted: Any = DTYPES.get(parse_dtype(dtype), torch.float32 if is_gguf else "auto")
    placed: dict[str, Any] = {}
    if placement is not None:
        Path(placement.offload_folder).mkdir(parents=True, exist_ok=True)
        placed = {
            "device_map": "auto",
            "max_memory": placement.max_memory,
            "offload_folder": placement.offload_folder,
            "offload_state_dict": True,
        }
    if find_adapter(name, where.get("revision")) is not None:  # which transformers would apply by itself
        raise InputError(f"{name} is an adapter too: give the model that it was made for as base_model_name_or_path")
    try:
        check_source(name, where.get("revision"))
        with _quiet():
            model, report = cls.from_pretrained(
                **where,
                config=config,
                dtype=wanted,
                use_safetensors=None if is_gguf else True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told below, by name
                **placed,
            )
    except torch.OutOfMemoryError as error:
        raise NoMemoryError(f"{name} does not fit on {device}: use --offload, --shards or --dtype bfloat16") from error
    except Exception as error:  # foreign files, which may make transformers raise anything
        raise unreadable(name, error) from error
    _check_complete(name, model, report)
    if placement is None:
        torch.nn.Module.to(model, device)  # transformers' own `to` is typed for its models alone
    found: PreTrainedModel = model
    return found


def _check_complete(name: str, model: PreTrainedModel, report: Mapping[str, Any]) -> None:
    """Raise InputError where weights would be random: those a checkpoint lacks, or has in another shape.

    A pooler works on the last hidden state, after all attention: random weights in it change nothing here.
    """
    wrong = sorted(tuple(one) for one in report["mismatched_keys"])
    if wrong:
        key, has, needs = wrong[0]
        raise InputError(
            f"{name} has {key} in the shape {tuple(has)}, and its class {type(model).__name__} needs {tuple(needs)}"
            + (f"; {len(wrong) - 1} more weights do not fit" if len(wrong) > 1 else "")
            + ": config.json and weights are of two models; fetch both again"
        )
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        raise InputError(
            f"{name} lacks weights that its class {type(model).__name__} needs ({', '.join(missing[:3])}"
            + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            + "): they would be random; give a complete checkpoint"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' loading bar and report, and accelerate's remarks, off the screen; what matters is checked."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    accelerate = python_logging.getLogger("accelerate")
    level = accelerate.level
    accelerate.setLevel(python_logging.ERROR)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        accelerate.setLevel(level)
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
