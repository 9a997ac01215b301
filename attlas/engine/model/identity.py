"""What an atlas was made with: a model's name, class and dtype, and a digest of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from attlas.errors import InputError

__all__ = ["ModelIdentity", "identity_of", "loaded_identity", "weight_digests"]


FINGERPRINT_SAMPLES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """What an atlas was made with; two captures may share an atlas only where all of it is equal.

    weights: a hash over every weight's digest, see `weight_digests`.
    """

    name: str
    revision: str | None
    model_class: str
    model_type: str
    dtype: str
    weights: str
    parameters: int


def weight_digests(model: PreTrainedModel) -> dict[str, tuple[str, int]]:
    """For each weight its hash, over name, shape, dtype and FINGERPRINT_SAMPLES evenly spaced values, and its size.

    A pooler is left out: it plays no part, and is random where a checkpoint has none. Weights that accelerate keeps
    elsewhere are read from there.
    """
    found = {}
    for key, parameter in sorted(model.state_dict().items()):
        if "pooler" in key:
            continue
        value = _offloaded(model, key) if parameter.device.type == "meta" else parameter
        flat = value.detach().reshape(-1)
        places = np.unique(np.linspace(0, max(flat.numel() - 1, 0), min(FINGERPRINT_SAMPLES, flat.numel()), dtype=int))
        samples = flat[torch.from_numpy(places).to(flat.device)].double().cpu().numpy().tobytes()
        digest = hashlib.sha256(f"{key} {tuple(value.shape)} {parameter.dtype}".encode() + samples)
        found[key] = (digest.hexdigest(), flat.numel())
    return found


def identity_of(
    name: str, revision: str | None, cls: type[PreTrainedModel], config: PreTrainedConfig, dtype: str,
    digests: Mapping[str, tuple[str, int]],
) -> ModelIdentity:  # fmt: skip
    """The identity of a model whose weights, of all its shards together, have these digests."""
    together = hashlib.sha256("".join(f"{key} {digests[key][0]} " for key in sorted(digests)).encode())
    return ModelIdentity(
        name=name,
        revision=revision,
        model_class=cls.__name__,
        model_type=config.model_type,
        dtype=dtype.removeprefix("torch."),
        weights=together.hexdigest(),
        parameters=sum(count for _, count in digests.values()),
    )


def _offloaded(model: PreTrainedModel, key: str) -> torch.Tensor:
    path, _, name = key.rpartition(".")
    hook: Any = getattr(model.get_submodule(path), "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        weights = getattr(one, "weights_map", None)
        if weights is not None:
            value: torch.Tensor = weights[name]
            return value
    raise InputError(f"the weight {key} lies neither on a device nor where accelerate keeps it: load the model again")


def loaded_identity(name: str, revision: str | None, model: PreTrainedModel) -> ModelIdentity:
    return identity_of(name, revision, type(model), model.config, str(model.dtype), weight_digests(model))
