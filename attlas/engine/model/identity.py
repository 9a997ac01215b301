"""What an atlas was made with: a model's name, class and dtype, and a digest of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedConfig, PreTrainedModel

from attlas.errors import InputError

__all__ = ["ModelIdentity", "identity_of", "loaded_identity", "weight_digests"]


FINGERPRINT_SAMPLES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """What an atlas was made with; two captures may share an atlas only where all of it is equal.

    weights: a hash over every weight's digest, see `weight_digests`. part: of a model of several parts, the one that
    was captured, by its qualified name.
    """

    name: str
    revision: str | None
    model_class: str
    model_type: str
    dtype: str
    weights: str
    parameters: int
    part: str | None = None


def weight_digests(model: PreTrainedModel) -> dict[str, tuple[str, int]]:
    """For each weight its hash, over name, shape, dtype and FINGERPRINT_SAMPLES evenly spaced values, and its size.

    A pooler is left out: it plays no part, and is random where a checkpoint has none. Weights that accelerate keeps
    elsewhere are read from there; a quantised weight is what it is made of. What else decides what a model computes,
    such as which of its adapters is switched on, is a digest of its own, of size 0. Nothing of the model is changed.
    """
    found = {}
    for key, stored in sorted(model.state_dict().items()):
        if "pooler" in key:
            continue
        is_elsewhere = isinstance(stored, torch.Tensor) and stored.device.type == "meta"
        value = _offloaded(model, key) if is_elsewhere else stored
        told = f"{key} {tuple(value.shape)} {stored.dtype}" if isinstance(value, torch.Tensor) else key
        digest, count = hashlib.sha256(told.encode()), 0
        for kind, part in _contents(value):
            if isinstance(part, torch.Tensor):
                digest.update(_samples(part))
                count += part.numel()
            digest.update(kind.encode())
        found[key] = (digest.hexdigest(), count)
    return found | _settings(model)


def _contents(value: Any) -> Iterator[tuple[str, Any]]:
    """The plain tensors and values that an entry of a model's state is made of, each with what tells it apart.

    A plain tensor has nothing to tell, so that its digest is of its values alone.
    """
    if is_traceable_wrapper_subclass(value):  # torchao's, and DTensor: the scales, zero points and integers within
        names, context = value.__tensor_flatten__()
        yield f"{type(value).__name__} {context}", None
        for name in names:
            yield from _contents(getattr(value, name))
    elif isinstance(value, torch.Tensor):
        if value.is_quantized:
            yield f"{value.qscheme()}", value.detach().dequantize()
        else:
            yield "", value.detach()
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield f"{key}", None
            yield from _contents(value[key])
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _contents(one)
    elif hasattr(value, "unpack") or type(value).__name__ == "ScriptObject":  # torch's packed integers, weight and bias
        yield from _contents(value.__getstate__())
    else:
        yield repr(value), None


def _samples(tensor: torch.Tensor) -> bytes:
    flat = tensor.reshape(-1)
    places = np.unique(np.linspace(0, max(flat.numel() - 1, 0), min(FINGERPRINT_SAMPLES, flat.numel()), dtype=int))
    return flat[torch.from_numpy(places).to(flat.device)].double().cpu().numpy().tobytes()


def _settings(model: PreTrainedModel) -> dict[str, tuple[str, int]]:
    """Digests of what modules from elsewhere than torch and transformers are set to, and of hooks from elsewhere.

    An adapter's layer keeps its weights when it is switched off, scaled or merged: only its own fields tell.
    """
    found = {}
    for name, module in model.named_modules():
        told = [
            f"{key}={_plain(value)}" for key, value in sorted(vars(module).items()) if _is_setting(module, key, value)
        ]
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        told += [f"hook {place}" for hook in hooks if not _is_known(place := _place(hook))]
        if told:
            found[f"{name} settings"] = (hashlib.sha256(" ".join(told).encode()).hexdigest(), 0)
    return found


def _is_setting(module: torch.nn.Module, key: str, value: Any) -> bool:
    if _is_known(type(module).__module__) or key == "training" or key in vars(torch.nn.Module()):
        return False
    return _plain(value) is not None


def _plain(value: Any) -> str | None:
    """A value that says itself (numbers, names, and what is made of them); None for any other."""
    if value is None or isinstance(value, bool | int | float | str | torch.dtype):
        return repr(value)
    if isinstance(value, Mapping):
        inner = [f"{key!r}: {_plain(value[key])}" for key in sorted(value, key=str)]
    elif isinstance(value, set | frozenset):
        inner = sorted(str(_plain(one)) for one in value)
    elif isinstance(value, list | tuple):
        inner = [str(_plain(one)) for one in value]
    else:
        return None
    return f"{type(value).__name__}({', '.join(inner)})"


def _place(function: Any) -> str:
    inner = getattr(function, "func", function)  # functools.partial
    return f"{getattr(inner, '__module__', '')}.{getattr(inner, '__qualname__', type(inner).__qualname__)}"


def _is_known(place: str) -> bool:
    return place.split(".")[0] in {"torch", "transformers", "accelerate", "attlas"}


def identity_of(
    name: str, revision: str | None, cls: type[PreTrainedModel], config: PreTrainedConfig, dtype: str,
    digests: Mapping[str, tuple[str, int]], *, part: str | None = None,
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
        part=part,
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


def loaded_identity(
    name: str, revision: str | None, model: PreTrainedModel, *, part: str | None = None
) -> ModelIdentity:
    digests = weight_digests(model)
    return identity_of(name, revision, type(model), model.config, str(model.dtype), digests, part=part)
