"""The capture point: one attention function, registered with transformers, through which every model passes.

It turns what a family hands to attention into an `AttentionCall` (factors, values, mask, score rule) and asks the
listeners of the moment: one computes, the others record, edit or keep what passes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel

from attlas.engine.attention.call import AttentionCall, Computing, Listener, Placing
from attlas.engine.attention.lazy_mask import LazyMask, lazy_mask
from attlas.engine.attention.position_bias import LazyBias, lazy_position_bias
from attlas.engine.attention.score_rule import ScoreRule
from attlas.engine.listeners.compute import Compute
from attlas.errors import InputError, UnsupportedModelError

__all__ = ["IMPLEMENTATION", "attending", "held", "own_attention"]

IMPLEMENTATION = "attlas"

HARMLESS = frozenset(
    {
        "cache_position",
        "deterministic",
        "is_causal",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_ids",
        "return_dict",
        "sliding_window",  # the mask twin carries the window; a model that passes one without a mask is caught below
        "use_cache",
    }
)
"""Arguments that do not change a score, or that the mask tells already."""


@dataclass(frozen=True, slots=True, eq=False)
class _Listeners:
    """Those who listen to one model, and whether it may drop weights."""

    around: tuple[Listener, ...]
    placing: Placing | None
    computing: Computing
    train: bool

    @classmethod
    def of(cls, listeners: tuple[Listener, ...], train: bool) -> _Listeners:
        placing = [one for one in listeners if isinstance(one, Placing)]
        computing = [one for one in listeners if isinstance(one, Computing)]
        for what, some in (("computes", computing), ("places", placing)):
            if len(some) > 1:
                raise InputError(
                    f"{len(some)} listeners want to be the one that {what} "
                    f"({', '.join(type(one).__name__ for one in some)}): give one of them"
                )
        return cls(listeners, next(iter(placing), None), next(iter(computing), Compute()), train)

    def answer(self, call: AttentionCall) -> torch.Tensor:
        """The layer's output, (N, H, V)."""
        call = call.alone() if self.placing is None else self.placing.place(call)
        seen = []
        for one in self.around:
            call = one.before(call)
            seen.append(call)
        attended = self.computing.compute(call)
        for one, its_call in zip(reversed(self.around), reversed(seen), strict=True):
            attended = one.after(its_call, attended)
        return attended.out_NHV


_LISTENERS: ContextVar[_Listeners] = ContextVar("attlas_listeners")
_LOCKS: WeakKeyDictionary[PreTrainedModel, threading.RLock] = WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


@contextmanager
def attending(model: PreTrainedModel, *listeners: Listener, grad: bool = False, train: bool = False) -> Iterator[None]:
    """Inside, every attention layer of `model` asks the listeners, nested as given; see `Listener`.

    At most one of them computes, and at most one places the calls in a passage: without, the kernels compute, and the
    model's input is one document alone. grad: autograd is on, also under a caller's inference mode; inputs made under
    that must be made anew. A backward pass belongs inside too where it runs layers again, as checkpoints do.
    train: the model is in train mode, dropout on; else in eval mode.

    Whatever happens, all the model's settings come back after. A second thread that asks for the same model waits: the
    settings lie in the model object. Raises UnsupportedModelError where the model cannot be set, InputError where two
    listeners want to compute.
    """
    asked = _Listeners.of(listeners, train)
    with _set_to(model, IMPLEMENTATION, train=train), lazy_position_bias(model), ExitStack() as stack:
        token = _LISTENERS.set(asked)
        stack.callback(_LISTENERS.reset, token)
        stack.enter_context(torch.inference_mode(not grad))
        if grad:
            stack.enter_context(torch.enable_grad())
            # checkpoints run layers again in the backward pass: in this thread, which knows the listeners
            stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        yield


@contextmanager
def held(model: PreTrainedModel) -> Iterator[None]:
    """Inside, this thread alone has the model; others that ask for it wait."""
    with _lock_of(model):
        yield


@contextmanager
def own_attention(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model runs under its own eager attention, in eval mode and without gradients."""
    with _set_to(model, "eager", train=False), torch.inference_mode():
        yield


@contextmanager
def _set_to(model: PreTrainedModel, implementation: str, *, train: bool) -> Iterator[None]:
    """Inside, this thread alone has the model, with this attention and mode; its own of every part come back after."""
    with _lock_of(model):
        settings = [(config, config._attn_implementation_internal) for config in _configs(model)]
        modes = [(module, module.training) for module in model.modules()]
        try:
            model.set_attn_implementation(implementation)
            if model.config._attn_implementation != implementation:
                raise UnsupportedModelError(
                    f"{type(model).__name__} ({model.config.model_type}) does not let its attention be set to "
                    f"{implementation!r}"
                )
            model.train(train)
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for config, before in settings:
                config._attn_implementation_internal = before


def _lock_of(model: PreTrainedModel) -> threading.RLock:
    """One lock for a model, with its head or without."""
    base = model.base_model
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(base if isinstance(base, PreTrainedModel) else model, threading.RLock())


def _configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """Every configuration that holds an attention setting, each once."""
    found: dict[int, PreTrainedConfig] = {}
    waiting = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    while waiting:
        config = waiting.pop()
        if id(config) not in found:
            found[id(config)] = config
            parts = (getattr(config, name, None) for name in config.sub_configs)
            waiting += [part for part in parts if isinstance(part, PreTrainedConfig)]
    return list(found.values())


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
    listeners = _LISTENERS.get(None)
    if listeners is None:
        raise RuntimeError(
            f"{family} was called with attention set to {IMPLEMENTATION!r} outside a capture; "
            "set it back with model.set_attn_implementation('sdpa')"
        )
    if query.shape[0] != 1:
        raise UnsupportedModelError(f"{family} was called with a batch of {query.shape[0]}; a capture has no batch")
    if query.shape[1] % key.shape[1]:
        raise UnsupportedModelError(f"{family} has {query.shape[1]} heads over {key.shape[1]} kv heads")
    if dropout and not listeners.train:
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
    out_NHV = listeners.answer(
        AttentionCall(
            module=module,
            q_HND=query[0],
            k_GMD=key[0],
            v_GMV=value[0],
            mask=attention_mask,
            causal=causal,
            rule=rule,
            dropout=float(dropout),
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
