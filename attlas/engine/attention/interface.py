"""The capture point: one attention function, registered with transformers, through which every model passes.

It turns what a family hands to attention into an `AttentionCall` (factors, values, mask, score rule) and lets the
listener of the moment answer it. A listener is the probe or a runner.

Suffixes: H query heads, G kv heads, N queries, M keys, D features, V value features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from attlas.engine.attention.lazy_mask import LazyMask, lazy_mask
from attlas.engine.attention.position_bias import LazyBias, lazy_position_bias
from attlas.engine.attention.score_rule import ScoreRule
from attlas.errors import UnsupportedModelError

__all__ = ["IMPLEMENTATION", "AttentionCall", "Listener", "listening"]

IMPLEMENTATION = "attlas"

HARMLESS = frozenset(
    {
        "cache_position",
        "deterministic",
        "is_causal",
        "output_attentions",
        "output_hidden_states",
        "position_ids",
        "return_dict",
        "sliding_window",  # the mask twin carries the window; a model that passes one without a mask is caught below
        "use_cache",
    }
)
"""Arguments that do not change a score, or that the mask tells already."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionCall:
    """One layer's attention as the model asks for it.

    q_HND, k_GMD, v_GMV: after rotary and normalisation. mask: a LazyMask, or None where the model wants none.
    causal: with no mask, whether a query sees no later key.
    """

    module: nn.Module
    q_HND: torch.Tensor
    k_GMD: torch.Tensor
    v_GMV: torch.Tensor
    mask: LazyMask | None
    causal: bool
    rule: ScoreRule


class Listener(Protocol):
    """Answers attention calls. Returns the layer's output, (N, H, V) in the values' dtype."""

    def attend(self, call: AttentionCall) -> torch.Tensor: ...


_LISTENER: ContextVar[Listener] = ContextVar("attlas_listener")


@contextmanager
def listening(model: PreTrainedModel, listener: Listener) -> Iterator[None]:
    """Inside, every attention layer of `model` asks `listener`. The model's own implementation comes back after.

    The model is in eval mode meanwhile: dropout would make weights that no factor explains.
    """
    before, training = model.config._attn_implementation, model.training
    _set_implementation(model, IMPLEMENTATION)
    model.eval()
    token = _LISTENER.set(listener)
    try:
        with torch.inference_mode(), lazy_position_bias(model):
            yield
    finally:
        _LISTENER.reset(token)
        model.train(training)
        _set_implementation(model, before)


def _set_implementation(model: PreTrainedModel, name: str) -> None:
    model.set_attn_implementation(name)
    if model.config._attn_implementation != name:
        raise UnsupportedModelError(
            f"{type(model).__name__} ({model.config.model_type}) does not let its attention be set to {name!r}"
        )


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: query (1, H, N, D), key (1, G, M, D), value (1, G, M, V) -> (1, N, H, V)."""
    family = type(module).__name__
    listener = _LISTENER.get(None)
    if listener is None:
        raise RuntimeError(
            f"{family} was called with attention set to {IMPLEMENTATION!r} outside a capture; "
            "set it back with model.set_attn_implementation('sdpa')"
        )
    if query.shape[0] != 1:
        raise UnsupportedModelError(f"{family} was called with a batch of {query.shape[0]}; a capture has no batch")
    if query.shape[1] % key.shape[1]:
        raise UnsupportedModelError(f"{family} has {query.shape[1]} heads over {key.shape[1]} kv heads")
    if dropout:
        raise UnsupportedModelError(f"{family} applies dropout to its weights although the model is in eval mode")
    scaling = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    rule = _score_rule(family, query.shape[1], scaling, kwargs)
    causal = kwargs.get("is_causal")
    causal = bool(getattr(module, "is_causal", True)) if causal is None else bool(causal)
    if attention_mask is None and kwargs.get("sliding_window") is not None and query.shape[2] > 1:
        raise UnsupportedModelError(f"{family} has a sliding window but hands no mask on")
    if not (attention_mask is None or isinstance(attention_mask, LazyMask)):
        raise UnsupportedModelError(
            f"{family} builds its own mask ({type(attention_mask).__name__}), from which no key interval can be told"
        )
    out_NHV = listener.attend(
        AttentionCall(
            module=module,
            q_HND=query[0],
            k_GMD=key[0],
            v_GMV=value[0],
            mask=attention_mask,
            causal=causal,
            rule=rule,
        )
    )
    return out_NHV[None], None


def _score_rule(family: str, heads: int, scaling: float, kwargs: dict[str, Any]) -> ScoreRule:
    """Read the score rule from the call; refuse any argument whose meaning is not known."""
    given = {name: value for name, value in kwargs.items() if value is not None and name not in HARMLESS}
    softcap = given.pop("softcap", None)
    sinks = given.pop("s_aux", None)
    position_bias = given.pop("position_bias", None)
    if given:
        raise UnsupportedModelError(
            f"{family} gives its attention {', '.join(sorted(given))}, which may change the weights in a way that "
            "the score rule (scaling, softcap, window, position bias, sink logit) does not cover"
        )
    if position_bias is not None and not isinstance(position_bias, LazyBias):
        raise UnsupportedModelError(
            f"{family} adds a position bias of its own making ({type(position_bias).__name__}), "
            "not one that depends on the offset between key and query alone"
        )
    if sinks is not None and sinks.numel() != heads:
        raise UnsupportedModelError(f"{family} has {sinks.numel()} sink logits for {heads} heads")
    return ScoreRule(
        scaling=scaling,
        softcap=None if softcap is None else float(softcap),
        bias=None if position_bias is None else position_bias.bias,
        sink_H=None if sinks is None else sinks.detach().float().cpu().reshape(-1).numpy(),
    )


AttentionInterface.register(IMPLEMENTATION, _attention)
AttentionMaskInterface.register(IMPLEMENTATION, lazy_mask)
