"""A folder that holds an adapter (LoRA and its kin) and names the model it was made for."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils.hub import cached_file

from attlas.engine.model.device import model_device
from attlas.engine.model.files import check_weights, read_json
from attlas.engine.model.source import source_arguments
from attlas.errors import InputError, UnsupportedModelError, first_line

__all__ = ["Adapter", "apply_adapter", "base_source", "find_adapter", "head_class"]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What peft puts before the names of a model's own modules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter's folder, and `base`: the model it was made for, a folder or a hub id."""

    folder: Path
    base: str


def find_adapter(source: str | Path, revision: str | None = None) -> Adapter | None:
    """The adapter that lies at a place; None where there is none. Raises InputError where it is damaged.

    Its weights must be safetensors, and its configuration may name no module to be imported.
    """
    where = source_arguments(source, revision)
    folder = Path(where["pretrained_model_name_or_path"])
    if "gguf_file" in where:
        return None
    if not folder.is_dir():
        found = _from_hub(where)
        if found is None:
            return None
        folder = found
    if not (folder / CONFIG).is_file():
        return None
    settings = read_json(folder / CONFIG)
    base = settings.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise InputError(f"{folder / CONFIG} names no base_model_name_or_path: write the model it was made for there")
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        raise InputError(
            f"{folder} has no {WEIGHTS}"
            + (", and a pickle (adapter_model.bin) is never loaded, since it can run code" if pickled else "")
            + ": save the adapter with save_pretrained"
        )
    if any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        raise InputError(
            f"{folder} holds a model and an adapter of it: which is meant? Put each in a folder of its own"
        )
    if settings.get("megatron_config") is not None:
        raise UnsupportedModelError(
            f"{folder / CONFIG} names a module to be imported (megatron), which attlas never does"
        )
    check_weights(folder / WEIGHTS)
    if (folder / base).is_dir():  # of a folder that was moved as a whole; an absolute base stands for itself
        base = str(folder / base)
    if (Path(base) / CONFIG).is_file():
        raise InputError(f"{base} is an adapter too: give the model that it was made for as base_model_name_or_path")
    return Adapter(folder=folder, base=base)


def _from_hub(where: dict[str, Any]) -> Path | None:
    arguments = {key: value for key, value in where.items() if key != "pretrained_model_name_or_path"}
    arguments["_raise_exceptions_for_missing_entries"] = False
    arguments["_raise_exceptions_for_connection_errors"] = False
    name = where["pretrained_model_name_or_path"]
    try:
        found = cached_file(name, CONFIG, **arguments)
        if found is not None:
            cached_file(name, WEIGHTS, **arguments)
    except (OSError, ValueError):  # no such repository: told when its configuration is asked for
        return None
    return None if found is None else Path(found).parent


def base_source(source: str | Path, revision: str | None = None) -> tuple[str | Path, str | None]:
    """Where the weights of a model lie, and in which revision: the base of an adapter, else the place itself."""
    adapter = find_adapter(source, revision)
    return (source, revision) if adapter is None else (adapter.base, None)


def head_class(adapter: Adapter, config: PreTrainedConfig) -> Any:
    """The class of transformers that an adapter's weights were made for: their names begin with one of its parts.

    An adapter made for a model with a head names its layers otherwise than one made for the model alone.
    """
    keys = [key.removeprefix(PREFIX) for key in _stored(adapter)]
    named = (read_json(adapter.folder / CONFIG).get("auto_mapping") or {}).get("base_model_class")
    for name in (named, *(config.architectures or ())):
        cls = getattr(transformers, str(name), None)
        if isinstance(cls, type) and issubclass(cls, PreTrainedModel) and cls.config_class is type(config):
            with torch.device("meta"):
                children = dict(cls(config).named_children())
            if all(key.partition(".")[0] in children for key in keys):
                return cls
    return AutoModel


def apply_adapter(adapter: Adapter, base: PreTrainedModel) -> Any:
    """The peft model of an adapter over its base, which it changes. Raises InputError where the two do not fit."""
    if importlib.util.find_spec("peft") is None:
        raise InputError(f"{adapter.folder} is an adapter, which takes the package peft: pip install peft")
    import peft

    fault = f"the adapter {adapter.folder} does not fit {adapter.base}"
    remedy = "give the folder of the model that it was made for as base_model_name_or_path"
    try:
        model = peft.PeftModel.from_pretrained(base, str(adapter.folder), torch_device=model_device(base))
        kept = peft.get_peft_model_state_dict(model)
    except Exception as error:  # foreign files, which may make peft raise anything
        raise InputError(f"{fault}: {first_line(error)} -- {remedy}") from error
    odd = sorted(_stored(adapter) ^ set(kept))
    if odd:
        more = f" and {len(odd) - 1} more weights" if len(odd) > 1 else ""
        raise InputError(f"{fault}: {odd[0]}{more} are in one and not in the other -- {remedy}")
    return model.eval()


def _stored(adapter: Adapter) -> set[str]:
    with safe_open(adapter.folder / WEIGHTS, framework="numpy") as tensors:
        return set(tensors.keys())
