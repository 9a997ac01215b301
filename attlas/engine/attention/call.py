"""One layer's attention as the model asks for it, and what may stand around its answer.

Suffixes: H query heads, G kv heads, N queries, M keys, D features, V value features.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from attlas.engine.attention.lazy_mask import LazyMask
from attlas.engine.attention.score_rule import ScoreRule
from attlas.engine.kernels.measure import Attended, Measure
from attlas.engine.kernels.problem import Problem, TokenFacts

if TYPE_CHECKING:
    from attlas.engine.passage.chunk_rows import ChunkRows

__all__ = ["AttentionCall", "Computing", "Listener", "Placing"]

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionCall:
    """One attention call of one layer.

    q_HND, k_GMD, v_GMV: after rotary and normalisation. mask: a LazyMask, or None where the model wants none.
    causal: with no mask, whether a query sees no later key. dropout: share of the weights that the model asks to have
    zeroed; 0 but under `attending(train=True)`.

    Known once the call is placed: start_N, stop_N: each row's key interval, in indices into the M keys, which are then
    all that the rows may see, earlier chunks' too. tokens: what is known of them. chunk: the rows' place in a passage;
    None for a document alone. measure: what the listeners around want measured beside the output.
    """

    module: nn.Module
    q_HND: torch.Tensor
    k_GMD: torch.Tensor
    v_GMV: torch.Tensor
    mask: LazyMask | None
    causal: bool
    rule: ScoreRule
    dropout: float = 0.0
    start_N: Indices | None = None
    stop_N: Indices | None = None
    tokens: TokenFacts | None = None
    chunk: ChunkRows | None = None
    measure: Measure = field(default_factory=Measure)

    def problem(self) -> Problem:
        """A call that is placed, as the kernels take it."""
        assert self.start_N is not None, "a call is placed before a listener sees it"
        assert self.stop_N is not None
        assert self.tokens is not None
        return Problem(
            q_HND=self.q_HND, k_GMD=self.k_GMD, rule=self.rule, start_N=self.start_N, stop_N=self.stop_N,
            tokens=self.tokens,
        )  # fmt: skip

    def alone(self) -> AttentionCall:
        """The call placed as that of a document alone, told from its mask and shape; its tokens are not known.

        Raises UnsupportedModelError where the mask is not an interval of keys.
        """
        queries, keys = self.q_HND.shape[1], self.k_GMD.shape[1]
        own_N = np.arange(queries)
        if queries != keys:
            if self.mask is not None:
                self.mask.check_full(queries, keys)
            start_N, stop_N = np.zeros(queries, dtype=np.int64), np.full(queries, keys)
        elif self.mask is not None:
            start_N, stop_N = self.mask.intervals(own_N, np.full(queries, keys))
        else:
            start_N, stop_N = np.zeros(queries, dtype=np.int64), own_N + 1 if self.causal else np.full(queries, keys)
        if self.rule.bias is not None:
            self.rule.bias.check_reach(int((start_N - own_N).min()), int((stop_N - own_N).max()) - 1)
        tokens = TokenFacts.of_places(queries, keys, own_N if queries == keys else None)
        return replace(self, start_N=start_N, stop_N=stop_N, tokens=tokens)


class Listener:
    """Stands around every attention call of a model: sees or changes what is asked, then what is answered.

    `before` runs from the first listener to the last, then one computes, and `after` runs from the last to the first,
    each with the call as its own `before` handed it on: what stands outside of an edit sees the model's call unedited.
    """

    def before(self, call: AttentionCall) -> AttentionCall:
        """The call to go on with."""
        return call

    def after(self, call: AttentionCall, attended: Attended) -> Attended:
        """The answer to go on with; `attended.out_NHV` is (N, H, V) in the values' dtype."""
        return attended


@runtime_checkable
class Placing(Protocol):
    """A listener that knows where the rows of a call lie, and fills in its key intervals and tokens."""

    def place(self, call: AttentionCall) -> AttentionCall: ...


@runtime_checkable
class Computing(Protocol):
    """A listener that answers."""

    def compute(self, call: AttentionCall) -> Attended: ...
