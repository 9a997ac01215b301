"""The sizes of a model from its configuration alone.

The model is built on the meta device, where tensors have shapes and no bytes, so that a plan for a model of any size
takes seconds and no memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from attlas.engine.model.dtype import parse_dtype
from attlas.engine.model.shard import meta_model
from attlas.engine.model.support import check_supported, interface_modules
from attlas.engine.model.weights import DTYPES
from attlas.errors import UnsupportedModelError

__all__ = ["LayerShape", "ModelShape", "model_shape", "shape_of", "with_offload"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """Sizes of one attention layer. features are those of q and k, value_features those of v."""

    heads: int
    kv_heads: int
    features: int
    value_features: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What the plan knows of a model: `layers` in order, weights in bytes at `dtype`, widths in features.

    vocabulary: tokens that a head tells apart.
    chunkable: every layer calls itself causal, so that a document can be run in query chunks; a probe knows for sure.
    """

    model_class: str
    model_type: str
    dtype: str
    parameters: int
    weight_bytes: int
    hidden: int
    intermediate: int
    layers: tuple[LayerShape, ...]
    chunkable: bool
    vocabulary: int = 0


def model_shape(config: PreTrainedConfig, *, dtype: str = "auto") -> ModelShape:
    """Build the model on the meta device and read its sizes; raises UnsupportedModelError as a capture would."""
    model = meta_model(config)
    check_supported(model)
    return shape_of(model, dtype=dtype)


def shape_of(model: PreTrainedModel, *, dtype: str = "auto") -> ModelShape:
    """The sizes of a model, loaded or on the meta device; dtype "auto": as its configuration says."""
    config = model.config
    name = parse_dtype((getattr(config, "dtype", None) or torch.float32) if dtype == "auto" else dtype)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    text = config.get_text_config()
    modules = interface_modules(model).values()
    return ModelShape(
        model_class=type(model).__name__,
        model_type=config.model_type,
        dtype=name,
        parameters=parameters,
        weight_bytes=parameters * DTYPES[name].itemsize,
        hidden=int(text.hidden_size),
        intermediate=_intermediate(text),
        layers=tuple(_layer_shape(model, module) for module in modules),
        vocabulary=int(getattr(text, "vocab_size", 0) or 0),
        chunkable=not config.is_encoder_decoder and all(getattr(module, "is_causal", True) for module in modules),
    )


def _intermediate(text: PreTrainedConfig) -> int:
    for field in ("intermediate_size", "ffn_dim", "n_inner", "d_ff", "hidden_dim", "encoder_ffn_dim"):
        value = getattr(text, field, None)
        if isinstance(value, int):
            return value
    return 4 * int(text.hidden_size)


def _layer_shape(model: PreTrainedModel, module: torch.nn.Module) -> LayerShape:
    """Head counts and sizes, from the module where it says them and from the configuration where it does not."""
    config = getattr(module, "config", None) or model.config.get_text_config()
    heads = _first(module, config, "num_heads", "num_attention_heads", "n_heads")
    if heads is None:
        raise UnsupportedModelError(f"{type(module).__name__} does not say how many heads it has")
    width = int(config.hidden_size) // heads
    features = _first(module, config, "qk_head_dim", "head_dim", "key_value_proj_dim", "attention_head_size") or width
    groups = getattr(module, "num_key_value_groups", None)
    kv_heads = heads // int(groups) if groups else _first(module, config, "num_key_value_heads") or heads
    values = _first(module, config, "v_head_dim") or features
    return LayerShape(heads=heads, kv_heads=kv_heads, features=features, value_features=values)


def _first(module: torch.nn.Module, config: PreTrainedConfig, *fields: str) -> int | None:
    for holder in (module, config):
        for field in fields:
            value = getattr(holder, field, None)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
    return None


def with_offload(shape: ModelShape, offload: int | None) -> ModelShape:
    """A model's sizes where only `offload` bytes of its weights stay in memory."""
    return shape if offload is None else replace(shape, weight_bytes=min(shape.weight_bytes, offload))
